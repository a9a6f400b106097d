"""The chunks of a PNG: size, orientation, and what of the file is out of order without harm to its pixels."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

from scaleprior.corpus.images.facts import ImageError

__all__ = ["PNG_START", "PngChunk", "png_chunks", "png_metadata", "png_size"]

PNG_START = b"\x89PNG\r\n\x1a\n"
_RAW_EXIF = b"Raw profile type exif"
_XMP = b"XML:com.adobe.xmp"
_TEXT_BYTES = 1 << 20  # of a text that is unpacked: a compressed one could claim gigabytes


class PngChunk(NamedTuple):
    """One chunk: its type, the place of its first byte (the length's), and of the byte after its checksum."""

    kind: bytes
    start: int
    stop: int

    @property
    def optional(self) -> bool:
        """Ancillary in PNG's words: readers may leave it out."""
        return bool(self.kind[0] & 0x20)

    def body(self, data: bytes) -> bytes:
        """What it holds."""
        return data[self.start + 8 : self.stop - 4]

    def intact(self, data: bytes) -> bool:
        """Whether the checksum fits."""
        found = data[self.stop - 4 : self.stop]
        return struct.pack(">I", zlib.crc32(data[self.start + 4 : self.stop - 4])) == found


def png_size(data: bytes) -> tuple[int, int]:
    """Height and width.

    Raises:
        ImageError: the header is cut short or is not the first chunk.
    """
    if len(data) < 33:
        raise ImageError("truncated PNG: its header is cut short")
    if data[12:16] != b"IHDR":
        raise ImageError(f"PNG that begins with {data[12:16]!r} in place of its header (as Xcode packs it into apps)")
    width, height = struct.unpack(">II", data[16:24])
    return height, width


def png_chunks(data: bytes) -> Iterator[PngChunk]:
    """The chunks that are in ``data`` completely, up to the end chunk."""
    place = len(PNG_START)
    while place + 12 <= len(data):
        (length,) = struct.unpack(">I", data[place : place + 4])
        chunk = PngChunk(data[place + 4 : place + 8], place, place + 12 + length)
        if chunk.stop > len(data):
            return
        yield chunk
        if chunk.kind == b"IEND":
            return
        place = chunk.stop


def png_metadata(data: bytes) -> tuple[bytes, bytes]:
    """EXIF and XMP, each empty where there is none: ``eXIf``, or what ImageMagick writes as text; XMP as text."""
    exif = raw = xmp = b""
    for chunk in png_chunks(data):
        if chunk.kind == b"eXIf":
            exif = chunk.body(data)
        elif chunk.kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, _, rest = chunk.body(data).partition(b"\0")
            if key in (_RAW_EXIF, _XMP):
                text = _text(chunk.kind, rest)
                raw, xmp = (text, xmp) if key == _RAW_EXIF else (raw, text)
    return exif or _from_hex(raw), xmp


def _text(kind: bytes, rest: bytes) -> bytes:
    """What follows a keyword (PNG specification, 11.3.4); empty when it cannot be unpacked."""
    packed = kind == b"zTXt"
    if kind == b"iTXt":
        packed = rest[:1] == b"\x01"
        rest = rest[1:2] + rest[2:].split(b"\0", 2)[-1]
    if kind != b"tEXt":
        rest = rest[1:]  # the method of compression: there is one only
    if not packed:
        return rest
    try:
        return zlib.decompressobj().decompress(rest, _TEXT_BYTES)
    except zlib.error:
        return b""


def _from_hex(raw: bytes) -> bytes:
    """A profile as ImageMagick writes it: an empty line, its name, its length, and lines of hexadecimal digits."""
    try:
        return bytes.fromhex("".join(raw.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""
