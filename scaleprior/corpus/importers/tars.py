"""Importer for tar files whose labels are in a table: images stay in their tars and are read by offset.

Members and labels are joined by DuckDB in a file in the temporary folder, so neither has to fit into memory.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from scaleprior.corpus.duck import scratch_database
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables.names import match_names
from scaleprior.corpus.importers.tables.table import LabelTable
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.tar_files import tar_members
from scaleprior.errors import UserError

__all__ = ["tar_source"]

_BATCH_ROWS = 10_000


def tar_source(root: Path, tars: Sequence[Path], table: LabelTable, label_space: LabelSpace) -> Source:
    """Images inside ``tars`` (uncompressed, below ``root``) with the labels of a table; the key is the member's name.

    Members without a row in the table are not part of the source. Rows' names need not be members' to the
    letter, see ``tables.names``.

    Raises (while streaming):
        UserError: a row's image is in no tar, a name is in two tars, a tar is damaged.
    """
    notes = Notes()

    def rows() -> Iterator[ImageRow]:
        notes.clear()
        table.note(notes)
        with scratch_database("joining tars and labels") as connection:
            yield from _join(connection, root, tars, table, notes)

    facts = {"path": str(root), "labels": str(table.path), "tars": str(len(tars))}
    return Source("tars", root, label_space, rows, table.count(), facts, table.doubts, notes)


def _join(connection: Any, root: Path, tars: Sequence[Path], table: LabelTable, notes: Notes) -> Iterator[ImageRow]:
    connection.execute("CREATE TABLE members (shard VARCHAR, name VARCHAR, start BIGINT, size BIGINT)")
    unreadable: dict[str, str] = {}

    def left_out(kind: str, name: str) -> None:
        notes.warn(kind, name)
        if len(unreadable) < _BATCH_ROWS:
            unreadable[name] = kind

    for tar in tars:
        shard = tar.relative_to(root).as_posix()
        members = tar_members(tar, left_out=left_out)
        while batch := list(islice(members, _BATCH_ROWS)):
            names, offsets, sizes = (list(column) for column in zip(*batch))
            connection.register("batch", pa.table({"name": names, "start": offsets, "size": sizes}))
            connection.execute("INSERT INTO members SELECT ?, name, start, size FROM batch", [shard])
    connection.execute(f"CREATE VIEW labelled AS {table.sql}")
    match_names(connection, root, table, notes, place=f"no tar of {root}", unreadable=unreadable)
    _refuse_ambiguous(connection)
    _note_unlabelled(connection, notes)
    cursor = connection.execute(
        "SELECT name, labels, shard, start, size, absent FROM matched JOIN members USING (name) ORDER BY shard, start"
    )  # in the order of the bytes, so that verifying reads each tar once from front to back
    while batch := cursor.fetchmany(_BATCH_ROWS):
        for name, labels, shard, start, size, absent in batch:
            yield ImageRow(name, tuple(labels), shard, name, start, size, tuple(absent))


def _note_unlabelled(connection: Any, notes: Notes) -> None:
    without = "FROM members ANTI JOIN matched USING (name)"
    count, example = connection.execute(f"SELECT count(*), min(name) {without}").fetchone()
    if count:
        notes.warn("tar members that no row names (left out)", example, count=count)


def _refuse_ambiguous(connection: Any) -> None:
    twice = connection.execute(
        "SELECT name, list_sort(list(shard)) FROM members SEMI JOIN matched USING (name) "
        "GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 3"
    ).fetchall()
    if twice:
        shown = "; ".join(f"{name!r} in {', '.join(shards)}" for name, shards in twice)
        raise UserError(f"image name occurs more than once: {shown}", hint="give every image its own name")
