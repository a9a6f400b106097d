"""A corpus in another tool's format: FiftyOne's, to look through it with its labels."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scaleprior._version import __version__
from scaleprior.corpus.fraction import Fraction, csr
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.views.fiftyone_folder import (
    FiftyOneFolder,
    classifications,
    fiftyone_folder,
    file_metadata,
    image_metadata,
)
from scaleprior.errors import UserError
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from scaleprior.corpus.label_space import LabelSpace

__all__ = ["FORMATS", "check_format", "export_fiftyone", "export_names"]

FORMATS = ("fiftyone",)
"""What corpora and detection sets can be exported to."""


class _Row(NamedTuple):
    key: str
    shard: str
    path: str
    offset: int
    size: int
    labels: np.ndarray
    closed: np.ndarray
    absent: np.ndarray


def export_fiftyone(
    fraction: Fraction,
    out: str | Path,
    *,
    copy: bool = False,
    overwrite: bool = False,
    progress: ProgressFn | None = None,
) -> int:
    """Write a folder that FiftyOne imports; returns the number of samples.

    Each sample has ``labels`` as given, ``with_ancestors`` where there is a hierarchy, ``absent`` where the index
    records what is verified to be absent, ``key``, its ``rank`` in hash order from 0, and ``fraction``, the smallest
    share of the corpus that holds it. Images inside tars are written into the folder; plain files stay where they are
    and are named by their full paths, unless ``copy``.

    Raises:
        UserError: ``out`` exists, or an image is not where the index says.
        FailureError: disk full.
    """
    corpus, space = fraction.corpus, fraction.label_space
    names = export_names(space.ids, space.names)
    fields = ["labels", *(["with_ancestors"] if any(space.parents) else [])]
    fields += ["absent"] if fraction.has_absent else []
    source = corpus.facts["source"]
    info = {
        "classes": {field: sorted(names) for field in fields},
        "description": f"{corpus.name}: {len(fraction)} of {len(corpus)} images, by ScalePrior {__version__}",
        "fingerprint": fraction.fingerprint,
        "salt": corpus.facts["salt"],
    }
    tags = [str(source["split"])] if source.get("split") else []
    reader = ByteReader(corpus.root)
    with fiftyone_folder(out, name=corpus.name, info=info, overwrite=overwrite) as folder:
        for rank, row in enumerate(_rows(fraction, space)):
            filepath, metadata = _media(folder, reader, row, copy)
            given = {"labels": row.labels, "with_ancestors": row.closed, "absent": row.absent}
            folder.add(
                {
                    "filepath": filepath,
                    "tags": tags,
                    "metadata": metadata,
                    **{field: classifications([_label(space, names, k) for k in given[field]]) for field in fields},
                    "key": row.key,
                    "rank": rank,
                    "fraction": (rank + 1) / len(corpus),
                }
            )
            if progress is not None and (rank % 64 == 63 or rank + 1 == len(fraction)):
                progress(rank + 1, len(fraction), {})
    return len(fraction)


def check_format(name: str) -> None:
    """Raise UserError unless ``name`` is one of :data:`FORMATS`."""
    if name not in FORMATS:
        raise UserError(f"{parameter('format')} is {name!r}", hint=f"take {', '.join(FORMATS)}")


def export_names(ids: Sequence[object], names: Sequence[str]) -> list[str]:
    """Names that tell labels apart: a name that several have is followed by the id."""
    times = Counter(names)
    return [name if times[name] == 1 else f"{name} ({node})" for node, name in zip(ids, names)]


def _label(space: LabelSpace, names: list[str], node: int) -> dict[str, Any]:
    return {"label": names[node], "label_id": space.ids[node]}


def _media(folder: FiftyOneFolder, reader: ByteReader, row: _Row, copy: bool) -> tuple[str, dict[str, Any] | None]:
    """Where FiftyOne finds the image, and its metadata."""
    file = row.shard or row.path
    if row.shard or copy:
        data = reader.read(file, row.offset, row.size)
        return folder.keep(row.key, data), image_metadata(data, row.size)
    path = os.path.abspath(os.path.join(reader.root, file))
    return path, file_metadata(path)


def _rows(fraction: Fraction, space: LabelSpace) -> Iterator[_Row]:
    columns = ["key", "shard", "path", "offset", "size", "labels", *(["absent"] if fraction.has_absent else [])]
    for batch in fraction.batches(*columns):
        labels, offsets = csr(batch, "labels")
        closed, closed_offsets = space.expand(labels, offsets)
        none = (np.zeros(0, dtype=np.int32), np.zeros(batch.num_rows + 1, dtype=np.int64))
        absent, absent_offsets = csr(batch, "absent") if fraction.has_absent else none
        plain = [batch.column(name).to_pylist() for name in columns[:5]]
        for row, (key, shard, path, offset, size) in enumerate(zip(*plain)):
            yield _Row(
                key,
                shard,
                path,
                offset,
                size,
                labels[offsets[row] : offsets[row + 1]],
                closed[closed_offsets[row] : closed_offsets[row + 1]],
                absent[absent_offsets[row] : absent_offsets[row + 1]],
            )
