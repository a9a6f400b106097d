"""COCO's two JSON formats, as a type checker sees them: instances (the truth) and results (detections).

They stay dicts, because that is what COCO's evaluators take and what files hold. Boxes are [x, y, width, height] in
pixels of the original image.
"""

from __future__ import annotations

from typing import Any, TypedDict

__all__ = ["CocoAnnotation", "CocoCategory", "CocoId", "CocoImage", "CocoTruth", "Detection"]

CocoId = int | str
"""Of an image or a category; within a file all are numbers, or all texts."""


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


class Detection(TypedDict):
    """One detection; the score is in [0, 1]."""

    image_id: CocoId
    category_id: CocoId
    bbox: list[float]
    score: float
