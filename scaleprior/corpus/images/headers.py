"""``inspect_image``: what an image's first bytes say of it, without decoding a pixel."""

from __future__ import annotations

import io
import struct
from typing import TYPE_CHECKING

from scaleprior.corpus.images.facts import ImageError, ImageFacts
from scaleprior.corpus.images.jpeg_header import JPEG_START, jpeg_header
from scaleprior.corpus.images.orientation import meant_orientation, read_orientation
from scaleprior.corpus.images.png_chunks import PNG_START, png_metadata, png_size
from scaleprior.corpus.images.strangers import describe_stranger, is_avif

if TYPE_CHECKING:
    from PIL import Image

__all__ = [
    "PILLOW_FORMATS",
    "bitmap_bytes",
    "has_deep_grey",
    "image_size",
    "inspect_image",
    "open_with_pillow",
    "recognise",
    "seems_complete",
]

PILLOW_FORMATS = {"TIFF": "TIFF", "GIF": "GIF", "AVIF": "AVIF", "JPEG 2000": "JPEG2000", "PNM": "PPM"}
"""Kinds that Pillow decodes, and their names there; the others have faster decoders."""

_STARTS = (
    (JPEG_START, "JPEG"),
    (PNG_START, "PNG"),
    (b"BM", "BMP"),
    *((start, "TIFF") for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")),
    *((start, "GIF") for start in (b"GIF87a", b"GIF89a")),
    *((start, "JPEG 2000") for start in (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")),
    *((f"P{digit}".encode() + blank, "PNM") for digit in range(1, 7) for blank in (b"\n", b" ", b"\r", b"\t", b"#")),
)
_BMP_HEADERS = (12, 16, 40, 52, 56, 64, 108, 124)  # bytes of the header behind the file header, one a version
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND", "GIF": b";"}
_EXIF_FLAG, _XMP_FLAG = 0x08, 0x04


def recognise(data: bytes) -> str:
    """The kind of an image by its first 16 bytes.

    Raises:
        ImageError: it is none that is read; says what it is and what to do.
    """
    for start, kind in _STARTS:
        if data.startswith(start):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data[4:8] == b"ftyp" and is_avif(data):
        from PIL import features

        if features.check("avif"):
            return "AVIF"
    raise ImageError(describe_stranger(data))


def inspect_image(data: bytes) -> ImageFacts:
    """Format, size and orientation, from the header alone: the pixels may be damaged.

    Args:
        data: the file, or its beginning. 64 KB do for nearly every JPEG, PNG, BMP, GIF and PNM, and for a WebP without
            metadata; where they do not, an ImageError is raised, and the whole file answers. (Of a PNG's orientation
            that stands behind the pixels, the beginning knows nothing.)

    Raises:
        ImageError: no accepted format, or a header that is damaged or cut short.
    """
    kind = recognise(data)
    try:
        return _READERS.get(kind, lambda data: _with_pillow(data, kind))(data)
    except struct.error as e:
        raise ImageError(f"truncated {kind}: its header is cut short") from e


def image_size(data: bytes) -> tuple[str, int, int]:
    """Format, height and width of the stored pixels; see :func:`inspect_image`."""
    facts = inspect_image(data)
    return facts.kind, facts.height, facts.width


def seems_complete(kind: str, head: bytes, tail: bytes, size: int) -> bool:
    """Whether a file ends as its kind ends; ``check_image`` knows for certain.

    Args:
        kind: as :func:`inspect_image` says.
        head, tail: its first and last 64 bytes or more.
        size: all of its bytes.
    """
    if kind in _ENDS:
        return _ENDS[kind] in tail
    if kind == "WebP":
        return size >= struct.unpack("<I", head[4:8])[0] + 8
    return kind != "BMP" or size >= bitmap_bytes(head)


def bitmap_bytes(head: bytes) -> int:
    """Bytes of a BMP with all of its pixels, at least. The length in the header is 0 or wrong with many writers."""
    pixels, header = struct.unpack("<II", head[10:18])
    facts = _bmp(head)
    if header == 12:
        (bits,), packing = struct.unpack("<H", head[24:26]), 0
    else:
        bits, packing = struct.unpack("<HI", head[28:34])
    plain = packing in (0, 3, 6)  # of packed rows nothing is known
    return pixels + (facts.width * bits + 31) // 32 * 4 * facts.height if plain else pixels


def open_with_pillow(data: bytes, kind: str) -> Image.Image:
    """The first picture of a file, its pixels not decoded yet.

    Raises:
        ImageError: damaged, cut short, the thumbnail of a camera's raw file, or of values without a range.
    """
    from PIL import Image, TiffImagePlugin

    try:
        opened = Image.open(io.BytesIO(data), formats=(PILLOW_FORMATS.get(kind, kind),))
    except Exception as e:  # Pillow's readers raise a dozen kinds, even of damage to the header alone
        reason = "" if isinstance(e, Image.UnidentifiedImageError) else f": {e}"
        raise ImageError(f"damaged or truncated {kind}{reason}") from e
    if isinstance(opened, TiffImagePlugin.TiffImageFile) and (
        50706 in opened.tag_v2 or opened.tag_v2.get(254, 0) & 1  # DNGVersion; a picture of reduced size
    ):
        raise ImageError("a camera's raw file, whose first picture is its thumbnail (develop it to TIFF or JPEG)")
    if opened.mode in ("I", "F") and kind != "PNM":
        raise ImageError(f"{kind} of 32 bits a value, which have no fixed range (write it with 8 or 16)")
    return opened


def has_deep_grey(data: bytes, kind: str) -> bool:
    """Whether an image is grey of 16 bits a value; of a PNG its first 26 bytes tell.

    Raises:
        ImageError: as :func:`open_with_pillow`, which looks into a TIFF.
    """
    if kind == "PNG":
        return data[24:26] == b"\x10\0"  # depth and colour type
    if kind != "TIFF":
        return False
    with open_with_pillow(data, kind) as opened:
        return opened.mode.startswith("I;16")


def _with_pillow(data: bytes, kind: str) -> ImageFacts:
    with open_with_pillow(data, kind) as opened:
        width, height = opened.size
        try:
            orientation = meant_orientation(opened.getexif().get(0x0112))
        except Exception:  # as in read_orientation: damaged metadata turn nothing
            orientation = 1
        # Pillow gives the size of a TIFF as it turns it when it is loaded
        turned = kind == "TIFF" and orientation >= 5
        return ImageFacts(kind, *((width, height) if turned else (height, width)), orientation)


def _png(data: bytes) -> ImageFacts:
    return ImageFacts("PNG", *png_size(data), read_orientation(*png_metadata(data)))


def _bmp(data: bytes) -> ImageFacts:
    (header,) = struct.unpack("<I", data[14:18])
    if header not in _BMP_HEADERS:  # a text, too, may begin with BM
        raise ImageError(describe_stranger(data))
    if header == 12:  # OS/2's
        width, height = struct.unpack("<HH", data[18:22])
    else:
        width, height = struct.unpack("<ii", data[18:26])
    return ImageFacts("BMP", abs(height), width)


def _webp(data: bytes) -> ImageFacts:
    """The three forms of RFC 9649, sections 2.5 to 2.7."""
    form = data[12:16]
    if form == b"VP8 ":
        width, height = struct.unpack("<HH", data[26:30])
        return ImageFacts("WebP", height & 0x3FFF, width & 0x3FFF)
    if form == b"VP8L":
        (bits,) = struct.unpack("<I", data[21:25])
        return ImageFacts("WebP", ((bits >> 14) & 0x3FFF) + 1, (bits & 0x3FFF) + 1)
    if form == b"VP8X":
        flags, width, height = struct.unpack("<I3s3s", data[20:30])
        size = int.from_bytes(height, "little") + 1, int.from_bytes(width, "little") + 1
        return ImageFacts("WebP", *size, _webp_orientation(data, flags))
    raise ImageError(f"damaged WebP: unknown form {form!r}")


def _webp_orientation(data: bytes, flags: int) -> int:
    """Metadata stand behind the pixels."""
    found = {b"EXIF": b"", b"XMP ": b""}
    place = 12
    while place + 8 <= len(data):
        name, length = struct.unpack("<4sI", data[place : place + 8])
        if name in found and place + 8 + length <= len(data):
            found[name] = data[place + 8 : place + 8 + length]
        place += 8 + length + length % 2
    exif = found[b"EXIF"] if flags & _EXIF_FLAG else b""
    xmp = found[b"XMP "] if flags & _XMP_FLAG else b""
    expected = flags & _EXIF_FLAG or flags & _XMP_FLAG
    if expected and not exif and not xmp and len(data) < struct.unpack("<I", data[4:8])[0] + 8:
        raise ImageError("truncated WebP: its metadata are cut off")
    return read_orientation(exif, xmp)


_READERS = {"JPEG": lambda data: jpeg_header(data).facts(), "PNG": _png, "BMP": _bmp, "WebP": _webp}
