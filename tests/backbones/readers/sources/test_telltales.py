"""Values that betray how pixels were normalised: told where they are, and never a false alarm."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.models import resnet18

from benchmarks.exactness import randomise
from scaleprior.backbones import ReadOptions, read_backbone
from scaleprior.backbones.readers.sources.telltales import affine_norms, stem_evidence
from scaleprior.backbones.trunks.published import USUAL
from scaleprior.backbones.verify import verify_backbone
from scaleprior.errors import UserError

SETS = {name: (u.facts.pixel_mean, u.facts.pixel_std, u.facts.channel_order) for name, u in USUAL.items()}
SETS["raw"] = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB")
MIXED = 3
TOLD = {"unit": ("torchvision", "clip", "msra", "raw"), "torchvision": ("unit", "msra", "raw"),
        "msra": ("torchvision", "unit", "half", "clip")}  # fmt: skip
"""Truth -> sets that must be contradicted under it."""


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def pictures(seed: int, count: int = 40, side: int = 64) -> Tensor:
    """Images with the spectrum, the contrast and the colours of photographs, RGB, 0-255: [count, 3, side, side]."""
    generator = torch.Generator().manual_seed(seed)
    frequency = torch.fft.fftfreq(side)
    power = 1 / (frequency[:, None] ** 2 + frequency[None] ** 2).clamp_min(1 / side**2)
    power[0, 0] = 0
    noise = torch.fft.fft2(torch.randn(count, 3, side, side, generator=generator)) * power.sqrt()
    waves = torch.fft.ifft2(noise).real
    waves = waves / waves.std((2, 3), keepdim=True)
    colours = torch.tensor([[0.95, 0.25, 0.15], [0.95, 0.0, -0.25], [0.95, -0.25, 0.15]])
    brightness = 0.15 * torch.randn(count, 1, 1, 1, generator=generator)
    image = 0.2 * torch.einsum("cd,ndhw->nchw", colours, waves) + brightness
    return (255 * (image + torch.tensor([0.485, 0.456, 0.406])[:, None, None])).clamp(0, 255)


def stem(images: Tensor, truth: str, seed: int) -> dict[str, np.ndarray]:
    """Random filters and the statistics of what they make of the images."""
    mean, std, order = SETS[truth]
    weight = torch.randn(64, 3, 7, 7, generator=torch.Generator().manual_seed(seed)) * (2 / (64 * 49)) ** 0.5
    pixels = images if order == "RGB" else images.flip(1)
    pixels = (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    out = F.conv2d(pixels, weight, stride=2, padding=3)
    named = {"weight": weight, "norm.running_mean": out.mean((0, 2, 3)), "norm.running_var": out.var((0, 2, 3))}
    return {f"stem.conv1.{name}": tensor.numpy() for name, tensor in named.items()}


@pytest.mark.parametrize("truth", SETS)
def test_the_first_norm_betrays_another_scale_and_never_the_truth(truth: str) -> None:
    for seed in range(4):
        images = pictures(seed)
        if seed == MIXED:
            images = (images + images.flip(0)) / 2  # as mixup has them: of less contrast, so that less is told
        tensors = stem(images, truth, seed)
        for taken, statistics in SETS.items():
            said = stem_evidence(tensors, *statistics)
            if taken == truth:
                assert said is None, (seed, said)
            elif taken in TOLD.get(truth, ()) and seed != MIXED:
                assert re.search(rf"those of .*\b{truth}\b.* fit$", said or ""), (seed, taken, said)


def test_statistics_of_ones_own_and_untouched_norms_are_not_judged() -> None:
    tensors = stem(pictures(0), "unit", 0)
    assert stem_evidence(tensors, (100.0, 90.0, 80.0), (50.0, 50.0, 50.0), "RGB") is None
    fresh = {**tensors, "stem.conv1.norm.running_mean": np.zeros(64), "stem.conv1.norm.running_var": np.ones(64)}
    assert stem_evidence(fresh, *SETS["torchvision"]) is None
    assert stem_evidence({}, *SETS["torchvision"]) is None


def named_by_torchvision(statistics: dict[str, np.ndarray]) -> dict[str, Tensor]:
    torch.manual_seed(0)
    state = randomise(resnet18(num_classes=5), 0).state_dict()
    theirs = {"weight": "conv1.weight", "norm.running_mean": "bn1.running_mean", "norm.running_var": "bn1.running_var"}
    for ours, name in theirs.items():
        state[name] = torch.from_numpy(statistics[f"stem.conv1.{ours}"])
    return state


def test_pixels_in_0_to_1_are_not_assumed_to_be_torchvisions(tmp_path: Path) -> None:
    torch.save(named_by_torchvision(stem(pictures(0), "unit", 0)), tmp_path / "w.pth")
    said = r"pixel_mean, pixel_std, channel_order cannot be as assumed: the first norm's statistics are [45]\.\d times "
    with pytest.raises(UserError, match=said + r"smaller .*; those of unit fit; take the set that fits"):
        read_backbone(tmp_path / "w.pth", ReadOptions(assume="torchvision"))
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(assume="unit"))
    assert reading.card.pixel_std == (255, 255, 255)
    assert not [note for note in reading.report.notes if "photographs" in note]


def test_what_is_stated_earns_a_warning_and_verify_repeats_it(tmp_path: Path) -> None:
    torch.save(named_by_torchvision(stem(pictures(0), "unit", 0)), tmp_path / "w.pth")
    stated = dict(zip(("pixel_mean", "pixel_std", "channel_order"), SETS["torchvision"]))
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**stated, norm_eps=1e-5))
    (note,) = (note for note in reading.report.notes if note.startswith("the first norm's statistics are"))
    findings = verify_backbone(reading.tensors, reading.card).findings
    assert [f.level for f in findings if f.what == note] == ["warning"]


def test_affine_norms_in_torchvisions_names_are_caffes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = randomise(resnet18(num_classes=5), 0).state_dict()
    for name, tensor in state.items():
        if "running_" in name:
            tensor.fill_(float(name.endswith("running_var")))
    torch.save(state, tmp_path / "caffe.pth")
    said = r"cannot be as assumed: all 20 norms have mean 0 and variance 1.* the usual ones of msra"
    for assume in ("torchvision", "unit", "half", "clip"):
        with pytest.raises(UserError, match=said):
            read_backbone(tmp_path / "caffe.pth", ReadOptions(assume=assume))
    card = read_backbone(tmp_path / "caffe.pth", ReadOptions(assume="msra")).card
    assert (card.channel_order, card.pixel_std) == ("BGR", (1, 1, 1))


def test_a_fresh_network_has_no_affine_norms() -> None:
    state = {name: tensor for name, tensor in resnet18(num_classes=5).state_dict().items() if "num_b" not in name}
    assert affine_norms(state) == 0
    state["bn1.weight"][3] = torch.nan  # one altered gain is no training
    assert affine_norms(state) == 0
    assert affine_norms({}) == 0
