"""Networks that no trunk holds are called what they are, wherever they stand in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision

from scaleprior.backbones import ReadOptions, read_backbone
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.limits import LIMITS
from scaleprior.backbones.readers.search import find_candidate
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.backbones.readers.search.conftest import FACTS, prefixed, small


def said(state: dict[str, Any], **options: Any) -> str:
    """The search's error about a file of these tensors, of which it reads names and shapes only."""
    content = Content("torch", {"state_dict": prefixed(state, "module.encoder_q.")}, Path("w.pth"))
    with pytest.raises(UserError) as caught:
        find_candidate(content, ReadOptions(**{**FACTS, **options}), LIMITS)
    return in_flags(caught.value)


def timms(model: str) -> dict[str, Any]:
    with torch.device("meta"):
        return timm.create_model(model).state_dict()


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("resnet18d", "a ResNet with a deep stem"),
        ("resnet50c", "a ResNet with a deep stem"),
        ("resnet50s", "a ResNet with a deep stem"),
        ("resnet50t", "a ResNet with a deep stem"),
        ("seresnet50", "a ResNet with squeeze-and-excitation"),
        ("legacy_seresnet18", "a ResNet with"),
        ("ecaresnet50t", "a ResNet with squeeze-and-excitation"),
        ("skresnet18", "an SKNet"),
        ("resnest14d", "a ResNeSt"),
        ("res2net50_26w_4s", "a Res2Net"),
        ("nf_resnet50", "a normaliser-free ResNet"),
        ("resnetv2_50", "a pre-activation ResNetV2 with BatchNorm"),
        ("resnetv2_50d_gn", "a pre-activation ResNetV2 with a deep stem"),
        ("convnextv2_tiny", "a ConvNeXt V2"),
        ("vit_tiny_patch16_224", "a Vision Transformer: no trunk here holds it"),
        ("deit3_small_patch16_224", "a Vision Transformer"),
        ("swin_tiny_patch4_window7_224", "a Swin Transformer"),
        ("efficientnet_b0", "an EfficientNet or a MobileNet"),
        ("mobilenetv3_small_100", "an EfficientNet or a MobileNet"),
        ("regnety_002", "a RegNet"),
        ("densenet121", "a DenseNet"),
        ("vgg16", "a VGG"),
        ("hrnet_w18_small", "an HRNet"),
    ],
)
def test_timms_models(model: str, what: str) -> None:
    state = timms(model)
    assert what in said(state)
    assert what in said(state, allow_partial=True)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        ("vit_b_16", "a Vision Transformer"),
        ("swin_t", "a Swin Transformer"),
        ("efficientnet_b0", "an EfficientNet or a MobileNet"),
        ("mobilenet_v2", "an EfficientNet or a MobileNet"),
        ("regnet_y_400mf", "a RegNet"),
        ("densenet121", "a DenseNet"),
        ("vgg16", "a VGG"),
    ],
)
def test_torchvisions_models(model: str, what: str) -> None:
    with torch.device("cpu" if model.startswith("regnet") else "meta"):  # its widths are computed by tensors
        assert what in said(torchvision.models.get_model(model, weights=None).state_dict())


@pytest.mark.parametrize(
    ("added", "what"),
    [
        ({"layer2.0.aa.filt": (32, 1, 3, 3)}, "a ResNet with blur pooling"),
        ({"layer2.0.conv2_offset.weight": (18, 8, 3, 3)}, "a ResNet with deformable convolutions"),
        ({"layer2.0.conv2.conv_offset.weight": (27, 8, 3, 3)}, "a ResNet with deformable convolutions"),
        ({"layer1.0.bn1.IN.weight": (8,)}, "an IBN-Net"),
        ({"layer1.0.ca.fc1.weight": (8, 8, 1, 1)}, "a ResNet with squeeze-and-excitation or another channel attention"),
        ({"stem.0.weight": (32, 3, 3, 3)}, "a ResNet with a deep stem"),
        ({"layer1.0.downsample.1.weight": (32, 32, 1, 1)}, "a ResNet with average pools in its shortcuts"),
    ],
)
def test_other_parts_in_a_block(added: dict[str, tuple[int, ...]], what: str) -> None:
    state = {**small().state_dict(), **{name: torch.zeros(shape) for name, shape in added.items()}}
    assert what in said(state)


@pytest.mark.parametrize(
    ("shape", "what"),
    [
        ((64, 1, 7, 7), "a ResNet for images of 1 channel;"),
        ((64, 4, 7, 7), "a ResNet for images of 4 channels;"),
        ((64, 3, 3, 3), "a ResNet with a 3x3 stem (CIFAR's: it does not halve the image);"),
        ((64, 3, 11, 11), "a ResNet with a 11x11 stem;"),
    ],
)
def test_other_stems_can_be_started_afresh(shape: tuple[int, ...], what: str, tmp_path: Path) -> None:
    state = {**small().state_dict(), "conv1.weight": torch.ones(shape)}
    error = said(state)
    assert what in error
    torch.save(state, tmp_path / "w.pth")
    assert "or give --allow-partial to start the stem from fresh weights" in error
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS, allow_partial=True))
    assert reading.card.recipe["fresh_tensors"] == ["stem.conv1.weight"]
    assert reading.card.recipe["dropped_tensors"]["names"] == [f"stem.conv1.weight {shape} instead of (64, 3, 7, 7)"]
    assert f"it is {what.removesuffix(';')}" in reading.report.notes


def test_what_nobody_knows_is_shown() -> None:
    error = said({"a.weight": torch.zeros(2, 3), "b.c": torch.zeros(1), "b.d": torch.zeros(1)})
    assert "3 tensors, of no known family; it holds: state_dict (3 tensors: module (3 tensors: encoder_q (3" in error
    assert "known names: torchvision/timm, " in error
