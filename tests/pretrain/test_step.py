"""One step: parts of a batch, limits of the gradient, and what is not finite."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from scaleprior.backbones import ResNetSpec, TimmSpec
from scaleprior.errors import FailureError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.data.batches import LabelledBatch
from scaleprior.pretrain.loop.step import TrainStep
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.training.processes import ProcessGroup

CPU = torch.device("cpu")
ALONE = ProcessGroup(0, 1, CPU)
LABELS = 8


def network(norm: str = "GN") -> Pretrainer:
    torch.manual_seed(0)
    spec = ResNetSpec(depth=50, res2_out_channels=32, width_per_group=32, norm=norm)
    return Pretrainer(spec, LABELS, pixel_mean=[127.5] * 3, pixel_std=[127.5] * 3, bias=-2.0).train()


def batch(images: int) -> LabelledBatch:
    generator = torch.Generator().manual_seed(images)
    pixels = torch.randint(0, 256, (images, 32, 32, 3), dtype=torch.uint8, generator=generator)
    labels = torch.arange(images) % LABELS
    return LabelledBatch(
        pixels, Targets.from_csr(labels, torch.arange(images + 1), classes=LABELS), torch.arange(images)
    )


def step_of(model: Pretrainer, **options: float) -> TrainStep:
    return TrainStep(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), ALONE, **options)


def test_parts_of_a_batch_add_up_with_norms_over_channels() -> None:
    """ConvNeXt's LN; 4 images in 2 parts."""
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        options = {"pixel_mean": [127.5] * 3, "pixel_std": [127.5] * 3, "bias": -2.0}
        models.append(Pretrainer(TimmSpec("convnext_tiny"), LABELS, **options).train())
    once = step_of(models[0])(batch(4), images=4, rate=0.1)
    again = step_of(models[1], accumulate=2)(batch(4), images=4, rate=0.1)
    assert again.loss.item() == pytest.approx(once.loss.item(), rel=1e-5)
    assert again.gradient_norm.item() == pytest.approx(once.gradient_norm.item(), rel=1e-4)
    for a, b in zip(*(model.parameters() for model in models)):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("images", "parts"), [(6, 3), (7, 3), (5, 8)])
def test_parts_of_a_batch_add_up_to_its_gradient(images: int, parts: int) -> None:
    """7 images in 3 parts are 3, 2 and 2; 5 are at most 2 parts, for BN has no variance of one image."""
    whole, split = network(), network()
    once = step_of(whole)(batch(images), images=images, rate=0.1)
    again = step_of(split, accumulate=parts)(batch(images), images=images, rate=0.1)
    assert again.loss.item() == pytest.approx(once.loss.item(), rel=1e-5)
    assert again.gradient_norm.item() == pytest.approx(once.gradient_norm.item(), rel=1e-4)
    for a, b in zip(whole.parameters(), split.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_the_gradient_norm_and_its_limit_are_those_of_torch() -> None:
    limit, images = 0.01, 4
    model, peer = network(), network()
    figures = step_of(model, clip_norm=limit)(batch(images), images=images, rate=0.1)
    optimizer = torch.optim.SGD(peer.parameters(), lr=0.1, momentum=0.9)
    example = batch(images)
    (peer(example.images, example.targets) / images).backward()
    norm = nn.utils.clip_grad_norm_(peer.parameters(), limit)
    optimizer.step()
    assert norm > limit
    assert figures.gradient_norm.item() == pytest.approx(norm.item(), rel=1e-6)
    for a, b in zip(model.parameters(), peer.parameters()):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_what_is_not_finite_changes_no_weight(where: str) -> None:
    model = network()
    step = step_of(model, clip_norm=1.0)
    assert step(batch(4), images=4, rate=0.1).finite
    if where == "loss":
        model.pixel_std.zero_()  # pixels of inf
    else:
        model.head.weight.register_hook(lambda gradient: gradient * torch.inf)
    before = copy.deepcopy((list(model.parameters()), step.optimizer.state_dict()["state"]))
    figures = step(batch(4), images=4, rate=0.1)
    assert not figures.finite
    assert bool(torch.isfinite(figures.loss)) == (where == "gradient")
    after = list(model.parameters()), step.optimizer.state_dict()["state"]
    assert all(torch.equal(a, b) for a, b in zip(before[0], after[0]))
    assert all(torch.equal(before[1][k]["momentum_buffer"], after[1][k]["momentum_buffer"]) for k in before[1])


def test_a_gradient_that_is_not_finite_stops_a_run_before_it_is_saved(
    small_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, calls = Pretrainer.forward, []

    def overflowing(self: Pretrainer, *args: object) -> torch.Tensor:
        calls.append(None)
        if len(calls) == 3:
            self.head.weight.register_hook(lambda gradient: gradient * torch.nan)
        return forward(self, *args)

    monkeypatch.setattr(Pretrainer, "forward", overflowing)
    with pytest.raises(FailureError, match=r"the gradient's norm is nan at step 2, with images '\w+/\d+.png', "):
        pretrain(small_config(), tmp_path / "run")
    monkeypatch.undo()
    whole = pretrain(small_config(), tmp_path / "whole")
    resumed = pretrain(small_config(), tmp_path / "run", resume=True)
    assert resumed.metrics.loss == whole.metrics.loss
