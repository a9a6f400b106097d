"""Importer for plain image files whose labels are in a table."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from scaleprior.corpus.duck import scratch_database
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables.names import match_names
from scaleprior.corpus.importers.tables.table import LabelTable
from scaleprior.corpus.importers.walk import ImageFile, hidden, is_folder, walk_images
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.magic import IMAGE_LIKE
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = ["file_source", "images_below"]

_BATCH_ROWS = 10_000


def file_source(root: Path, table: LabelTable, label_space: LabelSpace) -> Source:
    """Plain image files below ``root`` with the labels of a table.

    The folder is listed only if a name of the table is no file's, see ``names``.

    Raises (while streaming):
        UserError: a row's file is missing or could be several, or its path is absolute.
    """
    notes = Notes()

    def rows() -> Iterator[ImageRow]:
        notes.clear()
        table.note(notes)
        with scratch_database("joining files and labels") as connection:
            yield from _rows(connection, root, table, notes)

    facts = {"path": str(root), "labels": str(table.path)}
    return Source("files", root, label_space, rows, table.count(), facts, table.doubts, notes)


def _rows(connection: Any, root: Path, table: LabelTable, notes: Notes) -> Iterator[ImageRow]:
    connection.execute("CREATE TABLE members (name VARCHAR, size BIGINT)")
    if not _add_named(connection, root, table):  # some name is no file's: what is there?
        others = images_below(root)
        while batch := list(islice(others, _BATCH_ROWS)):
            _insert(connection, [image.path for image in batch], [image.size for image in batch])
    connection.execute(f"CREATE VIEW labelled AS {table.sql}")
    match_names(connection, root, table, notes, place=f"no folder of {root}")
    cursor = connection.execute(
        "SELECT name, labels, absent, size FROM matched JOIN (SELECT DISTINCT name, size FROM members) USING (name)"
    )
    while batch := cursor.fetchmany(_BATCH_ROWS):
        for name, labels, absent, size in batch:
            yield ImageRow(name, tuple(labels), "", name, 0, size, tuple(absent))


def _add_named(connection: Any, root: Path, table: LabelTable) -> bool:
    """Add the files that the table names to ``members``; whether it names nothing else."""
    all_there = True
    files = table.files()
    while batch := list(islice(files, _BATCH_ROWS)):
        for file in batch:
            if file.startswith("/"):
                raise UserError(
                    f"{table.path}: path {shown(file)} is not relative", hint=f"make paths relative to {root}"
                )
        sizes = [_size(root / file) for file in batch]
        there = [(file, size) for file, size in zip(batch, sizes) if size is not None]
        _insert(connection, [file for file, _ in there], [size for _, size in there])
        all_there = all_there and len(there) == len(batch)
    return all_there


def images_below(root: Path) -> Iterator[ImageFile]:
    """All images below ``root``; links are followed."""
    ignored = Notes()
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        if hidden(entry.name):
            continue
        if is_folder(entry):
            for image in walk_images(root, entry.name, ignored, places={}, readable=False):
                if _is_utf8(image.path):
                    yield image
        elif os.path.splitext(entry.name)[1].lower() in IMAGE_LIKE and _is_utf8(entry.name):
            size = _size(root / entry.name)
            if size is not None:
                yield ImageFile(entry.name, size)


def _is_utf8(name: str) -> bool:
    """A name that is not cannot stand in a table, so no row means it."""
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _size(path: Path) -> int | None:
    """Bytes of a file; None where there is none."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):  # also a name that is too long, or holds a zero
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _insert(connection: Any, names: list[str], sizes: list[int]) -> None:
    batch = pa.table({"name": pa.array(names, pa.string()), "size": pa.array(sizes, pa.int64())})
    connection.register("batch", batch)
    connection.execute("INSERT INTO members SELECT * FROM batch")
    connection.unregister("batch")
