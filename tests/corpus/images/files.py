"""Encoded images with a fault or a tag, made byte by byte for the tests of this folder."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image

TURNS = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
"""What each EXIF orientation asks a viewer to do with stored pixels, by the standard's figure."""


def noise(height: int = 24, width: int = 40, channels: int = 3) -> np.ndarray:
    """uint8 [height, width, channels] without any symmetry; fills a JPEG's coefficients."""
    return np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)


def save(pixels: np.ndarray | Image.Image, kind: str, **options: Any) -> bytes:
    """Encoded by Pillow; ``kind`` is its name of the format."""
    file = io.BytesIO()
    (pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)).save(file, kind, **options)
    return file.getvalue()


def exif(orientation: int) -> bytes:
    """An EXIF block with this tag alone."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def pillow(data: bytes) -> np.ndarray:
    """RGB of the stored pixels, as Pillow decodes them."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def insert(data: bytes, place: int, what: bytes) -> bytes:
    return data[:place] + what + data[place:]


def jpeg_segment(marker: int, body: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def png_chunk(kind: bytes, body: bytes, checksum: bytes | None = None) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + (checksum or struct.pack(">I", zlib.crc32(kind + body)))


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place < len(data):
        length, kind = struct.unpack(">I4s", data[place : place + 8])
        yield kind, data[place + 8 : place + 8 + length]
        place += 12 + length
