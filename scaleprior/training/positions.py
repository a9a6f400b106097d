"""Which images belong to which step, as a pure function of the step.

Batch t of a run with N images and B images a step holds positions tB .. tB + B - 1 of an endless stream; position p
belongs to epoch p // N and is element p % N of that epoch's permutation, itself a hash of (seed, epoch). So the state
of a loader is the step: a resumed run, and a run with other worker counts, sees the same images. (torchdata's
StatefulDataLoader solves the harder problem of loaders that cannot jump; here it would only add worker snapshots.)
With W processes, process r takes positions r, r + W, ... of each batch: whatever N, B and W are, all are taken and
none of them twice, and shares differ by one image at most.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from scaleprior.corpus.hashing import mix64

__all__ = ["BatchPlan"]

_STREAM = 0x0DE  # keeps the order's randomness apart from other uses of the seed


@dataclass(frozen=True)
class BatchPlan:
    """Which images belong to which step; see the module's text.

    Attributes:
        images: N. batch_size: B, over all processes. seed: of the order.
        rank, processes: this process and how many there are.
    """

    images: int
    batch_size: int
    seed: int
    rank: int = 0
    processes: int = 1

    def __call__(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """(rows, epochs) of this process in ``step``: int64 [b] each; b is B / processes, rounded up or down."""
        positions = np.arange(step * self.batch_size + self.rank, (step + 1) * self.batch_size, self.processes)
        epochs = positions // self.images
        rows = np.empty_like(positions)
        for epoch in np.unique(epochs):
            chosen = epochs == epoch
            rows[chosen] = _permutation(self.images, self.seed, int(epoch))[positions[chosen] % self.images]
        return rows, epochs


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def _permutation(images: int, seed: int, epoch: int) -> np.ndarray:
    """Of 0..N-1: the order of their hashes, so it never changes with a NumPy version."""
    return np.argsort(mix64(_STREAM, seed, epoch, np.arange(images, dtype=np.uint64)), kind="stable")
