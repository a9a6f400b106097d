"""What a corpus holds: labels with their images, the long tail, what the hierarchy adds, bytes, formats and sizes.

One pass over the index, a row group at a time, so memory grows with the label space and not with the images; then the
headers of a sample of images. C is the number of nodes of the label space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleprior.corpus.fraction import Fraction, csr
from scaleprior.corpus.shards import ByteReader
from scaleprior.corpus.views.header_sample import HeaderSample, ImageReader, read_sample
from scaleprior.corpus.views.long_tail import LongTail, measure_tail
from scaleprior.errors import UserError
from scaleprior.pages.numbers import count, decimal, share, size, some
from scaleprior.progress import ProgressFn
from scaleprior.wording import parameter, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["MANY", "SAMPLE", "CorpusStatistics", "LabelCount", "corpus_statistics", "image_readers"]

SAMPLE = 1000
"""Images whose headers are read unless told otherwise: shares are then known to 3 points (two standard errors)."""

MANY = 10
"""Labels or classes that have a tail worth speaking of."""


@dataclass(frozen=True)
class LabelCount:
    """A label and its images.

    Attributes:
        id, name: of the label space; equal where there are no names.
        images: that have the label as given.
        closed: that have it, or a label below it in the hierarchy.
        absent: in which it is verified not to be, as given.
    """

    id: str
    name: str
    images: int
    closed: int
    absent: int = 0


@dataclass(frozen=True, eq=False, repr=False)
class CorpusStatistics:
    """What a corpus, or a fraction of one, holds.

    Attributes:
        name: the corpus' name.
        images: N.
        labels: all C of the label space, the most frequent first.
        per_image: int64 [L], images by their number of labels as given, 0 to L - 1.
        closed_per_image: the same with all ancestors.
        tail: of the images per label, as given.
        bytes_total, bytes_min, bytes_max: of the encoded images, from the index.
        headers: formats and sizes, of all images or of a sample; None if none was asked for.
        has_absent: the index records labels that are verified to be absent.
    """

    name: str
    images: int
    labels: tuple[LabelCount, ...]
    per_image: np.ndarray
    closed_per_image: np.ndarray
    tail: LongTail
    bytes_total: int
    bytes_min: int
    bytes_max: int
    headers: HeaderSample | None
    has_absent: bool

    def __repr__(self) -> str:
        return f"CorpusStatistics({self.name!r}, {self.images} images, {self.tail.labels} of {len(self.labels)} labels)"

    def _repr_html_(self) -> str:
        from scaleprior.pages.environment import render

        given = self.given
        shown = given if len(given) <= 20 else (*given[:10], *given[-10:])
        context = {"stats": self, "shown": shown, "left_out": len(given) - len(shown)}
        return render("scaleprior.corpus.views", "notebook.html.jinja", context)

    @property
    def mean_labels(self) -> float:
        """Labels an image as given."""
        return _mean(self.per_image)

    @property
    def mean_closed(self) -> float:
        """Labels an image with all ancestors."""
        return _mean(self.closed_per_image)

    @property
    def unlabelled(self) -> int:
        """Images without a label."""
        return int(self.per_image[0])

    @property
    def given(self) -> tuple[LabelCount, ...]:
        """The labels that images have as given, the most frequent first."""
        return self.labels[: self.tail.labels]

    @property
    def unused(self) -> tuple[LabelCount, ...]:
        """Labels that no image has, not even by one below them."""
        return tuple(label for label in self.labels if not label.closed)

    def sentences(self) -> list[str]:
        """What the numbers say, in words."""
        tail = self.tail
        said = [
            f"{some(self.images, 'image')}; labels an image: {decimal(self.mean_labels)} in the mean"
            + (f", {decimal(self.mean_closed)} with all ancestors" if self.mean_closed > self.mean_labels else "")
            + f"; images have {count(tail.labels)} of the {some(len(self.labels), 'label')}."
        ]
        if tail.labels >= MANY:
            said.append(
                f"The most frequent tenth of the labels holds {share(tail.top[0.1])} of all pairs of image and label, "
                f"the most frequent half {share(tail.top[0.5])}; the spread is that of {decimal(tail.effective)} "
                f"equally frequent labels (Gini {tail.gini:.2f})."
            )
            few = [
                f"with fewer than {images} images: {count(labels)} ({share(labels / tail.labels)})"
                for images, labels in tail.below.items()
                if labels
            ]
            said += [f"Labels {', '.join(few)}."] if few else []
        elif tail.labels:
            most, least = self.given[0], self.given[-1]
            low, high = (f"{count(label.images)} ({printable(label.name)})" for label in (least, most))
            said.append(f"Images a label: {low} to {high}.")
        if self.unlabelled:
            said.append(f"Without a label: {some(self.unlabelled, 'image')} ({share(self.unlabelled / self.images)}).")
        if self.unused:
            said.append(f"Without an image, also by a label below it: {some(len(self.unused), 'label')}.")
        if self.has_absent:
            absent = sum(label.absent for label in self.labels)
            said.append(f"Verified to be absent from an image: {some(absent, 'label')}; what is not listed is unknown.")
        said.append(f"{size(self.bytes_total)} of images, {size(self.bytes_total / self.images)} each in the mean.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every label, all figures."""
        return {
            "labels": [
                {"id": label.id, "name": label.name, "images": label.images, "with_descendants": label.closed}
                | ({"absent": label.absent} if self.has_absent else {})
                for label in self.labels
            ],
            "tail": self.tail.to_dict(),
            "labels_per_image": {
                "given": {"mean": self.mean_labels, "images": self.per_image.tolist()},
                "with_ancestors": {"mean": self.mean_closed, "images": self.closed_per_image.tolist()},
            },
            "images_without_labels": self.unlabelled,
            "labels_without_images": len(self.unused),
            "bytes": {"total": self.bytes_total, "min": self.bytes_min, "max": self.bytes_max},
            "headers": None if self.headers is None else self.headers.to_dict(),
        }


def corpus_statistics(
    fraction: Fraction, *, sample: int | None = SAMPLE, progress: ProgressFn | None = None
) -> CorpusStatistics:
    """Count what ``fraction`` holds.

    Args:
        sample: read the headers of the first ``sample`` images of the hash order, a random sample; None: of all images;
            0: of none.
        progress: called with (headers read, headers in all, {}).

    Raises:
        UserError: a negative sample, or an index that cannot be read. Images that are not there are counted.
    """
    if sample is not None and sample < 0:
        raise UserError(f"{parameter('sample')} is {sample}", hint="give a number of images, or 0 for none")
    space = fraction.label_space
    counts = _Counts(len(space))
    for batch in fraction.batches("labels", "size", *(["absent"] if fraction.has_absent else [])):
        counts.add(batch, space.expand)
    asked = len(fraction) if sample is None else min(sample, len(fraction))
    order = np.lexsort((np.arange(len(space)), -counts.closed, -counts.images))
    return CorpusStatistics(
        name=fraction.corpus.name,
        images=len(fraction),
        labels=tuple(
            LabelCount(
                space.ids[k], space.names[k], int(counts.images[k]), int(counts.closed[k]), int(counts.absent[k])
            )
            for k in order
        ),
        per_image=counts.per_image,
        closed_per_image=counts.closed_per_image,
        tail=measure_tail(counts.images),
        bytes_total=counts.bytes_total,
        bytes_min=counts.bytes_min,
        bytes_max=counts.bytes_max,
        headers=read_sample(image_readers(fraction), asked, len(fraction), progress=progress) if asked else None,
        has_absent=fraction.has_absent,
    )


def image_readers(fraction: Fraction) -> Iterator[ImageReader]:
    """A reader for each image, in hash order; the locations are read a row group at a time."""
    reader = ByteReader(fraction.corpus.root)
    for batch in fraction.batches("shard", "path", "offset", "size"):
        columns = (batch.column(name).to_pylist() for name in ("shard", "path", "offset", "size"))
        for shard, path, offset, length in zip(*columns):
            yield _reading(reader, shard or path, offset, length)


def _reading(reader: ByteReader, path: str, offset: int, length: int) -> ImageReader:
    return lambda limit: reader.read(path, offset, length if limit is None else min(limit, length))


class _Counts:
    """What one pass over the rows adds up."""

    def __init__(self, nodes: int) -> None:
        self.images, self.closed, self.absent = (np.zeros(nodes, dtype=np.int64) for _ in range(3))
        self.per_image = self.closed_per_image = np.zeros(1, dtype=np.int64)
        self.bytes_total = self.bytes_max = 0
        self.bytes_min = 1 << 62

    def add(self, batch: pa.Table, expand: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]) -> None:
        nodes = len(self.images)
        labels, offsets = csr(batch, "labels")
        closed, closed_offsets = expand(labels, offsets)
        self.images += np.bincount(labels, minlength=nodes)
        self.closed += np.bincount(closed, minlength=nodes)
        if "absent" in batch.column_names:
            self.absent += np.bincount(csr(batch, "absent")[0], minlength=nodes)
        self.per_image = _added(self.per_image, np.bincount(np.diff(offsets)))
        self.closed_per_image = _added(self.closed_per_image, np.bincount(np.diff(closed_offsets)))
        sizes = batch.column("size").to_numpy()
        self.bytes_total += int(sizes.sum())
        self.bytes_min, self.bytes_max = min(self.bytes_min, int(sizes.min())), max(self.bytes_max, int(sizes.max()))


def _added(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


def _mean(histogram: np.ndarray) -> float:
    return float(np.arange(len(histogram)) @ histogram) / max(int(histogram.sum()), 1)
