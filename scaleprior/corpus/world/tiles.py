"""Tiles that the synthetic world is drawn from: signed distances of shapes, and one period of textures.

A tile is a square uint8 array that the renderer samples through an integer affine map. Values are rounded from
float64, so that platforms whose sine differs in the last bit agree on all but perhaps single levels.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["BLOBS", "SHAPE_EXTENT", "SHAPE_LEVELS", "SHAPE_TILE", "TEXTURE_TILE", "shape_tile", "texture_tile"]

SHAPE_TILE = 256  # texels a side
SHAPE_EXTENT = 1.5  # the tile covers [-1.5, 1.5] squared; shapes fit into the unit circle
SHAPE_LEVELS = 80.0  # levels per unit of signed distance; 128 is the outline, more is inside
TEXTURE_TILE = 64  # texels of one period
BLOBS = 4  # unlabelled shapes, names "blob0" to "blob3"


def shape_tile(name: str) -> np.ndarray:
    """uint8 [256, 256]: ``128 + 80 x`` signed distance to the outline (inside positive), clipped to [0, 255]."""
    x, y = _grid(SHAPE_TILE, -SHAPE_EXTENT, SHAPE_EXTENT)
    if name == "ring":
        distance = 0.3 - np.abs(np.hypot(x, y) - 0.68)
    elif name == "crescent":
        distance = np.minimum(0.95 - np.hypot(x, y), np.hypot(x - 0.45, y) - 0.72)
    else:
        distance = _polygon_distance(_outline(name), x, y)
    return np.clip(np.rint(128 + SHAPE_LEVELS * distance), 0, 255).astype(np.uint8)


def _outline(name: str) -> np.ndarray:
    """Corners [E, 2] of a shape within the unit circle; curves get 48 corners."""
    turn = np.arange(48) * (2 * np.pi / 48)
    if name.startswith("blob"):
        k = int(name[4:])
        radius = 0.7 + 0.16 * np.sin((2 + k % 3) * turn + k) + 0.12 * np.sin((3 + k) * turn + 2.1 * k)
        return _polar(radius, turn)
    if name == "disk":
        return _polar(np.full(48, 0.9), turn)
    if name == "flower":
        return _polar(0.74 + 0.24 * np.cos(5 * turn), turn)
    if name == "drop":
        return np.stack([0.62 * np.sin(turn) * np.sin(turn / 2) ** 1.5 * 1.2, 0.95 * np.cos(turn)], axis=1)
    if name == "heart":
        wide = np.sin(turn) ** 3
        high = (13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)) / 16
        return np.stack([0.92 * wide, -0.92 * high], axis=1)
    if name == "star":
        return _polar(np.tile([1.0, 0.42], 5), np.arange(10) * (np.pi / 5) - np.pi / 2)
    if name == "cross":
        arm = [(0.3, -0.95), (0.3, -0.3), (0.95, -0.3)]
        corners = [_quarter_turns(np.array(arm), k) for k in range(4)]
        return np.concatenate(corners)
    if name == "arrow":
        return np.array([(0, -0.98), (0.78, -0.1), (0.3, -0.1), (0.3, 0.9), (-0.3, 0.9), (-0.3, -0.1), (-0.78, -0.1)])
    corners, size = {"square": (4, 0.98), "triangle": (3, 0.98), "hexagon": (6, 0.95)}[name]
    return _polar(np.full(corners, size), (np.arange(corners) + 0.5) * (2 * np.pi / corners))


def _polar(radius: np.ndarray, turn: np.ndarray) -> np.ndarray:
    return np.stack([radius * np.cos(turn), radius * np.sin(turn)], axis=1)


def _quarter_turns(points: np.ndarray, times: int) -> np.ndarray:
    for _ in range(times):
        points = np.stack([-points[:, 1], points[:, 0]], axis=1)
    return points


def _polygon_distance(corners: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Signed distance to a polygon's outline, inside positive: nearest edge, and the even-odd rule for the sign."""
    nearest = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, dtype=bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0)):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
        nearest = np.minimum(nearest, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ay != by:
            inside ^= ((ay > y) != (by > y)) & (x < (bx - ax) * (y - ay) / (by - ay) + ax)
    return np.where(inside, 1, -1) * np.sqrt(nearest)


def texture_tile(name: str) -> np.ndarray:
    """uint8 [64, 64]: one period of the texture, 0 its dark and 255 its light colour; wraps around smoothly."""
    u, v = _grid(TEXTURE_TILE, 0, 1)
    patterns: dict[str, Callable[[], np.ndarray]] = {
        "stripes": lambda: _soft(np.sin(2 * np.pi * v)),
        "waves": lambda: _soft(np.sin(2 * np.pi * (v + 0.2 * np.sin(2 * np.pi * u)))),
        "grid": lambda: _soft(4 * (0.16 - np.minimum(np.abs(u - 0.5), np.abs(v - 0.5)))),
        "checks": lambda: _soft(1.5 * np.sin(2 * np.pi * u) * np.sin(2 * np.pi * v)),
        "dots": lambda: _soft(4 * (0.3 - np.hypot(u - 0.5, v - 0.5))),
        "rings": lambda: _soft(np.sin(6 * np.pi * np.hypot(u - 0.5, v - 0.5))),
        "bricks": lambda: _soft(5 * np.minimum(_joint(2 * v % 1), _joint((u + 0.5 * (v >= 0.5)) % 1)) - 0.3),
        "speckle": lambda: _soft(
            np.sin(2 * np.pi * (2 * u + v)) + np.sin(2 * np.pi * (u - 2 * v)) + np.sin(2 * np.pi * (3 * v + u)) - 0.8
        ),
    }
    return np.rint(255 * patterns[name]()).astype(np.uint8)


def _soft(value: np.ndarray) -> np.ndarray:
    """A step at 0 with a ramp a fraction of a period wide, so that coarse sampling does not shimmer."""
    return np.clip(0.5 + 1.6 * value, 0, 1)


def _joint(phase: np.ndarray) -> np.ndarray:
    """Distance to the nearest joint of a row of bricks, in bricks."""
    return np.minimum(phase, 1 - phase)


def _grid(texels: int, low: float, high: float) -> tuple[np.ndarray, np.ndarray]:
    centres = low + (high - low) * (np.arange(texels) + 0.5) / texels
    return np.meshgrid(centres, centres)
