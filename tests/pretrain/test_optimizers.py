"""Optimisers: those of a GPU against timm's and torch's own, and that a step with ``found_inf`` changes nothing."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from timm.optim import create_optimizer_v2
from torch import Tensor, nn

from scaleprior.config import load_config
from scaleprior.errors import UserError
from scaleprior.pretrain.optim.optimizers import build_optimizer, device_optimizer, set_rate
from scaleprior.training.checkpoint import load_checkpoint, save_checkpoint
from scaleprior.training.optimizers import guard, guards_itself, load_optimizer

TIMM = {"sgd": "nesterov", "rmsprop": "rmsproptf", "adamw": "adamw", "lamb": "lamb"}
ON_DEVICE = ("sgd", "rmsprop", "adamw")
CPU = torch.device("cpu")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8 * 4, 5))


def groups(model: nn.Module) -> list[dict[str, Any]]:
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": weights, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]


def timms(name: str, model: nn.Module, *, momentum: float = 0.9, lr: float = 0.1) -> torch.optim.Optimizer:
    options = {"lr": lr, "weight_decay": 0.0, "momentum": momentum, "filter_bias_and_bn": False}
    return create_optimizer_v2(groups(model), opt=TIMM[name], **options)


def take_steps(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    """Weights after steps whose gradients and rates follow from their numbers."""
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for param in model.parameters():
            param.grad = torch.randn(param.shape, generator=generator)
        set_rate(optimizer, 0.05 / (1 + step))
        optimizer.step()
    return [p.detach().clone() for p in model.parameters()]


def state_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    return [value.clone() for state in optimizer.state.values() for value in state.values()]


def same(left: list[Tensor], right: list[Tensor]) -> bool:
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.parametrize("name", TIMM)
def test_on_a_cpu_they_are_timms_to_the_bit(name: str) -> None:
    words = ["PRETRAIN.OPTIMIZER.NAME", name, "PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "0.01"]
    cfg = load_config("Pretrain/Base-Pretrain.yaml", words).cfg
    model, peer = network(), network()
    ours = take_steps(model, build_optimizer(cfg, model), range(5))
    assert same(ours, take_steps(peer, timms(name, peer), range(5)))


def test_sgd_without_momentum_is_plain() -> None:
    cfg = load_config("Pretrain/Base-Pretrain.yaml", ["PRETRAIN.OPTIMIZER.MOMENTUM", "0"]).cfg
    model, before = network(), [p.detach().clone() for p in network().parameters()]
    (first, *_), grad = take_steps(model, build_optimizer(cfg, model), range(1)), next(model.parameters()).grad
    assert grad is not None
    torch.testing.assert_close(first, before[0] - 0.05 * (grad + 1e-4 * before[0]))


def test_an_unknown_name_is_refused() -> None:
    cfg = load_config("Pretrain/Base-Pretrain.yaml", []).cfg.clone()
    cfg.defrost()
    cfg.PRETRAIN.OPTIMIZER.NAME = "lion"
    with pytest.raises(UserError, match="NAME is 'lion'; take one of sgd, rmsprop, adamw, lamb"):
        build_optimizer(cfg, network())


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.parametrize("found", [None, 0.0])
def test_our_rmsprop_is_timms_to_the_bit(momentum: float, found: float | None) -> None:
    model, peer = network(), network()
    optimizer = device_optimizer("rmsprop", groups(model), lr=0.1, momentum=momentum, device=CPU)
    if found is not None:
        guard(optimizer, torch.tensor(found))
    ours = take_steps(model, optimizer, range(6))
    assert same(ours, take_steps(peer, timms("rmsprop", peer, momentum=momentum), range(6)))


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_fused_optimisers_move_as_timms_to_rounding(name: str) -> None:
    # torch's fused kernels add in another order: a few roundings of 6e-8 in a weight of about 1
    model, peer = network(), network()
    ours = take_steps(model, device_optimizer(name, groups(model), lr=0.1, momentum=0.9, device=CPU), range(6))
    for mine, theirs in zip(ours, take_steps(peer, timms(name, peer), range(6))):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", ON_DEVICE)
@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_step_with_found_inf_changes_nothing(name: str, before: int, bad: float) -> None:
    model, untouched = network(), network()
    optimizer = device_optimizer(name, groups(model), lr=0.1, momentum=0.9, device=CPU)
    peer = device_optimizer(name, groups(untouched), lr=0.1, momentum=0.9, device=CPU)
    assert guards_itself(optimizer)
    kept, state = take_steps(model, optimizer, range(before)), state_of(optimizer)
    for param in model.parameters():
        param.grad = torch.full_like(param, bad)
        param.grad.flatten()[0] = 1.0
    guard(optimizer, torch.tensor(1.0))
    optimizer.step()
    assert same([p.detach() for p in model.parameters()], kept)
    if before:
        assert same(state_of(optimizer), state)
    # ... and the next step is the one that a run without the bad one takes, counters included
    guard(optimizer, torch.tensor(0.0))
    after = take_steps(model, optimizer, range(before, before + 2))
    assert same(after, take_steps(untouched, peer, range(before + 2)))
    assert same(state_of(optimizer), state_of(peer))


def test_of_timms_the_host_has_to_look() -> None:
    assert not guards_itself(timms("lamb", network()))
    assert not guards_itself(timms("sgd", network()))


@pytest.mark.parametrize("name", ON_DEVICE)
def test_the_rate_stays_one_tensor_in_its_place(name: str) -> None:
    model = network()
    optimizer = device_optimizer(name, groups(model), lr=0.1, momentum=0.9, device=CPU)
    places = [group["lr"].data_ptr() for group in optimizer.param_groups]
    saved = copy.deepcopy(optimizer.state_dict())
    set_rate(optimizer, 0.025)
    load_optimizer(optimizer, saved)
    assert [group["lr"].data_ptr() for group in optimizer.param_groups] == places
    assert [float(group["lr"]) for group in optimizer.param_groups] == [pytest.approx(0.025)] * 2


@pytest.mark.parametrize(
    ("name", "towards"), [*((n, t) for n in ON_DEVICE for t in ("device", "host", "same")), ("lamb", "same")]
)
def test_a_run_goes_on_under_the_other_optimiser_of_the_name(name: str, towards: str, tmp_path: Path) -> None:
    def make(kind: str, model: nn.Module) -> torch.optim.Optimizer:
        if kind == "host":
            return timms(name, model)
        return device_optimizer(name, groups(model), lr=0.1, momentum=0.9, device=CPU)

    start, end = {"device": ("host", "device"), "host": ("device", "host"), "same": ("host", "host")}[towards]
    whole, first = network(), network()
    reference = take_steps(whole, make(start, whole), range(5))
    optimizer = make(start, first)
    take_steps(first, optimizer, range(3))
    save_checkpoint(tmp_path / "state", {"optimizer": optimizer.state_dict()})
    second = copy.deepcopy(first)
    other = make(end, second)
    load_optimizer(other, load_checkpoint(tmp_path / "state")["optimizer"])
    for mine, theirs in zip(take_steps(second, other, range(3, 5)), reference):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=2e-6)
    if towards == "same":
        assert same([p.detach() for p in second.parameters()], reference)


@pytest.mark.parametrize("name", ON_DEVICE)
def test_going_on_over_weights_in_channels_last_is_exact(name: str, tmp_path: Path) -> None:
    """A checkpoint does not know how a tensor lay in memory, and fused kernels take all by their places there."""

    def steps(model: nn.Module, optimizer: torch.optim.Optimizer, numbers: range) -> list[Tensor]:
        for step in numbers:
            generator = torch.Generator().manual_seed(step)
            for param in model.parameters():  # as backward passes lay them out: like their weights
                param.grad = torch.empty_like(param).copy_(torch.randn(param.shape, generator=generator))
            optimizer.step()
        return [p.detach().clone() for p in model.parameters()]

    model = network().to(memory_format=torch.channels_last)
    optimizer = device_optimizer(name, groups(model), lr=0.1, momentum=0.9, device=CPU)
    steps(model, optimizer, range(2))
    resumed = copy.deepcopy(model)
    save_checkpoint(tmp_path / "c", optimizer.state_dict())
    expected = steps(model, optimizer, range(2, 4))
    optimizer = device_optimizer(name, groups(resumed), lr=0.1, momentum=0.9, device=CPU)
    load_optimizer(optimizer, load_checkpoint(tmp_path / "c"))
    for param, kept in optimizer.state.items():
        assert all(value.stride() == param.stride() for value in kept.values() if value.shape == param.shape)
    assert all(torch.equal(a, b) for a, b in zip(expected, steps(resumed, optimizer, range(2, 4))))


def test_state_of_other_groups_is_refused() -> None:
    model = network()
    saved = torch.optim.SGD(model.parameters(), lr=0.1).state_dict()
    with pytest.raises(ValueError, match="different number of parameter groups"):
        load_optimizer(timms("sgd", network()), saved)


@pytest.mark.gpu
@pytest.mark.parametrize("name", ON_DEVICE)
def test_on_a_gpu_a_step_waits_for_nobody_and_moves_as_on_the_cpu(name: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    words = ["PRETRAIN.OPTIMIZER.NAME", name, "PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "0.01"]
    cfg = load_config("Pretrain/Base-Pretrain.yaml", words).cfg
    peer, model = network(), network().cuda()
    optimizer = build_optimizer(cfg, model)
    guard(optimizer, torch.zeros((), device="cuda"))
    grads = [torch.randn(p.shape, generator=torch.Generator().manual_seed(n)) for n, p in enumerate(peer.parameters())]
    for param, grad in zip(model.parameters(), grads):
        param.grad = grad.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        set_rate(optimizer, 0.05)
        optimizer.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    reference = timms(name, peer)
    set_rate(reference, 0.05)
    for param, grad in zip(peer.parameters(), grads):
        param.grad = grad
    reference.step()
    for mine, theirs in zip(model.parameters(), peer.parameters()):
        torch.testing.assert_close(mine.cpu(), theirs, rtol=1e-5, atol=1e-5)
