"""The order of images."""

from __future__ import annotations

import numpy as np
import pytest

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
