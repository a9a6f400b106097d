"""COCO's two JSON formats, as a type checker sees them: instances (the truth) and results (detections).

They stay dicts, because that is what COCO's evaluators take and what files hold. Boxes are [x, y, width, height] in
pixels of the original image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypedDict

__all__ = [
    "MOST_BYTES", "MOST_PIXELS", "CocoAnnotation", "CocoCategory", "CocoId", "CocoImage", "CocoTruth", "Detection",
    "Rle", "are_pixels",
]  # fmt: skip

CocoId = int | str
"""Of an image or a category; within a file all are numbers, or all texts."""

MOST_PIXELS = 1e9
"""Of a side or a coordinate; products of what is below are sound in float32, too."""
MOST_BYTES = 8 << 30
"""Of a file: 10 KB for each of the 860,001 objects of COCO's train2017."""
_NUMBERS = (int, float)


class CocoImage(TypedDict):
    """One image; sides in pixels."""

    id: CocoId
    file_name: str
    height: int
    width: int


class CocoCategory(TypedDict):
    """One category."""

    id: CocoId
    name: str


class _Annotation(TypedDict):
    id: int
    image_id: CocoId
    category_id: CocoId
    bbox: list[float]
    area: float
    iscrowd: int


class CocoAnnotation(_Annotation, total=False):
    """One object, or with ``iscrowd`` 1 a crowd of them; ``area`` in pixels decides on small, medium, large."""

    segmentation: Any


class CocoTruth(TypedDict):
    """An instances file with nothing left to be filled in."""

    images: list[CocoImage]
    annotations: list[CocoAnnotation]
    categories: list[CocoCategory]


class Rle(TypedDict):
    """A mask of an image of ``size`` (height, width): lengths of runs down its columns, compressed."""

    size: list[int]
    counts: str


class _Detection(TypedDict):
    image_id: CocoId
    category_id: CocoId
    bbox: list[float]
    score: float


class Detection(_Detection, total=False):
    """One detection; the score is in [0, 1]."""

    segmentation: Rle


def are_pixels(values: Sequence[Any]) -> bool:
    """Whether ``values`` are numbers of pixels, as JSON gives them; NaN and infinity are none."""
    return all(type(value) in _NUMBERS and -MOST_PIXELS < value < MOST_PIXELS for value in values)
