"""MODEL.NORM_EPS in the torchvision engine: set by the card, built, carried by the trained detector."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

from benchmarks.exactness import _staged
from scaleprior.backbones import Backbone, apply_card, load_backbone
from scaleprior.config import LoadedConfig, load_config
from scaleprior.detect import get_engine
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import read_trained, start_from_backbone
from scaleprior.detect.plan import follow_training
from scaleprior.errors import UserError
from tests.backbones.test_norm_eps import ROUNDING, converted, difference, quiet
from tests.detect.conftest import tiny_config

PIXELS = [x for key in ("MEAN", "STD") for x in (f"MODEL.PIXEL_{key}", "[127.5, 127.5, 127.5]")]
WIDTHS = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "256"]  # torchvision's narrow R-50


@pytest.fixture
def source(tmp_path: Path) -> tuple[nn.Module, Backbone]:
    """torchvision's, whose norms have eps 0 and variances from 1e-12 up; and what it was converted to."""
    torch.manual_seed(0)
    model = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=4, norm_layer=partial(FrozenBatchNorm2d, eps=0))
    return quiet(model), converted(model, tmp_path, norm_eps=0)


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_the_detectors_maps_are_the_sources(
    kind: str, norm: str, source: tuple[nn.Module, Backbone], tmp_path: Path
) -> None:
    """Frozen norms, folded into the convolutions before them; norms that learn, evaluated; the head's res5 of C4."""
    model, backbone = source
    loaded = tiny_config(kind, [*WIDTHS, *PIXELS, "MODEL.RESNETS.NORM", norm, "MODEL.BACKBONE.FREEZE_AT", "2"])
    detector = build_detector(apply_card(loaded, backbone.card)).eval()
    start_from_backbone(detector, tmp_path / "ours.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        expected = _staged(model)(x)
        if kind == "FPN":
            maps = dict(detector.backbone.bottom_up(x))
        else:
            maps = dict(detector.backbone(x))
            maps["res5"] = detector.roi_heads.box_head.res5(maps["res4"])
    assert difference(maps, {name: expected[name] for name in maps}) <= ROUNDING
    assert "res5" in maps


def test_a_trained_detector_carries_it(
    source: tuple[nn.Module, Backbone], tmp_path: Path, coco_overrides: list[str]
) -> None:
    # A step that moves a filter as small as its channel's variance moves that channel far: the trunk stays.
    still = ["SOLVER.BASE_LR", "1e-6", "SOLVER.MAX_ITER", "2", "MODEL.BACKBONE.FREEZE_AT", "5"]
    words = [*coco_overrides, *WIDTHS, *PIXELS, *still]
    engine, loaded = get_engine("torchvision"), tiny_config("FPN", words)
    model = engine.train(loaded, tmp_path / "ours.safetensors", tmp_path / "run")
    assert read_trained(model).config["MODEL.NORM_EPS"] == 0
    engine.evaluate(loaded, model, tmp_path / "run")  # which names no eps
    with pytest.raises(UserError, match=r"MODEL.NORM_EPS is 1e-05; use MODEL.NORM_EPS '0.0'"):
        engine.evaluate(tiny_config("FPN", [*words, "MODEL.NORM_EPS", "1e-5"]), model, tmp_path / "run")
    again = load_backbone(model)  # its header says all there is to know
    assert again.card.norm_eps == 0
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in source[1].tensors.items())


def test_a_detector_of_before_was_trained_at_the_default() -> None:
    loaded = load_config(None, ["MODEL.NORM_EPS", "1e-3"])
    before: dict[str, Any] = {"INPUT.FORMAT": loaded.cfg.INPUT.FORMAT}
    current = {**before, "MODEL.NORM_EPS": 1e-3}
    with pytest.raises(UserError, match=r"MODEL.NORM_EPS is 0.001; use MODEL.NORM_EPS '-1.0'"):
        follow_training(loaded, before, current)
    unsaid = LoadedConfig(loaded.cfg, frozenset(), "c")
    assert follow_training(unsaid, before, current).MODEL.NORM_EPS == -1
