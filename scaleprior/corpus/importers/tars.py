"""Importer for tar files whose labels are in a table: images stay in their tars and are read by offset.

Members and labels are joined by DuckDB in a file in the temporary folder, so neither has to fit into memory.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.importers.tables import LabelTable
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.names import difference
from scaleprior.corpus.notes import Notes
from scaleprior.corpus.tar_files import tar_members
from scaleprior.errors import FailureError, UserError
from scaleprior.wording import parameter, shown

__all__ = ["tar_source"]

_BATCH_ROWS = 10_000
_MISSING = "FROM labelled ANTI JOIN members ON file = name"
_PLAIN = r"nfc_normalize(regexp_replace(replace({0}, '\', '/'), '^\./', ''))"  # names.plain in DuckDB's words


def tar_source(root: Path, tars: Sequence[Path], table: LabelTable, label_space: LabelSpace) -> Source:
    """Images inside ``tars`` (uncompressed, below ``root``) with the labels of a table; the key is the member's name.

    Members without a row in the table are not part of the source. A row's name that differs from a member's in
    back-slashes or Unicode normalisation means that member, if no other has such a name.

    Raises (while streaming):
        UserError: a row's image is in no tar, a name is in two tars, a tar is damaged.
    """
    notes = Notes()

    def rows() -> Iterator[ImageRow]:
        notes.clear()
        with tempfile.TemporaryDirectory(prefix="scaleprior-") as folder:
            settings: dict[str, Any] = {"memory_limit": "1GB", "temp_directory": f"{folder}/spill"}
            with duckdb.connect(f"{folder}/members.duckdb", config=settings) as connection:
                try:
                    yield from _join(connection, root, tars, table, notes)
                except duckdb.Error as e:
                    raise FailureError(f"joining tars and labels failed: {e}", hint="check the temporary folder") from e

    facts = {"path": str(root), "labels": str(table.path), "tars": str(len(tars))}
    return Source("tars", root, label_space, rows, table.count(), facts, notes=notes)


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
            connection.register("found", pa.table({"name": names, "start": offsets, "size": sizes}))
            connection.execute("INSERT INTO members SELECT ?, name, start, size FROM found", [shard])
    connection.execute(f"CREATE TABLE labelled AS {table.sql}")
    _match_spellings(connection, notes)
    _refuse_missing(connection, table, root, unreadable)
    _refuse_ambiguous(connection)
    _note_unlabelled(connection, notes)
    cursor = connection.execute(
        "SELECT name, labels, shard, start, size FROM labelled JOIN members ON file = name ORDER BY shard, start"
    )  # in the order of the bytes, so that verifying reads each tar once from front to back
    while batch := cursor.fetchmany(_BATCH_ROWS):
        for name, labels, shard, start, size in batch:
            yield ImageRow(name, tuple(labels), shard, name, start, size)


def _match_spellings(connection: Any, notes: Notes) -> None:
    """Give rows that name no member the name of the one member that they spell otherwise."""
    if not connection.execute(f"SELECT count(*) {_MISSING}").fetchone()[0]:
        return
    connection.execute(
        f"CREATE TEMP TABLE spelled AS SELECT file, member FROM (SELECT DISTINCT file {_MISSING}) AS missing JOIN ("
        f"SELECT {_PLAIN.format('name')} AS plain, any_value(name) AS member FROM members "
        f"GROUP BY plain HAVING count(DISTINCT name) = 1) AS plain ON {_PLAIN.format('file')} = plain"
    )
    pairs = connection.execute("SELECT file, member FROM spelled ORDER BY file")
    while batch := pairs.fetchmany(_BATCH_ROWS):
        for file, member in batch:
            notes.warn(f"{difference(file, member)} (matched)", file)
    connection.execute("UPDATE labelled SET file = member FROM spelled WHERE labelled.file = spelled.file")


def _refuse_missing(connection: Any, table: LabelTable, root: Path, unreadable: dict[str, str]) -> None:
    count = connection.execute(f"SELECT count(*) {_MISSING}").fetchone()[0]
    if not count:
        return
    names = [row[0] for row in connection.execute(f"SELECT file {_MISSING} ORDER BY file LIMIT 3").fetchall()]
    known = next((f"{unreadable[name]}: {name!r}" for name in names if name in unreadable), "")
    other = connection.execute(
        f"SELECT name FROM members WHERE lower({_PLAIN.format('name')}) = lower({_PLAIN.format('?')}) LIMIT 1",
        names[:1],
    ).fetchone()
    example = other or connection.execute("SELECT name FROM members LIMIT 1").fetchone()
    inside = f"; members there are called like {example[0]!r}" if example else ""
    if other:
        inside = f"; there is {other[0]!r} ({difference(names[0], other[0])})"
    if known:
        inside = f"; there are {known}"
    raise UserError(
        f"{table.path} names {count} images that are in no tar of {root}, such as "
        f"{', '.join(map(shown, names))}{inside}",
        hint=f"add the tar, correct the names, or select rows with {parameter('split')}",
    )


def _note_unlabelled(connection: Any, notes: Notes) -> None:
    without = "FROM members ANTI JOIN labelled ON file = name"
    count, example = connection.execute(f"SELECT count(*), min(name) {without}").fetchone()
    if count:
        notes.warn("tar members that no row names (left out)", example, count=count)


def _refuse_ambiguous(connection: Any) -> None:
    twice = connection.execute(
        "SELECT name, list_sort(list(shard)) FROM members SEMI JOIN labelled ON file = name "
        "GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 3"
    ).fetchall()
    if twice:
        shown = "; ".join(f"{name!r} in {', '.join(shards)}" for name, shards in twice)
        raise UserError(f"image name occurs more than once: {shown}", hint="give every image its own name")
