"""Small pictures for pages: JPEGs of a few kilobytes each, whatever the image was."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["MAX_BYTES", "Thumbnail", "thumbnail"]

MAX_BYTES = 9_000
"""Of one thumbnail of 128 pixels; keeps pages of hundreds of them within a few megabytes."""


_QUALITIES = (82, 65, 45, 25, 10)
_WIDEST = 2.5  # times as wide as high, or as high as wide; a panorama's middle is shown


@dataclass(frozen=True)
class Thumbnail:
    """A JPEG and its size in pixels."""

    jpeg: bytes
    width: int
    height: int


def thumbnail(image: np.ndarray, *, height: int = 128, max_bytes: int = MAX_BYTES, crop: bool = True) -> Thumbnail:
    """An image made small; one that is small already keeps its pixels.

    Args:
        image: uint8 [H, W, 3], RGB.
        height: at most, in pixels.
        max_bytes: the quality is lowered until the JPEG has no more, or until it is 10 of 100.
        crop: cut what makes an image more than 2.5 times as long as wide, from both ends.
    """
    import cv2
    import simplejpeg

    if crop:
        image = _middle(image)
    rows, columns = image.shape[:2]
    scale = min(1.0, height / rows)
    if scale < 1:
        size = (max(1, round(columns * scale)), max(1, round(rows * scale)))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    image = np.ascontiguousarray(image)
    jpeg = b""
    for quality in _QUALITIES:
        jpeg = simplejpeg.encode_jpeg(image, quality=quality, colorspace="RGB", colorsubsampling="420")
        if len(jpeg) <= max_bytes:
            break
    return Thumbnail(jpeg, image.shape[1], image.shape[0])


def _middle(image: np.ndarray) -> np.ndarray:
    rows, columns = image.shape[:2]
    wide, high = min(columns, round(_WIDEST * rows)), min(rows, round(_WIDEST * columns))
    left, top = (columns - wide) // 2, (rows - high) // 2
    return image[top : top + high, left : left + wide]
