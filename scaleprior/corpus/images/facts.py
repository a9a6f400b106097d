"""What is known of an encoded image before its pixels are decoded, and the error when it is none."""

from __future__ import annotations

from typing import NamedTuple

from scaleprior.errors import UserError

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageError", "ImageFacts"]

MAX_PIXELS = 100_000_000
"""Largest accepted height times width. A few kilobytes of PNG can claim gigabytes of pixels; 100 MP is a large scan."""

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".dib"}
    | {".tif", ".tiff", ".gif", ".avif", ".jp2", ".ppm", ".pgm", ".pbm", ".pnm"}
)
"""Suffixes of the formats that are read, in lower case. What a file is, its first bytes say, not its name."""


class ImageError(UserError):
    """Bytes that are not a complete image of an accepted format and size."""


class ImageFacts(NamedTuple):
    """What an image's header says.

    Attributes:
        kind: "JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF", "AVIF", "JPEG 2000" or "PNM".
        height, width: of the pixels as they are stored.
        orientation: EXIF's, 1 to 8: how a viewer turns the stored pixels; 1 = not at all.
    """

    kind: str
    height: int
    width: int
    orientation: int = 1

    @property
    def turned(self) -> bool:
        """Whether the upright image differs from the stored one."""
        return self.orientation != 1

    @property
    def upright_height(self) -> int:
        """Of the image as people see it, and as :func:`decode` returns it."""
        return self.width if self.orientation >= 5 else self.height

    @property
    def upright_width(self) -> int:
        """Of the image as people see it, and as :func:`decode` returns it."""
        return self.height if self.orientation >= 5 else self.width
