"""Networks whose tensors are those of a plain ResNet and that compute something else, as files state it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import resnet50, segmentation

from scaleprior.backbones import ReadOptions, read_backbone
from scaleprior.errors import UserError
from tests.backbones.readers.search.conftest import FACTS, prefixed, r18, small

SAYS = "such a network has the names of a plain ResNet and computes something else"


def read(tree: Any, path: Path, **options: Any) -> Any:
    torch.save(tree, path / "w.pth")
    return read_backbone(path / "w.pth", ReadOptions(**{**FACTS, **options}))


@pytest.mark.parametrize("builder", [segmentation.fcn_resnet50, segmentation.deeplabv3_resnet50])
def test_torchvisions_segmentation_networks_dilate(builder: Any, tmp_path: Path) -> None:
    model = builder(weights=None, weights_backbone=None, num_classes=3)
    assert model.backbone.layer4[1].conv2.dilation == (4, 4)
    assert set(resnet50().layer4.state_dict()) == set(model.backbone.layer4.state_dict())
    for tree in (model.state_dict(), {"model": prefixed(model.state_dict(), "module.")}):
        with pytest.raises(UserError, match=SAYS):
            read(tree, tmp_path)
    told = {"model": {"backbone": small().state_dict()}, "args": argparse.Namespace(model=builder.__name__)}
    with pytest.raises(UserError, match=rf"args.model in the file says {builder.__name__}, whose last two stages"):
        read(told, tmp_path)
    assert read(model.state_dict(), tmp_path, timm_model="resnet50").card.arch.name == "R-50"


def test_a_classifier_of_linear_layers_is_no_head_of_torchvisions(tmp_path: Path) -> None:
    head = {"0.weight": (9, 512), "1.running_var": (9,), "4.weight": (2, 9)}
    state = {f"classifier.{name}": torch.ones(shape) for name, shape in head.items()}
    assert read({**prefixed(small().state_dict(), "backbone."), **state}, tmp_path).report.place == "backbone."


def test_deeplab_of_others_is_said(tmp_path: Path) -> None:
    state = {**prefixed(small().state_dict(), "backbone."), "sem_seg_head.aspp.convs.0.weight": torch.ones(2, 2, 1, 1)}
    assert any("DeepLab's head (ASPP)" in note for note in read(state, tmp_path).report.notes)


def test_detr_dc5(tmp_path: Path) -> None:
    state = prefixed(r18().state_dict(), "backbone.0.body.")
    for dilation in (False, True):
        tree = {"model": state, "args": argparse.Namespace(backbone="resnet18", dilation=dilation)}
        if not dilation:
            read(tree, tmp_path)
            continue
        with pytest.raises(UserError, match=r"args.dilation in the file says that its last stage dilates .*" + SAYS):
            read(tree, tmp_path)
    save_file(prefixed(small().state_dict(), "model.backbone.conv_encoder.model."), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "detr", "backbone": "resnet50", "dilation": True}))
    with pytest.raises(UserError, match=r"dilation in .*config.json says that its last stage dilates"):
        read_backbone(tmp_path, ReadOptions(**FACTS))


def openmmlab(backbone: str) -> dict[str, Any]:
    config = f"model = dict(type='X', backbone=dict(type='ResNet', depth=50, {backbone}))"
    return {"meta": {"cfg": config}, "state_dict": prefixed(small().state_dict(), "backbone.")}


@pytest.mark.parametrize(
    ("backbone", "what"),
    [
        ("dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1)", r"dilations=\(1, 1, 2, 4\)"),
        ("strides=(1, 2, 2, 1)", r"strides=\(1, 2, 2, 1\)"),
        ("conv_cfg=dict(type='ConvWS')", "convolutions of type ConvWS"),
        ("norm_cfg=dict(type='GN', num_groups=16)", "GroupNorm of 16 groups, not 32"),
    ],
)
def test_openmmlabs_settings(backbone: str, what: str, tmp_path: Path) -> None:
    said = rf"OpenMMLab's config in the file \(meta.cfg\) says {what}; {SAYS}"
    with pytest.raises(UserError, match=said):
        read(openmmlab(backbone), tmp_path)


@pytest.mark.parametrize(
    "backbone", ["dilations=(1, 1, 1, 1), strides=(1, 2, 2, 2)", "conv_cfg=None", "strides=(1, 2)"]
)
def test_openmmlabs_plain_settings(backbone: str, tmp_path: Path) -> None:
    read(openmmlab(backbone), tmp_path)


def test_openmmlabs_group_norm_is_known_without_being_told(tmp_path: Path) -> None:
    tree = openmmlab("norm_cfg=dict(type='GN', num_groups=32, requires_grad=True)")
    tree["state_dict"] = prefixed(timm.create_model("resnet50_gn").state_dict(), "backbone.")
    card = read(tree, tmp_path, norm_eps=None).card
    assert (card.arch.norm, card.facts["norm"].where) == ("GN", "OpenMMLab's config in the file (meta.cfg)")
