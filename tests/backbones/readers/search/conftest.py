"""Trunks to hide in files, and the check that what was found is the one that was meant, to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

from scaleprior.backbones import ReadOptions, ResNetSpec, build_resnet, build_trunk, read_backbone
from scaleprior.backbones.readers import Reading

FACTS: dict[str, Any] = {
    "pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375), "channel_order": "RGB",
    "stride_in_1x1": False, "norm_eps": 1e-5,
}  # fmt: skip

Check = Callable[..., Reading]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def trained(network: nn.Module, seed: int = 0) -> Any:
    """The network in evaluation mode, all its norms away from what they begin with."""
    torch.manual_seed(seed)
    for module in network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.normal_(module.weight, std=0.05)
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(0, 0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


def r18(seed: int = 0, **options: Any) -> Any:
    """torchvision's ResNet-18."""
    return trained(resnet18(**options), seed)


def r50(seed: int = 0, **options: Any) -> Any:
    """torchvision's ResNet-50, an eighth as wide."""
    network = resnet50(width_per_group=8, **options)
    return trained(network, seed)


def small(seed: int = 0, num_classes: int = 5) -> Any:
    """A ResNet-50 of a few channels, as timm builds it, for what does not depend on the network."""
    network = build_resnet(ResNetSpec(res2_out_channels=32, width_per_group=8))
    network.fc = nn.Linear(256, num_classes)
    return trained(network, seed)


def features(network: Any, x: Tensor) -> list[Tensor]:
    """res2 .. res5, by torchvision's or timm's own modules."""
    relu = network.act1 if hasattr(network, "act1") else network.relu
    x, maps = network.maxpool(relu(network.bn1(network.conv1(x)))), []
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        x = stage(x)
        maps.append(x)
    return maps


@pytest.fixture
def check(tmp_path: Path) -> Check:
    """Saves a tree and reads it: the trunk must be that of ``network``, tensors and features, to the last bit."""

    def check(tree: Any, network: Any, **options: Any) -> Reading:
        torch.save(tree, tmp_path / "w.pth")
        reading = read_backbone(tmp_path / "w.pth", ReadOptions(**{**FACTS, **options}))
        x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
        with torch.inference_mode():
            theirs = features(network, x)
            ours = build_trunk(reading.card.arch).load(reading.tensors).eval().features(x)
        assert all(map(torch.equal, ours.values(), theirs))
        report = reading.report
        assert (report.missing, report.unexpected, report.misshaped) == ([], [], [])
        assert len(report.matched) == len(reading.tensors)
        return reading

    return check


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The names with a prefix."""
    return {f"{prefix}{name}": value for name, value in state.items()}
