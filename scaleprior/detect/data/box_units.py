"""Boxes that are written in another way than COCO's [x, y, width, height] in pixels, told by all of them together."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

__all__ = ["OtherUnit", "other_unit"]

_ENOUGH = 10  # boxes, of which it is no chance that all could be corners
_SHARE = 0.25  # of boxes that reach out of their images as they stand
_PIXEL = 1.0  # of rounding at an edge


class OtherUnit(NamedTuple):
    """How boxes seem to be written.

    Attributes:
        what: they, in words, behind a number.
        certain: no detector could learn anything from them as they stand.
    """

    what: str
    hint: str
    certain: bool


_SHARES = (
    "boxes in shares of their image, of which none reaches beyond its first pixel",
    "multiply x and width by the image's width, y and height by its height: COCO's are in pixels",
)
_CORNERS = (
    "boxes that would fit into their images as corners, [x1, y1, x2, y2], and often reach out of them as they are",
    "write x2 - x1 and y2 - y1 in place of x2 and y2: COCO's are [x, y, width, height]",
)


def other_unit(boxes: np.ndarray, sides: np.ndarray) -> OtherUnit | None:
    """What ``boxes`` seem to be, if it is not COCO's way.

    Args:
        boxes: of all objects of a set, [N, 4], as they are written.
        sides: width and height of each one's image in pixels, [N, 2]; 0 where they are not known.
    """
    low, far = boxes[:, :2], boxes[:, 2:]
    if not len(boxes) or not (sides > 1).all():
        return None
    if (low >= 0).all() and (low + far <= 1.001).all() and (boxes % 1 > 0).any():
        return OtherUnit(*_SHARES, certain=True)
    corners = (far > low).all() and (low >= -_PIXEL).all() and (far <= sides + _PIXEL).all()
    beyond = (low + far > sides + _PIXEL).any(axis=1)
    if corners and beyond.mean() >= _SHARE:
        return OtherUnit(*_CORNERS, certain=len(boxes) >= _ENOUGH)
    return None
