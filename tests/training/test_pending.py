"""Figures that are read when the device has had the time: each step once, in order."""

from __future__ import annotations

import pytest
import torch

from scaleprior.training.pending import Pending

CPU = torch.device("cpu")


def test_on_a_cpu_a_step_is_read_at_once() -> None:
    pending: Pending[int] = Pending(CPU)
    for step in range(3):
        pending.add(step, torch.tensor([step, 0.5]))
        assert list(pending.settled()) == [(step, [step, 0.5])]
    assert len(pending) == 0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_a_step_is_read_when_the_next_was_handed_over_and_all_are_at_the_end() -> None:
    device = torch.device("cuda")
    pending: Pending[int] = Pending(device)
    read = []
    for step in range(3):
        value = torch.full((2,), float(step), device=device)
        pending.add(step, value)
        value.add_(100)  # what the device does next changes no figure that is on its way
        read.append(list(pending.settled()))
    assert read == [[], [(0, [0.0, 0.0])], [(1, [1.0, 1.0])]]
    assert list(pending.settled(all_of_them=True)) == [(2, [2.0, 2.0])]
