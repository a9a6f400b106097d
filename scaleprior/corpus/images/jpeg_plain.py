"""Which JPEGs every decoder reads alike, as their bytes tell without decoding: those that a GPU's may be given.

What is left out is not wrong, but leaves room for opinions: inks, RGB that was not converted, an odd subsampling, 12
bits, arithmetic coding, spare bytes. The strict reading of libjpeg and the repairs of ``jpeg_repair`` judge those.
"""

from __future__ import annotations

from scaleprior.corpus.images.facts import MAX_PIXELS, ImageError
from scaleprior.corpus.images.jpeg_header import JPEG_START, JpegHeader, jpeg_header

__all__ = ["plain_jpeg"]

_END = b"\xff\xd9"
_BASELINE, _PROGRESSIVE, _SCAN = 0xC0, 0xC2, 0xDA
_OPINIONS = frozenset({0xE0, 0xEE})  # segments of JFIF and of Adobe
_ALL_COEFFICIENTS = b"\0\x3f\0"  # what the scan of a baseline file is to say that it holds
_PASSED = frozenset({0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)})  # tables, restarts, comments, metadata
_LUMA = frozenset({0x11, 0x21, 0x12, 0x22, 0x41})  # sampling of brightness, 4:4:4 to 4:2:0 and 4:1:1, where
_CHROMA = 0x11  # colours have one value for so many
_YCBCR = ((1, 2, 3), (0, 1, 2))  # names of components; without a marker some others would mean RGB


def plain_jpeg(data: bytes, *, max_pixels: int = MAX_PIXELS) -> JpegHeader | None:
    """The header of a plain JPEG; None for every other image, and for what is damaged where it can be seen.

    Plain is grey or YCbCr of 8 bits, baseline or progressive, of segments without a byte between them, ended by its
    end marker. Damage inside the coded data shows to who decodes it.
    """
    if data[:2] != JPEG_START or data[-2:] != _END:
        return None
    try:
        header = jpeg_header(data)
    except ImageError:
        return None
    plain = 0 < header.height * header.width <= max_pixels and _is_plain(data)
    return header if plain else None


def _is_plain(data: bytes) -> bool:
    """Walk the segments up to the first scan; ``jpeg_header`` has found them to be there."""
    place, frame = 2, 0
    while data[place] == 0xFF:
        marker, length = data[place + 1], int.from_bytes(data[place + 2 : place + 4], "big")
        segment = data[place + 4 : place + 2 + length]
        if marker == _SCAN:
            return frame == _PROGRESSIVE or (frame == _BASELINE and segment[-3:] == _ALL_COEFFICIENTS)
        if marker in (_BASELINE, _PROGRESSIVE):
            if frame or not _is_plain_frame(segment):
                return False
            frame = marker
        elif marker not in _PASSED or (marker in _OPINIONS and not _is_plain_opinion(segment)):
            return False
        place += 2 + length
    return False


def _is_plain_opinion(segment: bytes) -> bool:
    """What a segment of JFIF's or Adobe's says of colours is the usual: revision 1, and YCbCr."""
    if segment[:5] == b"JFIF\0":
        return segment[5:6] == b"\x01"
    return segment[:5] != b"Adobe" or segment[11:12] == b"\x01"


def _is_plain_frame(frame: bytes) -> bool:
    """Precision, height, width, then the number of components and three bytes for each."""
    if len(frame) < 6 or frame[0] != 8 or len(frame) != 6 + 3 * frame[5]:
        return False
    if frame[5] == 1:
        return True
    names, sampling = tuple(frame[6::3]), frame[7::3]
    return frame[5] == 3 and names in _YCBCR and sampling[0] in _LUMA and set(sampling[1:]) == {_CHROMA}
