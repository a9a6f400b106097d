"""Decode encoded images to H x W x 3 uint8, strictly: a truncated or oversized image is an error, never grey filler.

Formats: JPEG (simplejpeg, libjpeg-turbo), PNG, WebP and BMP (OpenCV). Grayscale is repeated over the channels, CMYK
is converted, an alpha channel is dropped, 16 bits are scaled to 8. Orientation tags are not applied: boxes and labels
of the data sets we read refer to the stored pixels.
"""

from __future__ import annotations

import struct

import numpy as np
import simplejpeg

from scaleprior.errors import UserError

__all__ = ["IMAGE_SUFFIXES", "MAX_PIXELS", "ImageError", "check_image", "decode", "image_size"]

MAX_PIXELS = 100_000_000
"""Largest accepted height times width. A few kilobytes of PNG can claim gigabytes of pixels; 100 MP is a large scan."""

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".webp", ".bmp"})


class ImageError(UserError):
    """Bytes that are not a complete image of an accepted format and size."""


def decode(data: bytes, *, order: str = "RGB", max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode one image.

    Args:
        data: the encoded file.
        order: "RGB" or "BGR", the order of the channels.
        max_pixels: refuse images whose header claims more than this, before any pixel is decoded.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        ImageError: not an image of an accepted format, truncated, corrupt, or too large.
    """
    if order not in ("RGB", "BGR"):
        raise UserError(f"channel order {order!r}", hint='use "RGB" or "BGR"')
    kind = _checked_kind(data, max_pixels)
    return _decode_jpeg(data, order) if kind == "JPEG" else _decode_other(data, kind, order)


def check_image(data: bytes, *, max_pixels: int = MAX_PIXELS) -> None:
    """Raise ImageError unless ``data`` would decode.

    JPEGs are decoded at an eighth of the size and to grey: every coefficient is still read, so truncation shows, but
    most of the inverse transform and the colour conversion is spared.
    """
    if _checked_kind(data, max_pixels) != "JPEG":
        decode(data, max_pixels=max_pixels)
        return
    try:
        colorspace = simplejpeg.decode_jpeg_header(data)[2]
        target = "CMYK" if colorspace in ("CMYK", "YCCK") else "GRAY"
        simplejpeg.decode_jpeg(data, colorspace=target, min_height=1, min_width=1, min_factor=1)
    except ValueError as e:
        raise ImageError(f"corrupt or truncated JPEG: {e}") from e


def image_size(data: bytes) -> tuple[str, int, int]:
    """Format, height and width that the header claims, without decoding.

    Raises:
        ImageError: no accepted format, a header cut short, or a file shorter than its own header says.
    """
    try:
        if data[:2] == b"\xff\xd8":
            height, width = simplejpeg.decode_jpeg_header(data)[:2]
            return "JPEG", int(height), int(width)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack(">II", data[16:24])
            complete = b"IEND" in data[-64:]
            return _complete("PNG", height, width, complete)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            height, width = _webp_size(data)
            return _complete("WebP", height, width, len(data) >= struct.unpack("<I", data[4:8])[0] + 8)
        if data[:2] == b"BM":
            length, width, height = struct.unpack("<2xI12xii", data[:26])
            return _complete("BMP", abs(height), width, len(data) >= length)
    except (ValueError, struct.error) as e:
        raise ImageError(f"damaged image header: {e}") from e
    start = data[:8].hex() if data else "nothing"
    raise ImageError(f"not a JPEG, PNG, WebP or BMP image (it starts with {start})")


def _complete(kind: str, height: int, width: int, complete: bool) -> tuple[str, int, int]:
    if not complete:
        raise ImageError(f"truncated {kind}")
    return kind, height, width


def _webp_size(data: bytes) -> tuple[int, int]:
    """Height and width of the three WebP forms (RFC 9649, sections 2.5 to 2.7)."""
    form = data[12:16]
    if form == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return height & 0x3FFF, width & 0x3FFF
    if form == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1
    if form == b"VP8X":
        return int.from_bytes(data[27:30], "little") + 1, int.from_bytes(data[24:27], "little") + 1
    raise ImageError(f"unknown WebP form {form!r}")


def _checked_kind(data: bytes, max_pixels: int) -> str:
    kind, height, width = image_size(data)
    if height < 1 or width < 1 or height * width > max_pixels:
        raise ImageError(f"{kind} of {width} x {height} pixels, accepted are 1 to {max_pixels} pixels")
    return kind


def _decode_jpeg(data: bytes, order: str) -> np.ndarray:
    try:
        colorspace = simplejpeg.decode_jpeg_header(data)[2]
        if colorspace in ("CMYK", "YCCK"):
            return _cmyk_to_rgb(simplejpeg.decode_jpeg(data, colorspace="CMYK"), data, order)
        # strict (the default) turns libjpeg's "premature end" warnings into errors
        return simplejpeg.decode_jpeg(data, colorspace=order)
    except ValueError as e:
        raise ImageError(f"corrupt or truncated JPEG: {e}") from e


def _cmyk_to_rgb(cmyk: np.ndarray, data: bytes, order: str) -> np.ndarray:
    """Naive conversion rgb = (1 - cmy)(1 - k). Adobe's files, nearly all there are, store the complements already."""
    ink = cmyk.astype(np.uint16)
    if b"Adobe" not in data[:4096]:
        ink = 255 - ink
    rgb = ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)
    return rgb if order == "RGB" else np.ascontiguousarray(rgb[..., ::-1])


def _decode_other(data: bytes, kind: str, order: str) -> np.ndarray:
    import cv2  # only here: reading JPEGs, the common case, does not need it

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as e:
        raise ImageError(f"corrupt {kind}: {e}") from e
    if image is None:
        raise ImageError(f"corrupt or truncated {kind}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if order == "RGB" else image
