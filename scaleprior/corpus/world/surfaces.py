"""Sampling tiles and mixing colours in integer arithmetic: the inner loops of the world's renderer.

Shapes: h x w pixels of a window of the canvas; tables have one entry for each of the 256 levels of a tile.
"""

from __future__ import annotations

import numpy as np

from scaleprior.corpus.world.tiles import SHAPE_LEVELS

__all__ = ["mixing", "pixels", "ramp", "sample"]

_ONE = 65536  # 1.0 in 16.16 fixed point


def sample(
    tile: np.ndarray,
    side: int,
    texels: float,
    cosine: float,
    sine: float,
    columns: np.ndarray,
    rows: np.ndarray,
    u0: float,
    v0: float,
    *,
    origin: tuple[float, float] = (0.0, 0.0),
    squeeze: float = 1.0,
) -> np.ndarray:
    """Look a window up in a flat square tile, rotated by (cosine, sine) about ``origin``, wrapping at its edges.

    Args:
        tile: uint8 [side * side]; ``side`` is a power of two.
        texels: tile texels per pixel.
        columns: int32 [w], rows: int32 [h], pixel coordinates of the window.
        u0: texel at the origin, across; v0: down.
        squeeze: how much narrower the second axis is.

    Returns:
        uint8 [h, w].
    """
    step = texels * _ONE
    across, down = cosine * step, sine * step
    x0, y0 = origin[0] - 0.5, origin[1] - 0.5  # pixel centres
    # int32 may wrap around: a power-of-two tile wraps with it
    a = _fixed(across) * columns + _fixed(u0 * _ONE - across * x0 - down * y0)
    b = _fixed(down) * rows
    c = _fixed(-down * squeeze) * columns + _fixed(v0 * _ONE + squeeze * (down * x0 - across * y0))
    d = _fixed(across * squeeze) * rows
    u = np.add.outer(b, a)
    v = np.add.outer(d, c)
    bits = side.bit_length() - 1
    u >>= 16
    u &= side - 1
    v >>= 16 - bits
    v &= (side - 1) << bits
    u |= v
    return tile.take(u)


def _fixed(value: float) -> np.int32:
    """Round to an integer modulo 2**32, as int32."""
    return np.int32((round(value) + 2**31) % 2**32 - 2**31)


def pixels(table: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Look up four channels at once: table uint64 [256], each four uint16; level uint8 [h, w]; uint16 [h, w, 4]."""
    return table.take(level).view(np.uint16).reshape(*level.shape, 4)


def ramp(low: tuple[int, int, int], high: tuple[int, int, int]) -> np.ndarray:
    """A table for ``pixels`` from one colour to the other."""
    start = np.array([*low, 0], dtype=np.int32)
    change = np.array([*high, 0], dtype=np.int32) - start
    return (start + (_LEVELS * change >> 8)).astype(np.uint16).view(np.uint64).ravel()


_LEVELS = np.arange(256, dtype=np.int32)[:, None]
_INSIDE = (np.arange(256) - 128) / SHAPE_LEVELS  # signed distance of each level
_RIM = np.clip(1 - _INSIDE / 0.3, 0, 1)  # 1 at the outline, 0 from 0.3 inside
_HALO = np.clip(1 + _INSIDE / 0.2, 0, 1)  # 1 at the outline, 0 from 0.2 outside


def mixing(radius: float, rim: float, shadow: float) -> tuple[np.ndarray, np.ndarray]:
    """Weights, out of 256, of what is behind and of the surface for each level of a shape: tables for ``pixels``.

    Args:
        radius: pixels per unit of signed distance.
        rim: how much darker the surface is at its outline, in [0, 1].
        shadow: how much darker the background is there, in [0, 1].
    """
    cover = np.minimum(np.maximum(_INSIDE * (256 * radius) + 128, 0), 256)
    behind = (256 - cover) * (1 - shadow * _HALO)
    front = cover * (1 - rim * _RIM)
    return np.repeat(behind.astype(np.uint16), 4).view(np.uint64), np.repeat(front.astype(np.uint16), 4).view(np.uint64)
