"""Images of a detection set with their boxes, small enough for a page."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaleprior.corpus.images import decode
from scaleprior.corpus.views.thumbnails import Thumbnail, thumbnail
from scaleprior.detect.data.coco import DetectionSet, ImageRecord
from scaleprior.detect.data.views.statistics import ClassCount, hash_order
from scaleprior.errors import UserError

__all__ = ["ClassSamples", "DrawnBox", "DrawnImage", "draw_samples"]

_HEIGHT = 264  # pixels of a picture: sharp at half of that on a screen of twice the density
_BYTES = 22_000  # of a picture, so that 24 classes of 4 stay below 3 MB of text
_BOXES = 80  # drawn in an image; those of the class first, then the largest
_CANDIDATES = 4  # times as many images as are shown: some may be shown already, or cannot be read


@dataclass(frozen=True)
class DrawnBox:
    """A box in pixels of its image, the name of its class, and how it is drawn: ``own``, ``crowd``, both or neither."""

    x: float
    y: float
    width: float
    height: float
    name: str
    style: str


@dataclass(frozen=True)
class DrawnImage:
    """An image of ``width`` x ``height`` pixels with a smaller picture of it, and boxes over it."""

    file_name: str
    width: int
    height: int
    picture: Thumbnail
    boxes: tuple[DrawnBox, ...]


@dataclass(frozen=True)
class ClassSamples:
    """Samples of a class, which has ``boxes`` in ``images``."""

    name: str
    boxes: int
    images: int
    samples: tuple[DrawnImage, ...]


def draw_samples(data: DetectionSet, classes: Sequence[ClassCount], *, per_class: int) -> list[ClassSamples]:
    """Images of each class, the first in the hash order of their names; those that no class before showed come first.

    Images that cannot be read are passed over; a class may have fewer than ``per_class``, or none.
    """
    place = {category: number for number, category in enumerate(data.category_ids)}
    found = _candidates(data, {place[one.id] for one in classes}, _CANDIDATES * per_class)
    pictures: dict[str, Thumbnail | None] = {}  # of those that were shown, or were to be
    drawn = []
    for one in classes:
        samples: list[DrawnImage] = []
        for record in sorted(found[place[one.id]], key=lambda record: record.file_name in pictures):
            if len(samples) == per_class:
                break
            if record.file_name not in pictures:
                pictures[record.file_name] = _picture(data, record)
            picture = pictures[record.file_name]
            if picture is not None:
                boxes = _boxes(record, place[one.id], data.class_names)
                samples.append(DrawnImage(record.file_name, record.width, record.height, picture, boxes))
        drawn.append(ClassSamples(one.name, one.boxes, one.images, tuple(samples)))
    return drawn


def _candidates(data: DetectionSet, classes: set[int], wanted: int) -> dict[int, list[ImageRecord]]:
    """The first ``wanted`` images of each class in hash order."""
    found: dict[int, list[ImageRecord]] = {number: [] for number in classes}
    for k in hash_order([record.file_name for record in data.records]).tolist():
        record = data.records[k]
        for number in np.unique(record.classes[~record.crowd]).tolist():
            if number in found and len(found[number]) < wanted:
                found[number].append(record)
    return found


def _picture(data: DetectionSet, record: ImageRecord) -> Thumbnail | None:
    try:
        image = decode(data.root.read(record.file_name))
    except UserError:
        return None
    return thumbnail(image, height=_HEIGHT, max_bytes=_BYTES, crop=False)


def _boxes(record: ImageRecord, own: int, names: Sequence[str]) -> tuple[DrawnBox, ...]:
    areas = np.prod(record.boxes[:, 2:] - record.boxes[:, :2], axis=1)
    own_first = sorted(range(len(areas)), key=lambda k: (record.classes[k] != own, -areas[k]))[:_BOXES]
    drawn = []
    for k in sorted(own_first, key=lambda k: (record.classes[k] == own, -areas[k])):  # the last lies on top
        left, top, right, bottom = (round(float(v), 1) for v in record.boxes[k])
        styles = [("own", record.classes[k] == own), ("crowd", bool(record.crowd[k]))]
        style = " ".join(name for name, applies in styles if applies)
        name = names[int(record.classes[k])]
        drawn.append(DrawnBox(left, top, round(right - left, 1), round(bottom - top, 1), name, style))
    return tuple(drawn)
