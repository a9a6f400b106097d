"""Stable 64-bit hashes: the order of a corpus (``hash64``) and random numbers that belong to a key (``mix64``).

Shapes: N keys. Both are fixed by their definition, not by a library's choice: changing either would change which
images every fraction holds, so tests pin their values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

__all__ = ["hash64", "mix64", "unit_interval"]


def hash64(keys: Iterable[str], salt: str = "") -> np.ndarray:
    """Hash of each key: the first 8 bytes, big-endian, of BLAKE2b-64 over ``salt``, a zero byte and ``key`` (UTF-8).

    Args:
        keys: N keys.
        salt: another salt gives another, independent order of the same images.

    Returns:
        uint64 [N].
    """
    # The zero byte keeps (salt "a", key "bc") apart from (salt "ab", key "c"); a key never holds one.
    start = hashlib.blake2b(salt.encode("utf-8") + b"\0", digest_size=8)

    def digest(key: str) -> bytes:
        state = start.copy()
        state.update(key.encode("utf-8"))
        return state.digest()

    return np.frombuffer(b"".join(map(digest, keys)), dtype=">u8").astype(np.uint64)


def mix64(*parts: np.ndarray | int) -> np.ndarray:
    """Mix integers into well-spread 64-bit values by chaining the SplitMix64 finaliser (Steele et al., 2014).

    Args:
        parts: integers or integer arrays that broadcast together; values are taken modulo 2**64.

    Returns:
        uint64 array of the broadcast shape (0-d for integers only).
    """
    state = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        for part in parts:
            value = np.uint64(part & 0xFFFFFFFFFFFFFFFF) if isinstance(part, int) else part.astype(np.uint64)
            z = (state ^ value) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            state = z ^ (z >> np.uint64(31))
    return np.asarray(state)


def unit_interval(bits: np.ndarray) -> np.ndarray:
    """Map uint64 to float64 in [0, 1) by its upper 53 bits, exactly."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
