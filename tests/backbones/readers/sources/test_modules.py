"""Whole pickled models: what their modules say, and no state_dict could."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import nn

from scaleprior.backbones import ReadOptions, load_backbone, read_backbone
from scaleprior.backbones.readers.facts import UnknownFactsError
from scaleprior.backbones.trunks.published import Origin
from scaleprior.errors import UserError

ASSUMED = ReadOptions(assume="torchvision")


def saved(tmp_path: Path, content: Any) -> Path:
    torch.save(content, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def r50(**settings: Any) -> Any:
    torch.manual_seed(0)
    return torchvision.models.resnet50(weights=None, num_classes=3, **settings)


def test_its_eps_and_the_place_of_its_strides_are_facts(tmp_path: Path) -> None:
    model = r50(norm_layer=partial(nn.BatchNorm2d, eps=1e-3)).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_var").uniform_(0.5, 1.5)
    path = saved(tmp_path, {"epoch": 3, "model": model})
    with pytest.raises(UnknownFactsError) as caught:
        read_backbone(path)
    assert caught.value.absent == ("pixel_mean", "pixel_std", "channel_order")
    backbone = load_backbone(path, assume="torchvision")
    origins = backbone.card.facts
    assert (origins["stride_in_1x1"].kind, origins["norm_eps"].kind, origins["pixel_mean"].kind) == (
        "file", "file", "assumed",
    )  # fmt: skip
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        theirs = model.maxpool(model.relu(model.bn1(model.conv1(x))))
        for name, stage in zip(
            ("res2", "res3", "res4", "res5"), (model.layer1, model.layer2, model.layer3, model.layer4)
        ):
            theirs = stage(theirs)
            ours = backbone.trunk().eval()(x)[name]
            assert float((ours - theirs).abs().max() / theirs.abs().max()) < 5e-6


def test_a_stride_in_the_1x1_is_seen(tmp_path: Path) -> None:
    model = r50()
    for stage in (model.layer2, model.layer3, model.layer4):
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    card = read_backbone(saved(tmp_path, nn.DataParallel(model)), ASSUMED).card
    assert card.stride_in_1x1
    assert card.facts["stride_in_1x1"] == Origin("file", "the modules of the pickled model in the file")


def test_a_basic_block_has_no_choice_of_strides(tmp_path: Path) -> None:
    card = read_backbone(saved(tmp_path, torchvision.models.resnet18(weights=None)), ASSUMED).card
    assert not card.stride_in_1x1
    assert "no other place" in card.facts["stride_in_1x1"].where


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: r50(replace_stride_with_dilation=[False, False, True]), "dilation="),
        (lambda: timm.create_model("resnetblur50", num_classes=3), "BlurPool"),
        (lambda: timm.create_model("resnet18", num_classes=3, act_layer=nn.SiLU), "SiLU"),
        (lambda: r50(norm_layer=partial(nn.GroupNorm, 16)), "GroupNorm of 16 groups"),
    ],
)
def test_another_network_in_the_names_of_a_plain_one_is_refused(tmp_path: Path, model: Any, said: str) -> None:
    with pytest.raises(UserError, match=said):
        read_backbone(
            saved(tmp_path, model()), ReadOptions(assume="torchvision", norm="GN" if "Group" in said else None)
        )


def test_a_stage_that_does_not_stride_is_refused(tmp_path: Path) -> None:
    model = r50()
    model.layer4[0].conv2.stride = model.layer4[0].downsample[0].stride = (1, 1)
    with pytest.raises(UserError, match="no stride in stage 4"):
        read_backbone(saved(tmp_path, model), ASSUMED)


def test_models_that_disagree_say_nothing(tmp_path: Path) -> None:
    one, other = r50(), r50(norm_layer=partial(nn.BatchNorm2d, eps=1e-3))
    with pytest.raises(UnknownFactsError) as caught:
        read_backbone(saved(tmp_path, {"model": one, "ema": other}))
    assert "norm_eps" in caught.value.absent
