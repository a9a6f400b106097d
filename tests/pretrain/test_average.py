"""The average of the weights against timm's, a recursion in float64, and the formula of what it forgets."""

from __future__ import annotations

import math

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from scaleprior.pretrain.optim.average import WeightAverage, average_decay


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))


def trained(model: nn.Module, steps: int):
    """The model after each of ``steps`` steps, whose weights and statistics change in place."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    generator = torch.Generator().manual_seed(1)
    for step in range(steps):
        optimizer.zero_grad()
        model(torch.randn(5, 3, 4, 4, generator=generator)).square().mean().backward()
        optimizer.step()
        yield step


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.state_dict(keep_vars=True))


def test_it_is_timms_average_with_the_same_decays() -> None:
    model = network()
    ours, theirs = WeightAverage(state(model), 0.7), ModelEmaV3(model, decay=0.7)
    for step in trained(model, 40):
        ours.update()
        theirs.apply_update_(model, average_decay(0.7, step))
    with ours.in_place():
        for name, tensor in theirs.module.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


def test_it_is_the_recursion_of_the_module_in_float64() -> None:
    model, decay = network(), 0.6
    average = WeightAverage(state(model), decay)
    expected = {name: t.detach().double() for name, t in model.state_dict().items()}
    for step in trained(model, 30):
        average.update()
        d = min(decay, (1 + step) / (10 + step))
        for name, tensor in model.state_dict().items():
            expected[name] = d * expected[name] + (1 - d) * tensor.double()
    for name, tensor in average.state_dict()["average"].items():
        torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-6)  # float32 sums of 30
    assert "1.num_batches_tracked" not in average.state_dict()["average"]


def test_a_short_run_forgets_its_start() -> None:
    """Of a start of 1 and weights of 0, t steps leave 9! t! / (t + 9)!; a constant decay would leave 0.9999**t."""
    weight = torch.ones(1, dtype=torch.float64)
    average = WeightAverage({"w": weight}, 0.9999)
    weight.zero_()
    left = 1.0
    for t in range(1, 101):
        average.update()
        left = math.factorial(9) * math.factorial(t) / math.factorial(t + 9)
        assert average.state_dict()["average"]["w"].item() == pytest.approx(left, rel=1e-9)
    assert left < 1e-9
    assert average_decay(0.9999, 10**6) == 0.9999


def test_weights_come_back_and_the_average_goes_on_from_its_state() -> None:
    model = network()
    average = WeightAverage(state(model), 0.9)
    steps = trained(model, 6)
    for _ in range(3):
        next(steps)
        average.update()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with average.in_place():
        assert not torch.equal(model.state_dict()["0.weight"], before["0.weight"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    again = WeightAverage(state(model), 0.9)
    again.load_state_dict(average.state_dict())
    for _ in steps:
        average.update()
        again.update()
    for name, tensor in average.state_dict()["average"].items():
        assert torch.equal(tensor, again.state_dict()["average"][name])
    with pytest.raises(KeyError, match=r"0\.bias"):
        again.load_state_dict({"steps": 1, "average": {"0.weight": before["0.weight"]}})


def test_layout_in_memory_is_kept() -> None:
    model = network().to(memory_format=torch.channels_last)
    average = WeightAverage(state(model), 0.9)
    kept = average.state_dict()["average"]["0.weight"]
    assert kept.is_contiguous(memory_format=torch.channels_last)
