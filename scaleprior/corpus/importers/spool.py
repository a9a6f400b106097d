"""Rows of a source whose labels are known only when all of it has been listed: kept on the disk meanwhile.

One pass over the archives finds rows and labels; the rows wait in a temporary Parquet file, about 40 bytes each, until
the label space is known and the index asks for them. What is doubtful about the labels so shows before any image is
decoded.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from scaleprior.corpus.importers.doubts import NO_CLASSES, Doubt, alike, mostly_unlabelled, nearly_one_each, one_label
from scaleprior.corpus.importers.source import Source
from scaleprior.corpus.index import ImageRow
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.notes import Notes
from scaleprior.errors import UserError
from scaleprior.wording import parameter, shown

__all__ = ["spooled_source"]

_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("labels", pa.list_(pa.string())),
        ("shard", pa.string()),
        ("path", pa.string()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
    ]
)
_BATCH_ROWS = 10_000
_MOST_LABELS = 1_000_000  # held in memory; more are captions, not labels


def spooled_source(
    kind: str,
    root: Path,
    rows: Iterable[ImageRow],
    *,
    label_space: LabelSpace | None,
    notes: Notes,
    facts: dict[str, str],
    doubts: tuple[Doubt, ...] = (),
) -> Source:
    """List ``rows`` to their end, and make a source of them.

    Args:
        label_space: what the labels mean; None makes a flat one of those that occur.
        notes: what ``rows`` writes to.
        doubts: found before; those about the labels follow them.

    Raises:
        UserError: as ``rows``; no rows; a label that is not in the label space; more than a million labels.
    """
    spool = _Spool(rows, where=str(root))
    if not spool.images:
        raise UserError(f"{facts.get('path', root)} holds no images", hint="check the folder and the filters")
    labels = sorted(spool.labels)
    if label_space is None and labels:
        doubts += one_label(labels, str(root), NO_CLASSES) + alike(labels, "labels")
        doubts += nearly_one_each(spool.labels, spool.images)
    doubts += mostly_unlabelled(spool.unlabelled, spool.images)
    if not labels:
        raise UserError(
            f"none of the {spool.images:,} images of {root} has a label",
            hint=f"pass {parameter('labels', words='TABLE')}, or {parameter('label_column')} to say where labels are",
        )
    space = label_space or LabelSpace.flat(labels)
    for label in labels:
        space.index(label)
    return Source(kind, root, space, spool.rows, spool.images, facts, doubts, notes)


class _Spool:
    """Rows in a file that goes when this does."""

    def __init__(self, rows: Iterable[ImageRow], *, where: str) -> None:
        self.images = self.unlabelled = 0
        self.labels = Counter[str]()
        self._folder = tempfile.TemporaryDirectory(prefix="scaleprior-")
        self._path = Path(self._folder.name) / "rows.parquet"
        stream = iter(rows)
        with pq.ParquetWriter(self._path, _SCHEMA, compression="zstd") as writer:
            while batch := list(islice(stream, _BATCH_ROWS)):
                self._count(batch, where)
                columns: dict[str, list[Any]] = {name: [getattr(row, name) for row in batch] for name in _SCHEMA.names}
                writer.write_batch(pa.record_batch(columns, schema=_SCHEMA))

    def _count(self, batch: list[ImageRow], where: str) -> None:
        self.images += len(batch)
        for row in batch:
            self.labels.update(row.labels)
            self.unlabelled += not row.labels
        if len(self.labels) > _MOST_LABELS:
            raise UserError(
                f"{where} has more than {_MOST_LABELS:,} different labels, such as {shown(batch[-1].labels[0])}",
                hint=f"those are captions or names of images; choose the labels with {parameter('label_column')}",
            )

    def rows(self) -> Iterator[ImageRow]:
        with pq.ParquetFile(self._path) as file:
            for batch in file.iter_batches(_BATCH_ROWS):
                for key, labels, *place in zip(*(column.to_pylist() for column in batch.columns)):
                    yield ImageRow(key, tuple(labels), *place)
