"""The loss benchmark: what it counts as memory, and that its comparison is of equal things."""

from __future__ import annotations

import torch

from benchmarks.pretrain_loss import compare_losses, peak_bytes

CPU = torch.device("cpu")


def test_the_peak_is_what_was_there_at_once() -> None:
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.zeros(100_000)

    def together() -> None:
        _ = [torch.zeros(100_000) for _ in range(3)]

    assert peak_bytes(one_after_the_other, CPU) == 400_000
    assert peak_bytes(together, CPU) == 1_200_000


def test_the_dense_target_and_its_loss_are_counted() -> None:
    found = compare_losses(64, 5000, torch.float32, CPU, rounds=1)
    dense = 64 * 5000 * 4 / 2**20
    assert found["peer_mib"] > 2.9 * dense  # the target, and what the peer makes of it
    assert found["mine_mib"] < 2.1 * dense  # the gradient, and a block of losses
    assert found["memory"] == found["mine_mib"] / found["peer_mib"]
