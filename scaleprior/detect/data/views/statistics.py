"""What a detection set holds: boxes per image and class, their sizes and shapes, image sizes, formats.

B boxes that are no crowds, N images. Small, medium and large are COCO's: an area (the annotation's, in pixels)
below 32 x 32, below 96 x 96, and from there on. COCO's evaluation counts an area of exactly 1024 or 9216 on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.corpus.hashing import hash64
from scaleprior.corpus.views.header_sample import HeaderSample, ImageReader, read_sample
from scaleprior.corpus.views.long_tail import LongTail, measure_tail
from scaleprior.corpus.views.statistics import MANY
from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.coco_format import CocoCategory, CocoId, CocoTruth
from scaleprior.errors import UserError
from scaleprior.pages.numbers import decimal, share, some
from scaleprior.progress import ProgressFn, watched
from scaleprior.wording import parameter

__all__ = ["AREAS", "ClassCount", "DetectionStatistics", "detection_statistics", "hash_order", "truth_statistics"]

AREAS: Mapping[str, tuple[float, float]] = {
    "small": (-float("inf"), 32.0**2),
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
        headers: formats and sizes, of all images or of a sample; None if none was asked for.
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

        context = {"stats": self, "shown": self.classes[:20]}
        return render("scaleprior.detect.data.views", "notebook.html.jinja", context)

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
        if used >= MANY:
            said.append(
                f"The most frequent tenth of the classes has {share(self.tail.top[0.1])} of all boxes; the spread is "
                f"that of {decimal(self.tail.effective)} equally frequent classes (Gini {self.tail.gini:.2f})."
            )
        elif self.boxes:
            most, least = self.classes[0], self.classes[used - 1]
            said.append(f"Boxes a class: {least.boxes:,} ({least.name}) to {most.boxes:,} ({most.name}).")
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
    return truth_statistics(data.name, data.truth, headers)


def truth_statistics(name: str, truth: CocoTruth, headers: HeaderSample | None = None) -> DetectionStatistics:
    """The statistics of a checked instances file alone; :func:`detection_statistics` knows the images, too."""
    images, annotations, categories = truth["images"], truth["annotations"], truth["categories"]
    image_place = {image["id"]: number for number, image in enumerate(images)}
    class_place = {category["id"]: number for number, category in enumerate(categories)}
    crowd = np.array([a["iscrowd"] == 1 for a in annotations], dtype=bool)
    classes = np.array([class_place[a["category_id"]] for a in annotations], dtype=np.int64)
    objects = [a for a in annotations if a["iscrowd"] != 1]
    at = np.array([image_place[a["image_id"]] for a in objects], dtype=np.int64)
    boxes = np.array([a["bbox"] for a in objects], dtype=np.float64).reshape(-1, 4)
    areas = np.array([a["area"] for a in objects], dtype=np.float64)
    sizes = np.array([(image["width"], image["height"]) for image in images], dtype=np.int64).reshape(-1, 2)
    over = boxes[:, :2] + boxes[:, 2:] - sizes[at]
    counted = _classes(categories, classes[~crowd], at, areas, np.bincount(classes[crowd], minlength=len(categories)))
    return DetectionStatistics(
        name=name,
        images=len(images),
        classes=counted,
        per_image=np.bincount(np.bincount(at, minlength=len(images)), minlength=1),
        box_sizes=boxes[:, 2:].astype(np.float32),
        areas=areas,
        outside=int(((boxes[:, :2] < -1) | (over > 1)).any(axis=1).sum()),
        image_sizes=sizes,
        tail=measure_tail(np.array([one.boxes for one in counted], dtype=np.int64)),
        headers=headers,
    )


def hash_order(names: Sequence[str]) -> np.ndarray:
    """Places of ``names`` in the order of their hashes: a random order that is the same everywhere."""
    whole = (
        name.encode("utf-8", "backslashreplace").decode("utf-8") for name in names
    )  # JSON may say half a character
    return np.argsort(hash64(whole), kind="stable")


def _readers(data: DetectionSet) -> Iterator[ImageReader]:
    names = [record.file_name for record in data.records]
    return (_reading(data, names[k]) for k in hash_order(names).tolist())


def _reading(data: DetectionSet, name: str) -> ImageReader:
    return lambda limit: data.root.read(name)[:limit]


def _classes(
    categories: Sequence[CocoCategory], classes: np.ndarray, at: np.ndarray, areas: np.ndarray, crowds: np.ndarray
) -> tuple[ClassCount, ...]:
    """Counts of each class, the one with most boxes first; equals in the order of the categories.

    Args:
        classes, at, areas: class, image and area of each of the B boxes.
        crowds: of each class.
    """
    number = len(categories)
    pairs = np.unique(at * number + classes)  # images that have a class, each once
    images, boxes = np.bincount(pairs % number, minlength=number), np.bincount(classes, minlength=number)
    by_size = {
        size: np.bincount(classes[(areas >= low) & (areas < high)], minlength=number)
        for size, (low, high) in AREAS.items()
    }
    return tuple(
        ClassCount(
            id=categories[k]["id"],
            name=categories[k]["name"],
            images=int(images[k]),
            boxes=int(boxes[k]),
            crowds=int(crowds[k]),
            **{size: int(of_size[k]) for size, of_size in by_size.items()},
        )
        for k in np.argsort(-boxes, kind="stable").tolist()
    )


def _spread(values: np.ndarray) -> dict[str, float]:
    """Smallest, median and largest; empty of nothing."""
    if not len(values):
        return {}
    return {"min": float(values.min()), "median": float(np.median(values)), "max": float(values.max())}
