"""Orientation: how a camera was held, as EXIF (tag 0x0112) or XMP record it, and the pixels turned by it.

The rules are those of Detectron2's ``read_image`` on Pillow: EXIF first, then XMP; what cannot be read, and any value
but 2 to 8, turns nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["meant_orientation", "read_orientation", "stored", "turn", "upright"]

_TAG = 0x0112
_TURNS: Mapping[int, tuple[bool, int | None]] = {
    2: (False, 1), 3: (False, -1), 4: (False, 0), 5: (True, None), 6: (True, 1), 7: (True, -1), 8: (True, 0)
}  # fmt: skip
"""Orientation -> whether rows and columns change places, and which axes are mirrored then, in the codes of cv2.flip."""
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def read_orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """The orientation that metadata record, 1 to 8.

    Args:
        exif: the EXIF block, a TIFF header and its directory, with or without ``Exif\\0\\0`` before it.
        xmp: the XMP packet; asked only where EXIF says nothing.
    """
    found = None
    if exif:
        from PIL import Image  # only here: most images carry no EXIF

        tags = Image.Exif()
        try:
            tags.load(exif)
            found = tags.get(_TAG)
        except Exception:  # whatever a damaged block does to the parser; Detectron2 catches the same
            return 1
    if found is None and xmp and (match := _XMP.search(xmp)):
        found = int(match[1])
    return meant_orientation(found)


def meant_orientation(value: Any) -> int:
    """The tag's value if it turns an image, otherwise 1."""
    try:
        return int(value) if value in _TURNS else 1
    except TypeError:  # not hashable: a damaged directory may hold anything
        return 1


def turn(orientation: int) -> tuple[bool, tuple[int, ...]]:
    """How stored pixels become upright: whether rows and columns change places, and which axes (0: the order of rows,
    1: of columns) run the other way after that."""
    if orientation == 1:
        return False, ()
    transposed, axes = _TURNS[orientation]
    return transposed, {None: (), 0: (0,), 1: (1,), -1: (0, 1)}[axes]


def upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels [H, W, 3] as a viewer shows them, contiguous: [H, W, 3], or [W, H, 3] for 5 to 8."""
    if orientation == 1:
        return image
    import cv2  # only here; on large photographs it is several times faster than a copy of NumPy's view

    transposed, axes = _TURNS[orientation]
    if transposed:
        image = cv2.transpose(image)
    return image if axes is None else cv2.flip(image, axes)


def stored(image: np.ndarray, orientation: int) -> np.ndarray:
    """The inverse of :func:`upright`."""
    return upright(image, {6: 8, 8: 6}.get(orientation, orientation))
