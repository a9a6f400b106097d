"""Synthetic twins of the catalogue's public files: their containers, wrappers, names and depths, on random numbers.

No published file is on this machine, so nothing here shows that one can be read; only that what its publisher's code
says he writes can. Each twin is written as that code writes it (the entry's ``proof`` names it) and loaded by hand as
that code loads it; both sides then see the same picture. ResNets with bottlenecks are narrow inside (the ends of their
blocks are not) where nothing beside the weights names the architecture, and heads are small: a reader need not care.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from scaleprior.backbones.trunks.resnet import BLOCKS_PER_STAGE
from scaleprior.backbones.zoo import Entry
from tests.backbones.zoo.clip_twins import jit_archive
from tests.backbones.zoo.twin_files import (
    caffe2_name,
    load_bare,
    load_bit,
    load_clip,
    load_detectron2,
    load_encoder,
    load_renamed,
    load_safetensors,
    load_state,
    load_swav,
    shaken,
    unpickled,
    without_module,
    write_bare,
    write_bit,
    write_caffe2,
    write_densecl,
    write_detectron2,
    write_miil,
    write_moco,
    write_moco_v3,
    write_open_clip,
    write_safetensors,
    write_simsiam,
    write_swav,
    write_without_classifier,
)

__all__ = ["TWINS", "Twin", "group_of", "kind_of"]

Maps = dict[str, Tensor]
MAPS = ("res2", "res3", "res4", "res5")
TELL_ARCH = ("facebookresearch's MoCo", "facebookresearch's MoCo v3", "facebookresearch's SimSiam")
"""Their checkpoints say "resnet50"."""
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@dataclass(frozen=True)
class Twin:
    """How one publisher writes a file and loads it.

    Attributes:
        suffix: of the file.
        build: a network of his, without numbers (on torch's meta device).
        write: saves it as his code does.
        load: puts the file into a fresh network, as his code does.
        normalise: pixels of an RGB image of 0 to 255, [B, 3, H, W], as his code does.
    """

    suffix: str
    build: Callable[[Entry], nn.Module]
    write: Callable[[nn.Module, Path], None]
    load: Callable[[nn.Module, Path], None]
    normalise: Callable[[Tensor], Tensor]

    def save(self, entry: Entry, path: Path) -> None:
        """A file of random numbers."""
        with torch.device("meta"):
            model = self.build(entry)
        self.write(shaken(model.to_empty(device="cpu")), path)

    def maps(self, entry: Entry, path: Path, images: Tensor) -> Maps:
        """res2 to res5 of ``images``, by the network that the file was loaded into by hand."""
        with torch.device("meta"):
            model: Any = self.build(entry)
        self.load(model.to_empty(device="cpu"), path)
        with torch.no_grad():
            x = self.normalise(images)
            if hasattr(model, "forward_intermediates"):  # timm's
                maps = model.eval().forward_intermediates(x, norm=True, intermediates_only=True)
                return dict(zip(MAPS, maps[-4:]))
            return _resnet_maps(model.eval(), x) if hasattr(model, "layer1") else _convnext_maps(model.eval(), x)


def group_of(entry: Entry) -> str:
    """The twin of an entry."""
    words = "timm's hub" if entry.timm else (entry.publisher or "")
    if entry.trunk != "resnet":
        return f"{words}, {entry.trunk}"
    if entry.publisher == "Detectron2":
        return f"{words}, {(entry.url or '').rsplit('/', 2)[1]}"  # the folders MSRA, FAIR and torchvision
    if entry.pixel_mean[0] == 127.5:
        return f"{words}, halves"
    if entry.publisher == "facebookresearch's MoCo":
        return f"{words} {entry.supervision[-3:-1]}"
    return words + (", GN" if entry.parts.get("norm") == "GN" else "")


def kind_of(entry: Entry) -> tuple[object, ...]:
    """What two entries with the same twin have in common."""
    inside = _inside(entry) if entry.trunk == "resnet" else {}
    model = entry.model or (entry.timm or "").split(".")[0]
    return TWINS[group_of(entry)], model if entry.trunk != "resnet" else entry.depth, *inside.items()


def _inside(entry: Entry) -> dict[str, int]:
    """Groups and widths of the twin's bottlenecks."""
    spec: Any = entry.spec
    if spec.norm == "GN":
        return {"groups": 1, "width_per_group": 32}  # GN's groups
    if entry.timm or entry.publisher in TELL_ARCH:  # and that is held against the tensors
        return {"groups": spec.num_groups, "width_per_group": spec.width_per_group}
    return {"groups": spec.num_groups, "width_per_group": 1 if spec.num_groups > 1 else spec.width_per_group // 8}


def _resnet(entry: Entry, *, classes: int = 8, norm: Any = None) -> ResNet:
    """torchvision's network of the entry's depth, groups and norm; the 3x3 convolutions of bottlenecks are narrow."""
    spec: Any = entry.spec
    blocks, widths = list(BLOCKS_PER_STAGE[spec.depth]), _inside(entry) if spec.bottleneck else {}
    model = ResNet(Bottleneck if spec.bottleneck else BasicBlock, blocks, classes, norm_layer=norm, **widths)
    if spec.stride_in_1x1:
        for stage in (model.layer2, model.layer3, model.layer4):
            stage[0].conv1.stride, stage[0].conv2.stride = stage[0].conv2.stride, stage[0].conv1.stride
    return model


def _resnet_maps(model: Any, x: Tensor) -> Maps:
    x, maps = model.maxpool(model.relu(model.bn1(model.conv1(x)))), {}
    for number in range(1, 5):
        maps[f"res{number + 1}"] = x = getattr(model, f"layer{number}")(x)
    return maps


def _convnext_maps(model: Any, x: Tensor) -> Maps:
    maps = {}
    for number, layer in enumerate(model.features):
        x = layer(x)
        if number % 2:
            maps[f"res{number // 2 + 2}"] = x
    return maps


def _with(mean: tuple[float, ...], std: tuple[float, ...]) -> Callable[[Tensor], Tensor]:
    """torchvision's ToTensor and Normalize."""
    from torchvision.transforms.v2.functional import normalize

    return lambda images: normalize(images.float() / 255, list(mean), list(std))


def _caffe(std: tuple[float, float, float]) -> Callable[[Tensor], Tensor]:
    """Detectron2's: BGR of 0 to 255, its PIXEL_MEAN."""
    mean = torch.tensor((103.53, 116.28, 123.675))[:, None, None]
    return lambda images: (images.float()[:, [2, 1, 0]] - mean) / torch.tensor(std)[:, None, None]


def _timm(entry: Entry) -> nn.Module:
    import timm

    return timm.create_model(entry.model or (entry.timm or "").split(".")[0], num_classes=8)


def _torchvision_convnext(entry: Entry) -> nn.Module:
    from torchvision import models

    return getattr(models, str(entry.model))(num_classes=8)


def _with_groups(entry: Entry) -> nn.Module:
    return _resnet(entry, norm=lambda channels: nn.GroupNorm(32, channels))


IMAGES = _with(*IMAGENET)
HALF = _with((0.5,) * 3, (0.5,) * 3)
CLIP = _with((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
BARE = Twin(".pth", _resnet, write_bare, load_bare, IMAGES)
HEADLESS = Twin(".pth", _resnet, write_without_classifier, load_bare, IMAGES)

TWINS = {
    "torchvision": BARE,
    "facebookresearch": BARE,
    "timm": BARE,
    "timm, GN": Twin(".pth", _with_groups, write_bare, load_bare, IMAGES),
    "timm's hub": Twin(".safetensors", _resnet, write_safetensors, load_safetensors, IMAGES),
    "timm's hub, halves": Twin(".safetensors", _resnet, write_safetensors, load_safetensors, HALF),
    "facebookresearch's MoCo v1": Twin(
        ".pth.tar", _resnet, write_moco(False), load_encoder("module.encoder_q."), IMAGES
    ),
    "facebookresearch's MoCo v2": Twin(
        ".pth.tar", _resnet, write_moco(True), load_encoder("module.encoder_q."), IMAGES
    ),
    "facebookresearch's MoCo v3": Twin(
        ".pth.tar", _resnet, write_moco_v3, load_encoder("module.base_encoder."), IMAGES
    ),
    # 0.228 is what SwAV's code says
    "facebookresearch's SwAV": Twin(
        ".pth.tar", _resnet, write_swav, load_swav, _with((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
    ),
    "facebookresearch's DINO": HEADLESS,
    "facebookresearch's Barlow Twins": HEADLESS,
    "facebookresearch's VICReg": HEADLESS,
    "facebookresearch's SimSiam": Twin(".pth.tar", _resnet, write_simsiam, load_encoder("module.encoder."), IMAGES),
    "DenseCL": Twin(".pth", _resnet, write_densecl, load_state, IMAGES),
    "Alibaba-MIIL": Twin(".pth", _resnet, write_miil, load_state, lambda images: images.float() / 255),
    "Google's BiT, bit": Twin(".npz", _timm, write_bit, load_bit, HALF),
    "timm's hub, bit": Twin(".safetensors", _timm, write_safetensors, load_safetensors, HALF),
    "timm's hub, convnext": Twin(".safetensors", _timm, write_safetensors, load_safetensors, IMAGES),
    "torchvision, convnext": Twin(
        ".pth", _torchvision_convnext, write_bare, lambda model, path: model.load_state_dict(unpickled(path)), IMAGES
    ),
    "timm's hub, clip": Twin(".safetensors", _timm, write_safetensors, load_safetensors, CLIP),
    "OpenAI, clip": Twin(".pt", _timm, jit_archive, load_clip(lambda path: torch.jit.load(path).state_dict()), CLIP),
    "open_clip, clip": Twin(".pt", _timm, write_open_clip, load_clip(without_module), CLIP),
    "Detectron2, torchvision": Twin(".pkl", _resnet, write_detectron2, load_detectron2, IMAGES),
    "Detectron2, MSRA": Twin(
        ".pkl", _resnet, write_caffe2("bn"), load_renamed(lambda n: caffe2_name(n, "bn")), _caffe((1.0, 1.0, 1.0))
    ),
    "Detectron2, FAIR": Twin(
        ".pkl",
        _resnet,
        write_caffe2("bn"),
        load_renamed(lambda n: caffe2_name(n, "bn")),
        _caffe((57.375, 57.12, 58.395)),
    ),
    "Detectron, GN": Twin(
        ".pkl", _with_groups, write_caffe2("gn"), load_renamed(lambda n: caffe2_name(n, "gn")), _caffe((1.0, 1.0, 1.0))
    ),
}
"""Group of entries -> its twin."""
