"""A step asks its device for no answer, which a GPU's host would have to wait for and a graph cannot record."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from scaleprior.pretrain.data.batches import LabelledBatch
from scaleprior.pretrain.loop.step import TrainStep
from scaleprior.pretrain.losses import terms
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.optim.average import WeightAverage
from scaleprior.pretrain.optim.optimizers import device_optimizer
from scaleprior.training.optimizers import guard
from scaleprior.training.processes import ProcessGroup
from tests.asked import Asked
from tests.pretrain.test_modes import LABELS, batch, network

CPU = torch.device("cpu")


def known(found: LabelledBatch) -> LabelledBatch:
    """The same batch, with one label of each image known to be absent and the rest unknown."""
    rows = torch.arange(found.targets.images)
    return replace(found, targets=replace(found.targets, absent=(rows, torch.full_like(rows, LABELS - 1))))


def asked(model: Pretrainer, name: str, found: LabelledBatch, *, padded: bool, amp: bool = False) -> list[str]:
    """What the second of two steps as a GPU makes them asks for."""
    weights = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": weights, "weight_decay": 1e-4}]
    optimizer = device_optimizer(name, groups, lr=0.1, momentum=0.9, device=CPU)
    average = WeightAverage(model.learning_state(), 0.9)
    options: dict[str, Any] = {"accumulate": 2, "clip_norm": 1.0, "amp": amp, "average": average}
    step = TrainStep(model, optimizer, ProcessGroup(0, 1, CPU), **options)
    step._found_inf = torch.zeros(())
    guard(optimizer, step._found_inf)
    parts = list(found.parts(2))
    if padded:
        parts = [(images, targets.padded(64, 64 * (targets.absent is not None))) for images, targets in parts]
    step._update(parts, len(found))
    with Asked() as mode:
        step._update(parts, len(found))
        average.update()
    return mode.names


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("some", [False, True])
@pytest.mark.parametrize("settings", [{}, {"smoothing": 0.1}, {"chunk": 3}])
def test_no_loss_asks(settings: dict[str, Any], some: bool, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terms, "_fuses", lambda logits: True)
    model, found = network(), batch(0, images=6)
    vars(model.head).update(settings)
    assert asked(model, "rmsprop", known(found) if some else found, padded=padded) == []


@pytest.mark.parametrize("name", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("freeze", [False, True])
def test_no_optimizer_asks(name: str, freeze: bool) -> None:
    model = network(small=False)
    model.trunk.set_drop_path(0.2)
    if freeze:
        model.freeze_trunk()
    assert asked(model, name, batch(0, images=6), padded=False, amp=True) == []


def test_an_answer_is_seen() -> None:
    values = torch.arange(3.0)
    with Asked() as mode:
        values[values > 1]
        values[values > 1] = 0
        values[torch.tensor([1])]
        bool(values[0] == 0)
        torch.nonzero(values)
        torch.unique(values)
        torch._foreach_add_([values], torch.ones(()))
    seen = ["index of a mask", "index_put_ of a mask", "_local_scalar_dense", "nonzero", "_unique2"]
    assert mode.names == [*seen, "_local_scalar_dense"]
