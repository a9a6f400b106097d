"""Decode encoded images to H x W x 3 uint8, upright; a truncated or oversized image is an error, never grey filler.

JPEG (simplejpeg, libjpeg-turbo), PNG, WebP and BMP (OpenCV); TIFF, GIF, AVIF, JPEG 2000 and PNM (Pillow), of which the
first picture counts. Grey is repeated over the channels, palettes are looked up, CMYK is converted, an alpha channel is
dropped, 16 bits are scaled to 8.

Files that are out of order without harm to their pixels, such as a JPEG with spare bytes before its end marker, are
read, and ``warn`` is told; ``strict`` refuses them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

import numpy as np
import simplejpeg

from scaleprior.corpus.images.facts import MAX_PIXELS, ImageError, ImageFacts
from scaleprior.corpus.images.headers import bitmap_bytes, inspect_image, open_with_pillow
from scaleprior.corpus.images.jpeg_header import JPEG_START, JpegHeader, jpeg_header
from scaleprior.corpus.images.jpeg_repair import read_repaired
from scaleprior.corpus.images.orientation import stored, upright as turned_upright
from scaleprior.corpus.images.png_chunks import PNG_START, png_chunks
from scaleprior.errors import UserError

__all__ = ["WarnFn", "check_image", "decode"]

WarnFn = Callable[[str], None]
"""Called with what is out of order about an image that is read nevertheless, a few words that do not vary."""

_AFTER_END = "bytes after the end"
_BAD_OPTIONAL = "an optional PNG chunk whose checksum is wrong"


def decode(
    data: bytes,
    *,
    order: str = "RGB",
    max_pixels: int = MAX_PIXELS,
    upright: bool = True,
    strict: bool = False,
    warn: WarnFn | None = None,
) -> np.ndarray:
    """Decode one image.

    Args:
        data: the encoded file.
        order: "RGB" or "BGR", the order of the channels.
        max_pixels: refuse images whose header claims more than this, before any pixel is decoded.
        upright: turn the image as its EXIF orientation says; otherwise pixels are as they are stored.
        strict: refuse what a decoder would warn about.
        warn: told what is out of order, once or more for an image.

    Returns:
        uint8 [H, W, 3], contiguous.

    Raises:
        ImageError: not an image of an accepted format, truncated, corrupt, or too large.
    """
    if order not in ("RGB", "BGR"):
        raise UserError(f"channel order {order!r}", hint='use "RGB" or "BGR"')
    if data[:2] == JPEG_START:  # nearly every image: a way without detours
        header = _checked_header(data, max_pixels)
        if header.components == 4:
            image = _cmyk_to_rgb(_read_jpeg(data, "CMYK", 0, strict, warn), data, order)
        else:
            image = _read_jpeg(data, order, 0, strict, warn)
        if upright and (header.exif or header.xmp):
            return turned_upright(image, header.orientation())
        return image
    facts = inspect_image(data)
    image = _decode_other(data, facts, order, max_pixels, _Judge(strict, warn))
    return turned_upright(image, facts.orientation) if upright else image


def check_image(
    data: bytes, *, max_pixels: int = MAX_PIXELS, strict: bool = False, warn: WarnFn | None = None
) -> ImageFacts:
    """What the header says, once it is certain that ``data`` decodes; otherwise an ImageError. Options as of decode.

    JPEGs are decoded at an eighth of the size and to grey: every coefficient is still read, so truncation shows, but
    most of the inverse transform and the colour conversion is spared.
    """
    if data[:2] == JPEG_START:
        header = _checked_header(data, max_pixels)
        _read_jpeg(data, "CMYK" if header.components == 4 else "GRAY", 1, strict, warn)
        return header.facts()
    facts = inspect_image(data)
    _decode_other(data, facts, "RGB", max_pixels, _Judge(strict, warn))
    return facts


class _Judge:
    """What to do about a file that is out of order without harm to its pixels."""

    def __init__(self, strict: bool, warn: WarnFn | None) -> None:
        self.strict = strict
        self._warn = warn

    def report(self, kind: str, what: str) -> None:
        """Tell of it or, when strict, refuse it."""
        if self.strict:
            raise ImageError(f"{kind} with {what}")
        if self._warn is not None:
            self._warn(what)


def _wrong_size(kind: str, height: int, width: int, max_pixels: int) -> ImageError:
    return ImageError(f"{kind} of {width} x {height} pixels, accepted are 1 to {max_pixels} pixels")


def _checked_header(data: bytes, max_pixels: int) -> JpegHeader:
    header = jpeg_header(data)
    if not 0 < header.height * header.width <= max_pixels:
        raise _wrong_size("JPEG", header.height, header.width, max_pixels)
    return header


def _read_jpeg(data: bytes, colorspace: str, least: int, strict: bool, warn: WarnFn | None) -> np.ndarray:
    """``least``: 0 for the full size; 1 for an eighth of it, the least that libjpeg gives."""

    def read(data: bytes, strict: bool) -> np.ndarray:
        return simplejpeg.decode_jpeg(data, colorspace, min_height=least, min_width=least, strict=strict)

    try:
        return read(data, True)
    except ValueError as e:
        if strict:
            raise ImageError(f"corrupt or truncated JPEG: {e}") from e
        image, what = read_repaired(data, str(e), read)
    if warn is not None:
        warn(what)
    return image


def _decode_other(data: bytes, facts: ImageFacts, order: str, max_pixels: int, judge: _Judge) -> np.ndarray:
    if facts.height < 1 or facts.width < 1 or facts.height * facts.width > max_pixels:
        raise _wrong_size(facts.kind, facts.height, facts.width, max_pixels)
    return _DECODERS.get(facts.kind, _decode_with_pillow)(data, facts, order, judge)


def _cmyk_to_rgb(cmyk: np.ndarray, data: bytes, order: str) -> np.ndarray:
    """Naive conversion rgb = (1 - cmy)(1 - k). Adobe's files, nearly all there are, store the complements already."""
    ink = cmyk.astype(np.uint16)
    if b"Adobe" not in data[:4096]:
        ink = 255 - ink
    rgb = ((ink[..., :3] * ink[..., 3:] + 127) // 255).astype(np.uint8)
    return _ordered(rgb, order)


def _decode_png(data: bytes, facts: ImageFacts, order: str, judge: _Judge) -> np.ndarray:
    kept, end, damaged = [PNG_START], 0, False
    for chunk in png_chunks(data):
        end = chunk.stop if chunk.kind == b"IEND" else 0
        if chunk.optional and not chunk.intact(data):
            damaged = True
        else:
            kept.append(data[chunk.start : chunk.stop])
    if not end:
        raise ImageError("truncated PNG")
    if damaged:
        judge.report("PNG", _BAD_OPTIONAL)
    if end < len(data):
        judge.report("PNG", _AFTER_END)
    # libpng leaves out such chunks, too, but prints a line for each
    return _decode_with_opencv(b"".join(kept) if damaged else data, facts, order)


def _decode_webp(data: bytes, facts: ImageFacts, order: str, judge: _Judge) -> np.ndarray:
    end = struct.unpack("<I", data[4:8])[0] + 8
    if len(data) < end:
        raise ImageError("truncated WebP")
    if len(data) > end + end % 2:
        judge.report("WebP", _AFTER_END)
    return _decode_with_opencv(data, facts, order)


def _decode_bmp(data: bytes, facts: ImageFacts, order: str, judge: _Judge) -> np.ndarray:
    if len(data) < bitmap_bytes(data):
        raise ImageError("truncated BMP")
    return _decode_with_opencv(data, facts, order)


def _decode_with_opencv(data: bytes, facts: ImageFacts, order: str) -> np.ndarray:
    import cv2  # only here: reading JPEGs, the common case, does not need it

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        image = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    except cv2.error as e:
        raise ImageError(f"corrupt {facts.kind}: {e}") from e
    if image is None:
        raise ImageError(f"corrupt or truncated {facts.kind}")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if order == "RGB" else image


def _decode_with_pillow(data: bytes, facts: ImageFacts, order: str, judge: _Judge) -> np.ndarray:
    from PIL import TiffImagePlugin

    with open_with_pillow(data, facts.kind) as opened:
        try:
            if opened.mode.startswith("I"):
                grey = (np.asarray(opened).astype(np.uint32) >> 8).clip(max=255).astype(np.uint8)
                if isinstance(opened, TiffImagePlugin.TiffImageFile) and opened.tag_v2.get(262) == 0:
                    grey = 255 - grey  # zero is white, which Pillow looks at for 8 bits only
                image = np.repeat(grey[..., None], 3, axis=2)
            else:
                image = np.asarray(opened.convert("RGB"))
        except Exception as e:  # Pillow's decoders raise a dozen kinds of damaged files
            raise ImageError(f"corrupt or truncated {facts.kind}: {e}") from e
    if facts.kind == "TIFF":  # Pillow turns these when it loads them, and these only
        image = stored(image, facts.orientation)
    return _ordered(image, order)


def _ordered(rgb: np.ndarray, order: str) -> np.ndarray:
    return rgb if order == "RGB" else np.ascontiguousarray(rgb[..., ::-1])


_DECODERS: dict[str, Callable[[bytes, ImageFacts, str, _Judge], np.ndarray]] = {
    "PNG": _decode_png,
    "WebP": _decode_webp,
    "BMP": _decode_bmp,
}
