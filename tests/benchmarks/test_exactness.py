"""Conversions keep the network: features of the source library and ours, and bit-identical round trips."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmarks import exactness
from benchmarks.exactness import FORMATS, Forward, check_format
from scaleprior.backbones import ReadOptions, build_trunk, read_backbone
from scaleprior.errors import UserError
from tests.backbones.numbers import fill_kaiming

SMALLEST = {kind: depths[0] for kind, (depths, _) in FORMATS.items()}
# 101 differs from 152 in its number of blocks alone: one format stands for all, and BiT-R152x2's gigabyte is read as
# Google writes it by tests/backbones/zoo/test_twins.py. The benchmark itself leaves none out.
REST = [
    (kind, depth)
    for kind, (depths, _) in FORMATS.items()
    for depth in depths[1:]
    if depth != (152 if kind == "BiT .npz" else 101) or 152 not in depths or kind == "torchvision .pth"
]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _defaults_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network draws other weights over those that a new layer has, and those it draws are copied."""
    monkeypatch.setattr(nn.init, "kaiming_uniform_", lambda tensor, **options: tensor.detach().fill_(0.01))
    monkeypatch.setattr(nn.init, "kaiming_normal_", fill_kaiming)


def check(kind: str, depth: int, folder: Path) -> None:
    row = check_format(kind, depth, folder)
    assert row.difference <= 1e-5, row  # 0.0 in all but name: same kernels in the same order
    assert row.round_trip is (None if kind.startswith(("BiT", "CLIP")) else True)


@pytest.mark.parametrize(("kind", "depth"), SMALLEST.items())
def test_features_and_round_trip(kind: str, depth: int, tmp_path: Path) -> None:
    check(kind, depth, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "depth"), REST)
def test_features_and_round_trip_of_every_depth(
    kind: str, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Deep ones are narrow, as the smallest of each above is of the published width; one format, and one whose files
    name their network, stay wide."""
    if depth > 50 and kind not in ("torchvision .pth", "timm checkpoint with EMA"):
        for builder, width in (("_torchvision", {"width_per_group": 8}), ("_timm", {"base_width": 8})):
            monkeypatch.setattr(exactness, builder, narrow(getattr(exactness, builder), width))
    check(kind, depth, tmp_path)


def narrow(build: Callable[..., nn.Module], width: dict[str, int]) -> Callable[..., nn.Module]:
    """A builder of the benchmark, with narrow ResNets; what has no such width is as it is."""

    def build_narrow(network: int | str, seed: int, **options: Any) -> nn.Module:
        plain = network in (101, 152, "resnet101", "resnet152")
        return build(network, seed, **(width if plain else {}), **options)

    return build_narrow


def difference(path: Path, reference: Forward, options: ReadOptions) -> float:
    reading = read_backbone(path, options)
    trunk = build_trunk(reading.card.arch, norm_eps=reading.card.norm_eps).eval().load(reading.tensors)
    x = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ours: dict[str, Tensor] = trunk(x)
        return max(float((ours[k] - v).abs().max() / v.abs().max()) for k, v in reference(x).items())


def test_the_comparison_sees_a_wrong_stride_and_a_lost_norm(tmp_path: Path) -> None:
    path, reference = FORMATS["MSRA .pkl (Caffe2)"][1](50, tmp_path)
    assert difference(path, reference, ReadOptions()) <= 1e-5
    assert difference(path, reference, ReadOptions(stride_in_1x1=False)) > 1e-2
    blobs = pickle.loads(path.read_bytes())
    blobs["res4_3_branch2b_bn_b"] = np.zeros_like(blobs["res4_3_branch2b_bn_b"])
    path.write_bytes(pickle.dumps(blobs))
    assert difference(path, reference, ReadOptions()) > 1e-4


def test_another_eps_is_folded_into_the_variances(tmp_path: Path) -> None:
    from torchvision.models import resnet18

    from benchmarks.exactness import _staged, randomise

    torch.manual_seed(0)
    model = randomise(resnet18(), 0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 1e-3
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert difference(tmp_path / "w.pth", _staged(model), ReadOptions(norm_eps=1e-3, assume="torchvision")) <= 1e-5
    assert difference(tmp_path / "w.pth", _staged(model), ReadOptions(assume="torchvision")) > 1e-4


def test_unknown_formats_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no format 'caffe' of depth 50; formats: torchvision .pth"):
        check_format("caffe", 50, tmp_path)
