"""The order of images."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, strategies as st

from scaleprior.training.positions import BatchPlan


@pytest.mark.parametrize(("images", "batch"), [(10, 4), (7, 7), (3, 8), (1, 2)])
def test_every_epoch_is_a_permutation_and_epochs_differ(images: int, batch: int) -> None:
    plan = BatchPlan(images, batch, seed=1)
    rows, epochs = (np.concatenate(parts) for parts in zip(*(plan(step) for step in range(40))))
    orders = [tuple(rows[epochs == e]) for e in range(epochs.max())]
    assert all(sorted(order) == list(range(images)) for order in orders)
    assert len(set(orders)) > 1 or images == 1
    assert np.all(np.diff(epochs) >= 0)


def test_processes_share_each_batch_and_seeds_differ() -> None:
    whole, epochs = BatchPlan(10, 6, seed=1)(2)
    parts = [BatchPlan(10, 6, seed=1, rank=r, processes=3)(2) for r in range(3)]
    assert np.array_equal(np.stack([rows for rows, _ in parts], axis=1).ravel(), whole)
    assert np.array_equal(np.stack([e for _, e in parts], axis=1).ravel(), epochs)
    assert not np.array_equal(BatchPlan(10, 6, seed=2)(2)[0], whole)


@given(
    images=st.integers(1, 40), batch=st.integers(1, 17), processes=st.integers(1, 6), workers=st.integers(1, 4),
    start=st.integers(0, 9), seed=st.integers(0, 3),
)  # fmt: skip
def test_every_image_once_an_epoch_over_all_processes_and_workers(
    images: int, batch: int, processes: int, workers: int, start: int, seed: int
) -> None:
    """Of any counts: whether the batch fits the processes or the epoch the batch, and wherever a run goes on."""
    steps = range(start, start + 2 + 3 * images // batch)
    seen: list[tuple[int, int]] = []
    for rank in range(processes):
        plan = BatchPlan(images, batch, seed, rank, processes)
        for worker in range(workers):  # as a loader deals its sampler's steps out
            for step in steps[worker::workers]:
                rows, epochs = plan(step)
                assert len(rows) in (batch // processes, -(-batch // processes))
                seen += zip(epochs.tolist(), rows.tolist())
    first, last = steps[0] * batch, (steps[-1] + 1) * batch - 1
    whole = range(-(-first // images), (last + 1) // images)  # epochs that begin and end within these steps
    counts = Counter(seen)
    assert set(counts.values()) == {1}
    assert len(seen) == len(steps) * batch
    assert whole
    for epoch in whole:
        assert all(counts[epoch, row] == 1 for row in range(images))
