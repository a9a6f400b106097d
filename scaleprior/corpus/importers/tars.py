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
from scaleprior.corpus.shards import tar_members
from scaleprior.errors import FailureError, UserError
from scaleprior.wording import parameter

__all__ = ["tar_source"]

_BATCH_ROWS = 10_000


def tar_source(root: Path, tars: Sequence[Path], table: LabelTable, label_space: LabelSpace) -> Source:
    """Images inside ``tars`` (uncompressed, below ``root``) with the labels of a table; the key is the member's name.

    Members without a row in the table are not part of the source.

    Raises (while streaming):
        UserError: a row's image is in no tar, a name is in two tars, a tar is damaged.
    """

    def rows() -> Iterator[ImageRow]:
        with tempfile.TemporaryDirectory(prefix="scaleprior-") as folder:
            settings: dict[str, Any] = {"memory_limit": "1GB", "temp_directory": f"{folder}/spill"}
            with duckdb.connect(f"{folder}/members.duckdb", config=settings) as connection:
                try:
                    yield from _join(connection, root, tars, table)
                except duckdb.Error as e:
                    raise FailureError(f"joining tars and labels failed: {e}", hint="check the temporary folder") from e

    facts = {"path": str(root), "labels": str(table.path), "tars": str(len(tars))}
    return Source("tars", root, label_space, rows, table.count(), facts)


def _join(connection: Any, root: Path, tars: Sequence[Path], table: LabelTable) -> Iterator[ImageRow]:
    connection.execute("CREATE TABLE members (shard VARCHAR, name VARCHAR, start BIGINT, size BIGINT)")
    for tar in tars:
        shard = tar.relative_to(root).as_posix()
        members = tar_members(tar)
        while batch := list(islice(members, _BATCH_ROWS)):
            names, offsets, sizes = (list(column) for column in zip(*batch))
            connection.register("found", pa.table({"name": names, "start": offsets, "size": sizes}))
            connection.execute("INSERT INTO members SELECT ?, name, start, size FROM found", [shard])
    connection.execute(f"CREATE TABLE labelled AS {table.sql}")
    _refuse_missing(connection, table, root)
    _refuse_ambiguous(connection)
    cursor = connection.execute(
        "SELECT name, labels, shard, start, size FROM labelled JOIN members ON file = name ORDER BY shard, start"
    )  # in the order of the bytes, so that verifying reads each tar once from front to back
    while batch := cursor.fetchmany(_BATCH_ROWS):
        for name, labels, shard, start, size in batch:
            yield ImageRow(name, tuple(labels), shard, name, start, size)


def _refuse_missing(connection: Any, table: LabelTable, root: Path) -> None:
    missing = "FROM labelled ANTI JOIN members ON file = name"
    count = connection.execute(f"SELECT count(*) {missing}").fetchone()[0]
    if count:
        names = [row[0] for row in connection.execute(f"SELECT file {missing} ORDER BY file LIMIT 3").fetchall()]
        example = connection.execute("SELECT name FROM members LIMIT 1").fetchone()
        inside = f"; members there are called like {example[0]!r}" if example else ""
        raise UserError(
            f"{table.path} names {count} images that are in no tar of {root}, such as {', '.join(map(repr, names))}"
            f"{inside}",
            hint=f"add the tar, correct the names, or select rows with {parameter('split')}",
        )


def _refuse_ambiguous(connection: Any) -> None:
    twice = connection.execute(
        "SELECT name, list_sort(list(shard)) FROM members SEMI JOIN labelled ON file = name "
        "GROUP BY name HAVING count(*) > 1 ORDER BY name LIMIT 3"
    ).fetchall()
    if twice:
        shown = "; ".join(f"{name!r} in {', '.join(shards)}" for name, shards in twice)
        raise UserError(f"image name occurs more than once: {shown}", hint="give every image its own name")
