"""Images that Detectron2 reads, but not as they are meant, and those that a strict run does not take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import IO, Any

from detectron2.utils.file_io import PathManager
from PIL import Image

from scaleprior.corpus.images import check_image, has_deep_grey, open_with_pillow
from scaleprior.errors import UserError

__all__ = ["is_wide", "refuse_misread"]

_ORIENTATION = 0x0112  # EXIF's tag
_PNG_START = 26  # bytes up to its bit depth and colour type


def is_wide(record: Mapping[str, Any]) -> bool:
    """Whether the upright image of one of Detectron2's dicts is wider than high; of one without sides the file tells.

    Raises:
        UserError: a file that is needed for that cannot be read.
    """
    if "width" in record and "height" in record:
        return record["width"] > record["height"]
    name = record["file_name"]
    try:
        file: IO[Any] = PathManager.open(name, "rb")
        with file, Image.open(file) as image:
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION, 1) in range(5, 9)  # Detectron2 turns it upright
    except (OSError, ValueError, SyntaxError) as e:
        raise UserError(f"image {name} cannot be used: {e}", hint="replace the file or leave it out") from e
    return height > width if turned else width > height


def refuse_misread(file_name: str, *, strict: bool) -> None:
    """Refuse an image whose pixels Detectron2 would change: 16-bit grey, cut off at 255, and TIFFs that it turns twice.

    Only files called ``.png``, ``.tif`` and ``.tiff`` are looked into for that: a JPEG is never one of these.

    Args:
        strict: decode the image, and refuse it if it is out of order; see ``SCALEPRIOR.STRICT_IMAGES``.

    Raises:
        UserError: says what would happen to it; ImageError: it cannot be decoded.
        OSError: it cannot be read.
    """
    suffix = os.path.splitext(file_name)[1].lower()
    if not strict and suffix not in (".png", ".tif", ".tiff"):
        return
    file: IO[Any] = PathManager.open(file_name, "rb")
    with file:
        data: bytes = file.read(_PNG_START if suffix == ".png" and not strict else -1)
    tiff = data[:2] in (b"II", b"MM")
    turned = False
    if tiff:
        with open_with_pillow(data, "TIFF") as image:
            turned = image.getexif().get(_ORIENTATION, 1) in range(2, 9)
    if has_deep_grey(data, "TIFF" if tiff else "PNG" if data[:4] == b"\x89PNG" else ""):
        raise UserError(
            "its grey values have 16 bits, which Detectron2 cuts off at 255",
            hint="write it with 8 bits, or use the torchvision engine, which scales them",
        )
    if turned:
        raise UserError(
            "it is a TIFF with an orientation, by which Detectron2 turns it twice",
            hint="save it upright, or use the torchvision engine, which turns it once",
        )
    if strict:
        check_image(data, strict=True)
