"""Checkpoints in the form in which four publishers leave them; small seeded networks stand for trained ones."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet18, resnet50

__all__ = ["CHECKPOINTS"]

_CAFFE_STYLE = """
img_norm_cfg = dict(mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)
model = dict(type='FasterRCNN', backbone=dict(type='ResNet', depth=50, norm_eval=True, style='caffe'))
"""


def _state(build: Callable[..., nn.Module], seed: int) -> dict[str, Tensor]:
    """A network whose norms are not as initialised, without its classifier."""
    torch.manual_seed(seed)
    state = build(weights=None).state_dict()
    for name, tensor in state.items():
        if name.endswith("running_var") or (name.endswith("weight") and tensor.ndim == 1):
            tensor.uniform_(0.5, 1.5)
        elif tensor.ndim == 1 and not name.startswith("fc."):
            tensor.normal_(0, 0.2)
    return {name: tensor for name, tensor in state.items() if not name.startswith("fc.")}


def _behind(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def timm(folder: Path) -> None:
    """``model_best.pth.tar`` of timm's train.py, run with ``--mean 0.5 0.5 0.5 --std 0.5 0.5 0.5 --model-ema``."""
    settings: dict[str, Any] = dict.fromkeys(("crop_pct", "bn_eps", "bn_momentum", "input_size", "img_size"))
    settings |= {"interpolation": "", "reprob": 0.0, "remode": "pixel", "sched": "cosine", "model_ema": True}
    args = argparse.Namespace(model="resnet18", mean=[0.5] * 3, std=[0.5] * 3, num_classes=1000, **settings)
    fc = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    content = {"epoch": 299, "arch": "resnet18", "version": 2, "args": args, "metric": 71.2}
    content |= {"state_dict": {**_state(resnet18, 0), **fc}, "state_dict_ema": {**_state(resnet18, 1), **fc}}
    torch.save(content, folder / "model_best.pth.tar")


def moco(folder: Path) -> None:
    """``checkpoint_0199.pth.tar`` of MoCo v2's main_moco.py: two encoders, each with a projector, and the queue."""
    head = {"fc.0.weight": torch.zeros(8, 512), "fc.0.bias": torch.zeros(8), "fc.2.weight": torch.zeros(4, 8)}
    state = {"module.queue": torch.zeros(4, 64), "module.queue_ptr": torch.zeros(1, dtype=torch.long)}
    for seed, encoder in enumerate(("encoder_q", "encoder_k")):
        state |= _behind(f"module.{encoder}.", {**_state(resnet18, seed), **head})
    torch.save(
        {"epoch": 200, "arch": "resnet18", "state_dict": state, "optimizer": {"state": {}, "param_groups": []}},
        folder / "checkpoint_0199.pth.tar",
    )


def openmmlab(folder: Path) -> None:
    """A Faster R-CNN of MMDetection in caffe style: its config stands as text in ``meta``."""
    heads = {"neck.lateral_convs.0.conv.weight": torch.zeros(8, 256, 1, 1), "rpn_head.rpn_conv.weight": torch.zeros(8)}
    torch.save(
        {
            "meta": {"config": _CAFFE_STYLE, "mmdet_version": "2.28.2", "epoch": 12},
            "state_dict": {**_behind("backbone.", _state(resnet50, 0)), **heads},
        },
        folder / "faster_rcnn_r50_caffe_fpn.pth",
    )


def detectron2(folder: Path) -> None:
    """``R-50.pkl`` as Detectron2's configs start from: MSRA's network in Caffe2's names."""
    blobs: dict[str, Any] = {"conv1_b": torch.zeros(64).numpy(), "fc1000_b": torch.zeros(1000).numpy()}
    tensors = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    for name, tensor in _state(resnet50, 0).items():
        where, _, kind = name.rpartition(".")
        layer, _, part = where.rpartition(".")
        stage, _, block = layer.removeprefix("layer").partition(".")
        if kind == "num_batches_tracked":
            continue
        if not layer:
            stem, norm = "conv1", part == "bn1"
        elif "downsample" in block:
            stem, norm = f"res{int(stage) + 1}_{block.split('.')[0]}_branch1", part == "1"
        else:
            stem, norm = f"res{int(stage) + 1}_{block}_branch2{'abc'[int(part[-1]) - 1]}", part.startswith("bn")
        base = ("res_conv1_bn" if stem == "conv1" else f"{stem}_bn") if norm else stem
        blobs[f"{base}_{tensors[kind] if norm else 'w'}"] = tensor.numpy()
    with open(folder / "R-50.pkl", "wb") as file:
        pickle.dump(blobs, file, protocol=2)


CHECKPOINTS = {"timm": timm, "moco": moco, "openmmlab": openmmlab, "detectron2": detectron2}
