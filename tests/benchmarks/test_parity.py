"""One backbone file, three programs: timm's own ResNet, the torchvision engine's detector, Detectron2's model."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from benchmarks import parity

# float32: FrozenBN's products are taken in another order by each program, through up to 150 layers.
TOLERANCE = 1e-4
MAPS = {"C4": ["res4", "res5 of regions"], "FPN": ["res4", "res5", "p2", "p3", "p4", "p5", "p6"]}


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """timm's model of a depth and its canonical file: one set of weights for all comparisons of that depth."""
    folder = tmp_path_factory.mktemp("parity")

    @functools.cache
    def make(depth: int) -> tuple[torch.nn.Module, Path]:
        path = folder / f"r{depth}.safetensors"
        return parity.write_timm_backbone(depth, path), path

    return make


def image() -> torch.Tensor:
    return torch.randint(0, 256, (3, 96, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


def compared(kind: str, depth: int, backbones: Any, change: Any = None) -> list[parity.Difference]:
    model, path = backbones(depth)
    ours, theirs = parity.build_detectors(kind, depth, path)
    if change is not None:
        change(ours, theirs)
    with torch.inference_mode():
        reference = parity.timm_features(model, image())
    return parity.compare_features(kind, image(), reference, ours, theirs)


@pytest.mark.parametrize("kind", parity.KINDS)
@pytest.mark.parametrize("depth", [50, 152])
def test_timm_torchvision_and_detectron2_agree(kind: str, depth: int, backbones: Any) -> None:
    rows = compared(kind, depth, backbones)
    assert [row.name for row in rows] == MAPS[kind]
    for row in rows:
        assert (row.torchvision is None) == (row.detectron2 is None) == row.name.startswith("p")
        assert row.largest <= TOLERANCE, row


def stride_in_1x1(ours: Any, theirs: Any) -> None:
    block = theirs.backbone.bottom_up.res4[0]
    block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride


def other_channel_order(ours: Any, theirs: Any) -> None:
    ours.pixel_mean, ours.pixel_std = ours.pixel_mean.flip(1), ours.pixel_std.flip(1)


def swapped_levels(ours: Any, theirs: Any) -> None:
    fpn = theirs.backbone
    fpn.fpn_output3.weight, fpn.fpn_output4.weight = fpn.fpn_output4.weight, fpn.fpn_output3.weight


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (stride_in_1x1, {"res4": "detectron2", "p5": "engines"}),
        (other_channel_order, {"res4": "torchvision", "res5": "torchvision", "p2": "engines"}),
        (swapped_levels, {"p3": "engines", "p4": "engines"}),
    ],
)
def test_what_is_wrong_shows(change: Any, wrong: dict[str, str], backbones: Any) -> None:
    rows = {row.name: row for row in compared("FPN", 50, backbones, change)}
    for name, pair in wrong.items():
        assert getattr(rows[name], pair) > 100 * TOLERANCE, rows[name]
    if change is swapped_levels:
        assert rows["res5"].largest <= TOLERANCE
        assert rows["p2"].largest <= TOLERANCE
