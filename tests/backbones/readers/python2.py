"""Pickles as Python 2's cPickle wrote them (protocol 2), put together from instructions."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

__all__ = ["python2_pickle"]


def _string(data: bytes) -> bytes:
    return b"U" + bytes([len(data)]) + data if len(data) < 256 else b"T" + struct.pack("<i", len(data)) + data


def _int(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def python2_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """A dict of float32 arrays; names and content are byte strings, which Python 3 sees through an encoding."""
    parts = [b"\x80\x02}("]
    for name, array in arrays.items():
        shape = b"(" + b"".join(_int(n) for n in array.shape) + b"t"
        dtype = b"cnumpy\ndtype\n" + _string(b"f4") + b"K\x00K\x01\x87R(K\x03" + _string(b"<") + b"NNN"
        dtype += _int(-1) + _int(-1) + b"K\x00tb"
        parts.append(_string(name.encode()) + b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85")
        parts += [_string(b"b") + b"\x87R(K\x01" + shape + dtype + b"\x89", _string(array.tobytes()), b"tb"]
    return b"".join([*parts, b"u."])
