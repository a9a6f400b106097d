"""JPEGs that libjpeg warns about: which of the warnings leave the picture whole, and the picture.

libjpeg words only its first warning, so a harmless one can hide a truncation. Hence the file is read again without what
it warned of, until it is silent or says something that is no longer harmless.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from scaleprior.corpus.images.facts import ImageError
from scaleprior.corpus.images.jpeg_header import jpeg_header

__all__ = ["read_repaired"]

ReadFn = Callable[[bytes, bool], np.ndarray]
"""(file, strict) -> pixels; strict raises ValueError with libjpeg's first warning."""

_SPARE = re.compile(r"(\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_HEADER = re.compile("unknown JFIF revision|bad ICC marker|Unknown Adobe color transform|Invalid SOS parameters")
_MARKER = re.compile(rb"\xff+([^\x00\xff])")
_END_OF_CODE = re.compile(rb"\xff+[^\x00\xff\xd0-\xd7]")
_RESTART = re.compile(rb"\xff[\xd0-\xd7]")
_END = 0xD9
_SPARE_SHARE = 20  # spare bytes beyond a 20th of the file are lost step, not padding
_TRIES = 256  # of a reading with some bytes taken out; a frame of a webcam may need one for each of its rows

SPARE_BYTES = "spare bytes before a marker"
ODD_HEADER = "unusual values in its header"


def read_repaired(data: bytes, warning: str, read: ReadFn) -> tuple[np.ndarray, str]:
    """The pixels of a JPEG that gave ``warning``, and what is out of order about it.

    Raises:
        ImageError: the picture is not whole, or that cannot be told.
    """
    spare = _SPARE.search(warning)
    harmless = SPARE_BYTES if spare else ODD_HEADER if _HEADER.search(warning) else None
    if harmless is None or data[2:3] != b"\xff":
        raise _fault(warning)
    tidied = _tidied(data, warning)
    # of the end marker, the most frequent case, libjpeg speaks last: all before it is in order as the file is
    first = warning if spare and int(spare[2], 16) == _END else _attempt(tidied.data, read)
    return _read_whole(tidied, first, read), harmless


def _fault(warning: str) -> ImageError:
    return ImageError(f"corrupt or truncated JPEG: {warning}")


class _Tidied(NamedTuple):
    """A JPEG without metadata; ``ends``: the places of the markers that end a stretch of coded data."""

    data: bytes
    ends: list[int]


def _tidied(data: bytes, warning: str) -> _Tidied:
    """The file without metadata and without bytes between segments, and with the header's values that libjpeg expects.

    Those are what libjpeg reads anyway: the JFIF revision changes nothing, an unknown colour transform is taken for the
    usual one, and a sequential scan holds all coefficients whatever it claims.
    """
    kept, ends, place, size, sequential = [data[:2]], [], 2, 2, True
    components = jpeg_header(data).components
    while True:
        found = _MARKER.search(data, place)
        if found is None:
            raise _fault(warning)
        marker, place = found[1][0], found.end()
        if marker == _END:
            kept.append(b"\xff\xd9")
            return _Tidied(b"".join(kept), ends)
        if marker in range(0xD0, 0xD9) or marker == 0x01:
            continue
        segment = bytearray(data[place - 2 : place + int.from_bytes(data[place : place + 2], "big")])
        place += len(segment) - 2
        if marker in (0xC0, 0xC1, 0xC2):
            sequential = marker != 0xC2
        elif marker == 0xE0 and segment[4:9] == b"JFIF\0":
            segment[9:10] = b"\x01"
        elif marker == 0xEE and segment[4:9] == b"Adobe" and segment[15:16] not in (b"\0", b"\1", b"\2"):
            segment[15:16] = b"\1" if components == 3 else b"\2"
        elif marker in range(0xE0, 0xF0) or marker == 0xFE:
            continue
        if marker == 0xDA and sequential:
            segment[-3:] = b"\0\x3f\0"
        kept.append(bytes(segment))
        size += len(segment)
        if marker == 0xDA:
            end = _END_OF_CODE.search(data, place)
            if end is None:
                raise _fault(warning)
            code = data[place : end.start()]
            ends += [size + restart.start() for restart in _RESTART.finditer(code)] + [size + len(code)]
            kept.append(code)
            size += len(code)
            place = end.start()


def _read_whole(tidied: _Tidied, result: np.ndarray | str, read: ReadFn) -> np.ndarray:
    """Take spare bytes out from front to back, which is the order of libjpeg's warnings, until it has none.

    Args:
        result: what reading it gave so far, pixels or a warning.
    """
    data, ends = tidied
    done = tries = 0  # ends below ``done`` are in order
    while isinstance(result, str):
        spare = _SPARE.search(result)
        if spare is None:
            raise _fault(result)
        count, marker = int(spare[1]), int(spare[2], 16)
        if marker == _END:  # nothing comes behind it that this warning could hide
            _refuse_lost_step(data, ends[-1], count, result)
            return read(data, False)
        for number in range(done, len(ends)):
            if data[ends[number] + 1] != marker:
                continue
            tries += 1
            if tries > _TRIES:
                raise _fault(result)
            _refuse_lost_step(data, ends[number], count, result)
            shorter = data[: ends[number] - count] + data[ends[number] :]
            found = _attempt(shorter, read)
            # bytes that were needed, taken out at an earlier marker of this name, are missed by libjpeg there
            if not isinstance(found, str) or _SPARE.search(found):
                data, result, done = shorter, found, number
                ends = ends[:number] + [end - count for end in ends[number:]]
                break
        else:
            raise _fault(result)
    return result


def _attempt(data: bytes, read: ReadFn) -> np.ndarray | str:
    try:
        return read(data, True)
    except ValueError as e:
        return str(e)


def _refuse_lost_step(data: bytes, end: int, count: int, warning: str) -> None:
    """A changed or lost byte puts the decoder out of step, and it may be through long before the code ends."""
    spare = data[max(0, end - count) : end]
    if count * _SPARE_SHARE > len(data) and len(set(spare)) > 1:
        raise _fault(warning)
