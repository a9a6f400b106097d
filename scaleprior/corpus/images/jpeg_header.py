"""The header of a JPEG, read segment by segment: size, components, and where EXIF and XMP lie."""

from __future__ import annotations

import struct
from typing import NamedTuple

from scaleprior.corpus.images.facts import ImageError, ImageFacts
from scaleprior.corpus.images.orientation import read_orientation

__all__ = ["JPEG_START", "JpegHeader", "jpeg_header"]

JPEG_START = b"\xff\xd8"
_EXIF = b"Exif\0\0"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_segment = struct.Struct(">BBH").unpack_from  # 0xFF, marker, length
_size = struct.Struct(">HHB").unpack_from  # height, width, components
_SIZE, _METADATA, _SCAN, _END, _ALONE, _FILL = range(1, 7)
_ROLES = bytearray(256)  # of a marker; 0: a segment to pass over
for _markers, _role in (
    ((m for m in range(0xC0, 0xD0) if m not in (0xC4, 0xC8, 0xCC)), _SIZE),  # those three are tables, or reserved
    ((0xE1,), _METADATA),
    ((0xDA,), _SCAN),
    ((0xD9,), _END),
    ((0x00, 0x01, *range(0xD0, 0xD9)), _ALONE),  # without a length; 0x00 stands for a byte 0xFF of coded data
    ((0xFF,), _FILL),
):
    for _marker in _markers:
        _ROLES[_marker] = _role


class JpegHeader(NamedTuple):
    """What stands before the first coded data.

    Attributes:
        height, width: in pixels. components: 1 grey, 3 colours, 4 inks.
        exif, xmp: the metadata blocks without their signatures; empty where there are none.
    """

    height: int
    width: int
    components: int
    exif: bytes
    xmp: bytes

    def orientation(self) -> int:
        """1 to 8, as ``read_orientation`` finds it."""
        return read_orientation(self.exif, self.xmp) if self.exif or self.xmp else 1

    def facts(self) -> ImageFacts:
        """What any format's header says."""
        return ImageFacts("JPEG", self.height, self.width, self.orientation())


def jpeg_header(data: bytes) -> JpegHeader:
    """Read up to the first scan. It costs two microseconds, less than asking libjpeg does.

    Raises:
        ImageError: no scan, or no size before it: the file is cut short, or ``data`` is only its beginning.
    """
    place, size, exif, xmp = 2, None, b"", b""
    try:
        while True:
            first, marker, length = _segment(data, place)
            if first != 0xFF:
                place = data.index(b"\xff", place)  # spare bytes between segments, which libjpeg passes over, too
                continue
            role = _ROLES[marker]
            if not role:
                place += 2 + length
            elif role == _SIZE:
                size = _size(data, place + 5)
                place += 2 + length
            elif role == _SCAN:
                break
            elif role == _METADATA:
                body = data[place + 4 : place + 2 + length]
                if body.startswith(_EXIF):
                    exif += body[len(_EXIF) :]
                elif body.startswith(_XMP):
                    xmp = body[len(_XMP) :]
                place += 2 + length
            elif role == _END:
                raise ImageError("truncated JPEG: it ends before its first scan")
            else:
                place += 1 if role == _FILL else 2
    except (struct.error, ValueError) as e:
        raise ImageError("truncated JPEG: its header is cut short") from e
    if size is None:
        raise ImageError("damaged JPEG: no size stands before its first scan")
    height, width, components = size
    return JpegHeader(height, width, components, exif, xmp)
