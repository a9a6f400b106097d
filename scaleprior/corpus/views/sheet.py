"""A sheet of sample images per label: the first in hash order, which is a random choice that repeats itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.corpus.images import decode
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.views.thumbnails import Thumbnail, thumbnail
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from scaleprior.corpus.fraction import Fraction
    from scaleprior.corpus.views.statistics import LabelCount

__all__ = ["Sample", "Strip", "draw_strips", "head_middle_tail"]

_SPARE = 4  # further places remembered for images that cannot be shown


@dataclass(frozen=True)
class Sample:
    """An image of a label: its key and what is shown of it."""

    key: str
    picture: Thumbnail


@dataclass(frozen=True)
class Strip:
    """A label's samples."""

    label: LabelCount
    samples: tuple[Sample, ...]


def head_middle_tail(length: int, each: int) -> dict[str, range]:
    """Places in a list ordered by frequency: its head, its middle and its tail, or ``{"all": ...}`` of a short list."""
    if length <= 3 * each:
        return {"all": range(length)}
    middle = (length - each) // 2
    return {"head": range(each), "middle": range(middle, middle + each), "tail": range(length - each, length)}


def draw_strips(fraction: Fraction, labels: Sequence[LabelCount], *, per_label: int) -> list[Strip]:
    """The first ``per_label`` images in hash order that have a label as given, for each of ``labels``.

    Images that cannot be read are passed over; a label may have fewer, or none.
    """
    reader = ByteReader(fraction.corpus.root)
    places = _places(fraction, [fraction.label_space.index(label.id) for label in labels], per_label + _SPARE)
    drawn: dict[tuple[str, int], Sample | None] = {}  # an image of several labels is decoded once
    strips = []
    for label, found in zip(labels, places):
        samples: list[Sample] = []
        for key, path, offset, size in found:
            if len(samples) == per_label:
                break
            if (path, offset) not in drawn:
                drawn[path, offset] = _drawn(reader, key, path, offset, size)
            sample = drawn[path, offset]
            if sample is not None:
                samples.append(sample)
        strips.append(Strip(label, tuple(samples)))
    return strips


def _places(fraction: Fraction, nodes: Sequence[int], wanted: int) -> list[list[tuple[str, str, int, int]]]:
    """(key, file, offset, bytes) of the first ``wanted`` images of each node; reads no further than it has to."""
    found: dict[int, list[tuple[str, str, int, int]]] = {node: [] for node in nodes}
    for batch in fraction.batches("key", "labels", "shard", "path", "offset", "size"):
        open_nodes = [node for node, places in found.items() if len(places) < wanted]
        if not open_nodes:
            break
        lists = batch.column("labels").combine_chunks()
        flat = lists.flatten().to_numpy(zero_copy_only=False)
        rows = np.repeat(np.arange(batch.num_rows), lists.value_lengths().to_numpy(zero_copy_only=False))
        for node in open_nodes:
            for row in rows[flat == node][: wanted - len(found[node])].tolist():
                key, shard, path, offset, size = (
                    batch.column(name)[row].as_py() for name in ("key", "shard", "path", "offset", "size")
                )
                found[node].append((key, shard or path, offset, size))
    return [found[node] for node in nodes]


def _drawn(reader: ByteReader, key: str, path: str, offset: int, size: int) -> Sample | None:
    try:
        return Sample(key, thumbnail(decode(reader.read(path, offset, size))))
    except UserError:
        return None
