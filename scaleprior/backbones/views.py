"""Numbers as a file stores them (unaligned, of another width, turned around), and float32 made of them piece by piece.

A view costs nothing until somebody walks over it, and walking needs two buffers that fit into a core's cache: a whole
file is converted without a second copy of it in memory, whose pages alone would cost as much as reading them.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from typing import TYPE_CHECKING, Union

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Numbers", "Pieces", "to_tensor"]

Numbers = Union[np.ndarray, "Tensor"]
"""A view of floats (always carried over as float32), or a tensor (whose bytes are taken as they are)."""

PIECE = 1 << 20  # bytes; two of them stay in a core's second-level cache
_PAD = 4  # numbers; without them rows of 2^n bytes would fall into the same few lines of the cache


class Pieces:
    """The buffers of one thread."""

    def __init__(self) -> None:
        self._made, self._gathered = np.empty(PIECE // 4, np.float32), np.empty(PIECE // 2, np.float32)

    def of(self, values: Numbers) -> Iterator[np.ndarray]:
        """The numbers in row-major order: float32 [n] of a view, uint8 [n] of a tensor. Each holds until the next."""
        if not isinstance(values, np.ndarray):
            values = _raw(values)
        elif _is_plain(values):
            values = values.reshape(-1)
        elif values.flags.c_contiguous:
            yield from self._converted(values.reshape(-1))
            return
        else:
            yield from self._turned(values)
            return
        step = PIECE // values.itemsize
        for at in range(0, len(values), step):
            yield values[at : at + step]

    def _converted(self, values: np.ndarray) -> Iterator[np.ndarray]:
        for at in range(0, len(values), len(self._made)):
            part = values[at : at + len(self._made)]
            piece = self._made[: len(part)]
            _copy(piece, part)
            yield piece

    def _turned(self, values: np.ndarray) -> Iterator[np.ndarray]:
        """Some rows at a time; through rows as they lie in the file, where that avoids one cache line a number."""
        row = math.prod(values.shape[1:])
        rows = max(1, len(self._made) // max(row, 1))
        for at in range(0, len(values), rows):
            part = values[at : at + rows]
            padded = row * (len(part) + _PAD)
            if padded <= len(self._gathered):
                held = self._gathered[:padded].reshape(*values.shape[1:], -1)[..., : len(part)]
                _copy(held, np.moveaxis(part, 0, -1))
                part = np.moveaxis(held, -1, 0)
            piece = self._made[: part.size] if part.size <= len(self._made) else np.empty(part.size, np.float32)
            _copy(piece.reshape(part.shape), part)
            yield piece


def to_tensor(values: np.ndarray, pieces: Pieces) -> Tensor:
    """A tensor of float32 over the same memory if it can lie there, else in memory of its own."""
    import torch

    if _is_plain(values) and values.flags.writeable:
        return torch.from_numpy(values)
    made = np.empty(values.shape, np.float32)
    flat, at = made.reshape(-1), 0
    for piece in pieces.of(values):
        flat[at : at + len(piece)] = piece
        at += len(piece)
    _release(values)
    return torch.from_numpy(made)


def _raw(tensor: Tensor) -> np.ndarray:
    """The tensor's bytes, uint8 [N]; no copy if it lies on the CPU without gaps."""
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()


def _copy(into: np.ndarray, values: np.ndarray) -> None:
    with np.errstate(all="ignore"):  # a float64 beyond float32 becomes infinite, and is found as such
        np.copyto(into, values, casting="same_kind")


def _is_plain(values: np.ndarray) -> bool:
    return values.dtype == np.float32 and values.dtype.isnative and values.flags.c_contiguous and values.flags.aligned


def _release(values: np.ndarray) -> None:
    """Let go of the mapped pages that were copied; who touches them again gets them from the file again."""
    base = values
    while isinstance(base, np.ndarray):
        base = base.base
    mapped = base.obj if isinstance(base, memoryview) else base
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    low = values.ctypes.data - np.frombuffer(mapped, np.uint8).ctypes.data
    high = low + values.itemsize + sum((n - 1) * step for n, step in zip(values.shape, values.strides))
    start, end = -(-low // mmap.PAGESIZE) * mmap.PAGESIZE, high // mmap.PAGESIZE * mmap.PAGESIZE
    if start < end:
        mapped.madvise(mmap.MADV_DONTNEED, start, end - start)
