"""Polygons drawn into small squares, many at once, to the pixel as COCO's API draws each.

M objects of Q polygons, P points of all. The API (``rleFrPoly`` of pycocotools and faster-coco-eval) walks along every
edge in steps of a fifth of a pixel, and keeps the steps alone that pass the middle of a column of pixels: from the row
there downwards, outside becomes inside and inside outside. Here they are found by division: in a square of 28 pixels
some 60 of 600.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["LARGEST", "rasterise"]

LARGEST = 63
"""Side of a square, in pixels: a column is a word of 64 bits."""

_STEPS = 5  # of an outline in a pixel; the middle of column c lies between steps 5 c + 2 and 5 c + 3
_BELOW = np.uint64(2**64 - 1)
_DOUBT = 1e-6  # of a step; division is off by less than 1e-9 of one


class _Crossed(NamedTuple):
    """Places where edges pass the middles of columns: polygon, column, and the step of the row there, int64 [K]."""

    owner: np.ndarray
    column: np.ndarray
    level: np.ndarray


class _Edges(NamedTuple):
    """Alike edges, turned so that what they have a step in each of ascends; [E].

    Attributes:
        x, y: where they begin, in steps.
        slope: of the other one by that one.
        first, times: the first column whose middle they pass, and how many they pass.
        owner: their polygon.
    """

    x: np.ndarray
    y: np.ndarray
    slope: np.ndarray
    first: np.ndarray
    times: np.ndarray
    owner: np.ndarray

    def each(self) -> tuple[np.ndarray, np.ndarray]:
        """Edge and column, int64 [K], of all that they pass."""
        edge = np.repeat(np.arange(len(self.times)), self.times)
        begun = np.cumsum(self.times) - self.times - self.first
        return edge, np.arange(len(edge)) - begun[edge]


def rasterise(points: np.ndarray, counts: Sequence[int], objects: Sequence[int], side: int) -> np.ndarray:
    """uint8 [M, side, side] of 0 and 1: the union of each object's polygons.

    Args:
        points: float64 [P, 2], x and y in pixels of the square, of one polygon behind the other.
        counts: points of each of the polygons. objects: polygons of each of the objects.
        side: at most ``LARGEST``.
    """
    assert side <= LARGEST, side
    columns = np.zeros(len(counts) * side, dtype=np.uint64)  # the highest pixel is the lowest bit
    for crossed in _crossings(points, np.asarray(counts), side):
        row = np.clip((crossed.level + 2) // _STEPS, 0, side).astype(np.uint64)
        np.bitwise_xor.at(columns, crossed.owner * side + crossed.column, _BELOW << row)
    starts = np.cumsum([0, *objects[:-1]])
    united = np.bitwise_or.reduceat(columns.reshape(-1, side), starts, axis=0).astype("<u8")
    bits = np.unpackbits(united[..., None].view(np.uint8), axis=2, count=side, bitorder="little")
    return np.ascontiguousarray(bits.transpose(0, 2, 1))


def _crossings(points: np.ndarray, counts: np.ndarray, side: int) -> tuple[_Crossed, _Crossed]:
    """Of flat edges and of steep ones."""
    steps = (points * _STEPS + 0.5).astype(np.int64)  # towards 0, as in C
    ends = np.cumsum(counts)
    following = np.arange(1, len(points) + 1)
    following[ends - 1] = ends - counts
    x, y = steps.T
    low, high = np.minimum(x, x[following]), np.maximum(x, x[following])
    first = np.maximum((low + 2) // _STEPS, 0)
    times = np.minimum((high - 3) // _STEPS, side - 1) - first + 1
    passing = np.flatnonzero(times > 0)
    x, y, other_x, other_y = x[passing], y[passing], x[following[passing]], y[following[passing]]
    first, times = first[passing], times[passing]
    owner = np.repeat(np.arange(len(counts)), counts)[passing]
    across, down = other_x - x, other_y - y
    flat = np.abs(across) >= np.abs(down)
    turned = np.where(flat, across, down) < 0
    x, y = np.where(turned, other_x, x), np.where(turned, other_y, y)
    with np.errstate(divide="ignore"):  # of an edge that is level, which is flat
        slope = np.where(flat, down / across, across / down)
    parts = [_Edges(*(each[part] for each in (x, y, slope, first, times, owner))) for part in (flat, ~flat)]
    return _of_flat(parts[0]), _of_steep(parts[1])


def _of_flat(edges: _Edges) -> _Crossed:
    """An edge with a step in every fifth of a column: the higher one of the two about the middle."""
    edge, column = edges.each()
    higher = (edges.slope < 0) - edges.x + 2
    return _Crossed(edges.owner[edge], column, _at(edges.y[edge], edges.slope[edge], column * _STEPS + higher[edge]))


def _of_steep(edges: _Edges) -> _Crossed:
    """An edge with a step in every fifth of a row: the last one on its first side of the middle."""
    edge, column = edges.each()
    x, slope, before = edges.x[edge], edges.slope[edge], column * _STEPS + 2
    step = np.floor((before + 0.5 - x) / slope - _DOUBT).astype(np.int64)
    # where a middle is as near as that, rounding decides, which has to be the API's
    step += (_at(x, slope, step + 1) > before) != (slope > 0)
    return _Crossed(edges.owner[edge], column, edges.y[edge] + step)


def _at(start: np.ndarray, slope: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Where an edge is after ``step`` steps; in this order of operations, or the last bit would be another."""
    return (start + slope * step + 0.5).astype(np.int64)
