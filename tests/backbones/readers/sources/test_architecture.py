"""A network with the names of another is refused; timm's own networks are the oracle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from scaleprior.backbones import ReadOptions, ResNetSpec, TimmSpec, read_backbone
from scaleprior.backbones.readers.sources.architecture import (
    Stated,
    check_stated,
    stated_architectures,
    stated_norm,
    timm_norm_eps,
)
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError

R50 = ResNetSpec()
GIVEN = {"pixel_mean": (1, 2, 3), "pixel_std": (1, 1, 1), "channel_order": "RGB", "stride_in_1x1": False,
         "norm_eps": 1e-5}  # fmt: skip


@pytest.fixture(scope="module")
def blurring() -> dict[str, Tensor]:
    """All tensors have the names and shapes of a plain R-18's."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    state = timm.create_model("resnetblur18", num_classes=5).state_dict()
    assert set(state) == set(timm.create_model("resnet18", num_classes=5).state_dict())
    return state


def read(path: Path, **options: Any) -> Any:
    return read_backbone(path, ReadOptions(**GIVEN, **options))


def test_a_blurring_network_is_refused_however_it_is_named(blurring: dict, tmp_path: Path) -> None:
    torch.save(blurring, tmp_path / "w.pth")
    read(tmp_path / "w.pth")  # its tensors alone cannot tell
    said = r"timm_model='resnetblur18' says resnetblur18; its tensors are those of R-18, and the two differ: it blurs"
    with pytest.raises(UserError, match=said + r" before it strides \(maxpool.1: BlurPool2d\)"):
        read(tmp_path / "w.pth", timm_model="resnetblur18")
    for states in (
        {"arch": "resnetblur18"},
        {"args": {"arch": "resnetblur18"}},
        {"args": {"backbone": "resnetblur18"}},
    ):
        torch.save({"state_dict": blurring, **states}, tmp_path / "stated.pth")
        with pytest.raises(UserError, match=r"in the file says resnetblur18; .* it blurs before it strides"):
            read(tmp_path / "stated.pth")
    save_file(blurring, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetblur18", "pretrained_cfg": {}}))
    with pytest.raises(UserError, match=r"config.json says resnetblur18; .* it blurs before it strides"):
        read(tmp_path)


def test_a_blurring_network_is_refused_by_its_name_in_the_caches(
    blurring: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleprior.backbones.readers.timm_names.find_timm", lambda name: tmp_path / "w.pth")
    torch.save(blurring, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"says resnetblur18; .* it blurs before it strides"):
        read_backbone("timm:resnetblur18", ReadOptions(**GIVEN))


@pytest.mark.parametrize(
    ("arch", "name", "said"),
    [
        (R50, "resnetblur50", "it blurs before it strides"),
        (R50, "resnetaa50", "it averages before it strides"),
        (R50, "seresnet50", "it has layer1.0.se.fc1"),
        (R50, "resnet101", r"\[3, 4, 23, 3\] blocks in its stages, the tensors have \[3, 4, 6, 3\]"),
        (R50, "resnet50_gn", r"bn1 is GroupNorm\(32\), not BatchNorm"),
        (R50, "wide_resnet50_2", "layer1.0.conv1 is Conv2d"),
        (R50, "resnet50d", "it has conv1.0"),
        (R50, "vit_tiny_patch16_224", r"\[\] blocks in its stages"),
        (TimmSpec("convnext_tiny"), "convnext_small", r"\[3, 3, 27, 3\] blocks"),
        (TimmSpec("convnext_tiny"), "convnext_tiny_hnf", "stages.0.blocks.0.mlp.fc1 is Conv2d"),
    ],
)
def test_what_differs_is_said(arch: TrunkSpec, name: str, said: str) -> None:
    with pytest.raises(UserError, match=f"^w.pth: arch says {name}; .* differ: {said}"):
        check_stated(arch, Stated(name, "arch"), "w.pth")


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        (ResNetSpec(depth=18), "resnet18"),
        (R50, "resnet50.a1_in1k"),
        (ResNetSpec(stride_in_1x1=True), "resnet50"),  # where it strides is stated elsewhere
        (ResNetSpec(norm="GN"), "resnet50_gn"),
        (ResNetSpec(width_per_group=128), "wide_resnet50_2"),
        (ResNetSpec(num_groups=32, width_per_group=4), "resnext50_32x4d"),
        (TimmSpec("resnet50_clip"), "resnet50_clip"),
        (TimmSpec("convnext_tiny"), "convnext_tiny.fb_in1k"),
    ],
)
def test_networks_that_are_what_they_are_called(arch: TrunkSpec, name: str) -> None:
    assert check_stated(arch, Stated(name, "arch"), "w.pth") is None


@pytest.mark.parametrize("name", ["my_resnet", "hf-hub:someone/resnet50", "local-dir:/etc", "../resnet50", ""])
def test_names_that_timm_does_not_build_are_not_compared(name: str) -> None:
    said = check_stated(R50, Stated(name, "arch"), "w.pth")
    assert said == f"arch says {name}, which timm does not build; it was not compared with the tensors"


def test_arguments_of_the_builder_count() -> None:
    for settings, said in (
        (("act_layer", "silu"), "act1 is SiLU, not ReLU"),
        (("output_stride", 16), r"layer4.0.conv2 is"),
    ):
        with pytest.raises(UserError, match=said):
            check_stated(R50, Stated("resnet50", "args", (settings,)), "w.pth")
    for settings in (("act_layer", "nonsense"), ("layers", 10**9), ("aa_layer", None)):
        assert "not compared" in (check_stated(R50, Stated("resnet50", "args", (settings,)), "w.pth") or "")


def test_arguments_beside_the_name_are_found(tmp_path: Path) -> None:
    config = {"architecture": "resnet50", "pretrained_cfg": {}, "model_args": {"num_classes": 5, "act_layer": "silu"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (stated,) = stated_architectures({}, tmp_path / "w.pth", None)
    assert (stated.name, stated.settings) == ("resnet50", (("act_layer", "silu"),))
    args = {"arch": "resnet18", "model": 5}
    assert stated_architectures({"args": args}, Path("nowhere"), None) == [Stated("resnet18", "args.arch in the file")]


def test_what_the_user_names_beats_what_the_file_says(tmp_path: Path) -> None:
    stated = stated_architectures({"arch": "resnet101"}, tmp_path / "w.pth", "resnet50")
    assert [(one.name, one.by_user) for one in stated] == [("resnet50", True)]


def test_a_stated_network_tells_its_norms(tmp_path: Path) -> None:
    assert stated_norm([Stated("resnet50_gn", "arch")]) == "GN"
    assert stated_norm([Stated("resnet50", "arch"), Stated("nothing", "arch")]) is None
    assert (timm_norm_eps("resnet50"), timm_norm_eps("convnext_tiny"), timm_norm_eps("nothing")) == (1e-5, 1e-6, None)
    torch.manual_seed(0)
    torch.save({"arch": "resnet50_gn", "state_dict": timm.create_model("resnet50_gn").state_dict()}, tmp_path / "g.pth")
    assert read(tmp_path / "g.pth").card.arch == ResNetSpec(norm="GN")
