"""What a detection set holds: boxes per image and class, their sizes and shapes, image sizes, formats.

B boxes that are no crowds, N images. Small, medium and large are COCO's: an area (the annotation's, in pixels)
below 32 x 32, below 96 x 96, and from there on. COCO's evaluation counts an area of exactly 1024 or 9216 on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.header_sample import HeaderSample, read_sample
from scaleprior.corpus.long_tail import LongTail, measure_tail
from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.errors import UserError
from scaleprior.pages.numbers import decimal, share, some
from scaleprior.progress import ProgressFn, watched
from scaleprior.wording import parameter

__all__ = ["AREAS", "ClassCount", "DetectionStatistics", "detection_statistics", "hash_order"]

AREAS: Mapping[str, tuple[float, float]] = {
    "small": (0.0, 32.0**2),
    "medium": (32.0**2, 96.0**2),
    "large": (96.0**2, float("inf")),
}
"""COCO's three sizes: lower end, and upper end that is not of it, in pixels."""


@dataclass(frozen=True)
class ClassCount:
    """A class and its objects.

    Attributes:
        id, name: of the category.
        images: with at least one of its boxes.
        boxes: that are no crowds; ``small`` + ``medium`` + ``large``.
        crowds: annotations with ``iscrowd`` 1.
    """

    id: CocoId
    name: str
    images: int
    boxes: int
    small: int
    medium: int
    large: int
    crowds: int


@dataclass(frozen=True, eq=False, repr=False)
class DetectionStatistics:
    """What a detection set holds.

    Attributes:
        name: of the set.
        images: N.
        classes: the most frequent first.
        per_image: int64 [L], images by their number of boxes, 0 to L - 1.
        box_sizes: float32 [B, 2], width and height in pixels.
        areas: float64 [B], as annotated.
        outside: boxes that reach more than a pixel beyond their image.
        image_sizes: int64 [N, 2], width and height as the annotations say.
        tail: of the boxes per class.
        headers: formats and stored sizes, of all images or of a sample; None if none was asked for.
    """

    name: str
    images: int
    classes: tuple[ClassCount, ...]
    per_image: np.ndarray
    box_sizes: np.ndarray
    areas: np.ndarray
    outside: int
    image_sizes: np.ndarray
    tail: LongTail
    headers: HeaderSample | None

    def __repr__(self) -> str:
        return f"DetectionStatistics({self.name!r}, {self.images} images, {self.boxes} boxes)"

    def _repr_html_(self) -> str:
        from scaleprior.pages.environment import render

        return render("scaleprior.detect.data", "notebook.html.jinja", {"stats": self, "shown": self.classes[:20]})

    @property
    def boxes(self) -> int:
        """B."""
        return len(self.areas)

    @property
    def crowds(self) -> int:
        """Annotations with ``iscrowd`` 1."""
        return sum(one.crowds for one in self.classes)

    @property
    def empty(self) -> int:
        """Images without a box."""
        return int(self.per_image[0])

    @property
    def by_size(self) -> dict[str, int]:
        """Boxes that are small, medium and large."""
        return {size: sum(getattr(one, size) for one in self.classes) for size in AREAS}

    def sentences(self) -> list[str]:
        """What the numbers say, in words."""
        used = sum(one.boxes > 0 for one in self.classes)
        said = [
            f"{some(self.images, 'image')} with {some(self.boxes, 'box', 'boxes')} of "
            f"{some(used, 'class', 'classes')}, {decimal(self.boxes / max(self.images, 1))} an image in the mean, "
            f"{len(self.per_image) - 1:,} at most."
        ]
        if self.boxes:
            shares = ", ".join(f"{share(n / self.boxes)} {size}" for size, n in self.by_size.items())
            said.append(f"By COCO's sizes, {shares}.")
            said.append(
                f"The most frequent tenth of the classes has {share(self.tail.top[0.1])} of all boxes; the spread is "
                f"that of {decimal(self.tail.effective)} equally frequent classes (Gini {self.tail.gini:.2f})."
            )
        unused = [one.name for one in self.classes if not one.boxes]
        if unused:
            more = f" and {len(unused) - 5} more" if len(unused) > 5 else ""
            said.append(f"Without a box: {some(len(unused), 'class', 'classes')} ({', '.join(unused[:5])}{more}).")
        if self.empty:
            said.append(f"Without a box: {some(self.empty, 'image')} ({share(self.empty / self.images)}).")
        if self.crowds:
            said.append(f"Crowds, which are in no figure of boxes: {some(self.crowds, 'annotation')}.")
        if self.outside:
            said.append(f"Beyond their image by more than a pixel: {some(self.outside, 'box', 'boxes')}.")
        return said

    def to_dict(self) -> dict[str, Any]:
        """For JSON: every class, all figures."""
        return {
            "images": self.images,
            "boxes": self.boxes,
            "crowds": self.crowds,
            "images_without_boxes": self.empty,
            "boxes_outside": self.outside,
            "sizes": self.by_size,
            "boxes_per_image": self.per_image.tolist(),
            "box_width": _spread(self.box_sizes[:, 0]),
            "box_height": _spread(self.box_sizes[:, 1]),
            "aspect_ratio": _spread(self.box_sizes[:, 0] / self.box_sizes[:, 1]),
            "image_width": _spread(self.image_sizes[:, 0]),
            "image_height": _spread(self.image_sizes[:, 1]),
            "tail": self.tail.to_dict(),
            "classes": [dict(vars(one)) for one in self.classes],
            "headers": None if self.headers is None else self.headers.to_dict(),
        }


def detection_statistics(
    data: DetectionSet,
    *,
    sample: int | None = 1000,
    headers: HeaderSample | None = None,
    progress: ProgressFn | bool | None = False,
) -> DetectionStatistics:
    """Count what ``data`` holds.

    Args:
        sample: read the headers of the first ``sample`` images in the hash order of their names, a random sample; None:
            of all images; 0: of none.
        headers: of who has read them already; nothing is read then.
        progress: True for a bar on the terminal; or a function that is called with (headers read, in all, {}).

    Raises:
        UserError: a negative sample. Images that cannot be read are counted.
    """
    if sample is not None and sample < 0:
        raise UserError(f"{parameter('sample')} is {sample}", hint="give a number of images, or 0 for none")
    asked = len(data) if sample is None else min(sample, len(data))
    if headers is None and asked:
        with watched(progress, "reading headers", unit="images") as report:
            headers = read_sample(_readers(data), asked, len(data), progress=report)
    place = {category: number for number, category in enumerate(data.category_ids)}
    annotations = data.truth["annotations"]
    classes = np.array([place[a["category_id"]] for a in annotations], dtype=np.int64)
    crowd = np.array([a["iscrowd"] == 1 for a in annotations], dtype=bool)
    areas = np.array([a["area"] for a in annotations], dtype=np.float64)
    boxes = np.array([a["bbox"] for a in annotations], dtype=np.float64).reshape(-1, 4)
    objects = [int((~record.crowd).sum()) for record in data.records]
    counted = _classes(data, classes, crowd, areas)
    return DetectionStatistics(
        name=data.name,
        images=len(data),
        classes=counted,
        per_image=np.bincount(objects, minlength=1),
        box_sizes=boxes[~crowd, 2:].astype(np.float32),
        areas=areas[~crowd],
        outside=sum(_outside(record.boxes[~record.crowd], record.width, record.height) for record in data.records),
        image_sizes=np.array([(record.width, record.height) for record in data.records], dtype=np.int64).reshape(-1, 2),
        tail=measure_tail(np.array([one.boxes for one in counted], dtype=np.int64)),
        headers=headers,
    )


def hash_order(names: Sequence[str]) -> np.ndarray:
    """Places of ``names`` in the order of their hashes: a random order that is the same everywhere."""
    whole = (
        name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names
    )  # JSON may say half a character
    return np.argsort(hash64(whole), kind="stable")


def _readers(data: DetectionSet) -> Iterator[Callable[[], bytes]]:
    names = [record.file_name for record in data.records]
    return (_reading(data, names[k]) for k in hash_order(names).tolist())


def _reading(data: DetectionSet, name: str) -> Callable[[], bytes]:
    return lambda: data.root.read(name)


def _classes(data: DetectionSet, classes: np.ndarray, crowd: np.ndarray, areas: np.ndarray) -> tuple[ClassCount, ...]:
    """Counts of each class, the one with most boxes first; equals in the order of the categories."""
    number = len(data.class_names)

    def counts(chosen: np.ndarray) -> np.ndarray:
        return np.bincount(classes[chosen], minlength=number)

    images = np.zeros(number, dtype=np.int64)
    for record in data.records:
        images[np.unique(record.classes[~record.crowd])] += 1
    boxes, crowds = counts(~crowd), counts(crowd)
    by_size = {size: counts(~crowd & (areas >= low) & (areas < high)) for size, (low, high) in AREAS.items()}
    return tuple(
        ClassCount(
            id=data.category_ids[k],
            name=data.class_names[k],
            images=int(images[k]),
            boxes=int(boxes[k]),
            crowds=int(crowds[k]),
            **{size: int(of_size[k]) for size, of_size in by_size.items()},
        )
        for k in np.argsort(-boxes, kind="stable").tolist()
    )


def _outside(boxes: np.ndarray, width: int, height: int) -> int:
    return int(((boxes[:, :2] < -1).any(axis=1) | (boxes[:, 2] > width + 1) | (boxes[:, 3] > height + 1)).sum())


def _spread(values: np.ndarray) -> dict[str, float]:
    """Smallest, median and largest; empty of nothing."""
    if not len(values):
        return {}
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
