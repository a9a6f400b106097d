"""Foreign files of small trunks: one that says all that matters, one that says nothing."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from scaleprior.backbones import Card, ResNetSpec, build_resnet, export_backbone, to_detectron2
from tests.backbones.trunks.test_trunk import randomise_norms

__all__ = ["IMAGENET", "NARROW", "write_config", "write_silent", "write_telling"]

NARROW = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
IMAGENET = {"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375), "channel_order": "RGB"}


def write_silent(path: Path, *, spec: ResNetSpec = NARROW, seed: int = 0) -> Path:
    """A ``.pth`` in torchvision's names, which say nothing of pixels."""
    return _write(path, spec, seed)


def write_telling(path: Path, *, spec: ResNetSpec = NARROW, seed: int = 0) -> Path:
    """The same with the ``config.json`` that timm's hub puts beside weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    widths = {} if spec.depth < 50 else {"channels": [spec.res2_out_channels // 4 * 2**stage for stage in range(4)]}
    write_config(path.parent, f"resnet{spec.depth}", **widths)
    return _write(path, spec, seed)


def write_config(folder: Path, architecture: str, **settings: object) -> None:
    """timm's ``config.json`` with ImageNet's statistics, of a network with these settings."""
    stated = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "input_size": [3, 224, 224]}
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": settings, "pretrained_cfg": stated})
    )


def _write(path: Path, spec: ResNetSpec, seed: int) -> Path:
    torch.manual_seed(seed)
    trunk = build_resnet(spec, zero_init_last=False)
    randomise_norms(trunk)
    export_backbone(to_detectron2(trunk.state_dict()), Card(name=path.stem, arch=spec, **IMAGENET), path)
    return path
