"""Build the trunk that a card names, behind one interface whatever its family.

B images, H x W pixels (H and W divisible by 32): ``features(x: [B, 3, H, W])`` gives ``{"res2": [B, C2, H/4, W/4],
..., "res5": [B, C5, H/32, W/32]}``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from scaleprior.backbones.arch import Arch, TimmSpec
from scaleprior.backbones.names import from_detectron2
from scaleprior.backbones.spec import ResNetSpec
from scaleprior.backbones.trunk import build_resnet, names_and_shapes

__all__ = ["STRIDES", "Trunk", "build_trunk", "canonical_shapes"]

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels of the image for a step in each feature map."""


class Trunk(nn.Module):
    """A trunk as detectors want it.

    Attributes:
        arch: what it is.
        body: the module of timm that holds the parameters.
        channels: of each feature map, ``{"res2": 256, ...}``.
        strides: ``STRIDES``.
    """

    def __init__(self, arch: Arch, body: nn.Module) -> None:
        super().__init__()
        self.arch, self.body = arch, body
        self.channels = {name: n for name, n in arch.out_channels.items() if name != "stem"}
        self.strides = dict(STRIDES)

    def features(self, x: Tensor) -> dict[str, Tensor]:
        """res2 .. res5 of normalised pixels [B, 3, H, W].

        BiT is a pre-activation network: its res2 .. res4 are the raw sums that the next stage normalises, res5 has
        passed the last norm, as in timm's ``forward_features``.
        """
        body = self.body
        if isinstance(self.arch, ResNetSpec):
            x = body.maxpool(body.act1(body.bn1(body.conv1(x))))
            stages = [body.layer1, body.layer2, body.layer3, body.layer4]
        else:
            x = body.stem(x)
            stages = list(body.stages)
        maps = {}
        for name, stage in zip(STRIDES, stages):
            x = stage(x)
            maps[name] = x
        if isinstance(self.arch, TimmSpec):
            last = body.norm if hasattr(body, "norm") else body.final_conv
            maps["res5"] = last(x)
        return maps

    forward = features

    def load(self, state: Mapping[str, Tensor]) -> Trunk:
        """Fill with the tensors of a canonical backbone file (``load_backbone``); returns self."""
        own = from_detectron2(state) if isinstance(self.arch, ResNetSpec) else dict(state)
        missing, unexpected = self.body.load_state_dict(own, strict=False)
        assert not unexpected, unexpected
        assert all(name.endswith("num_batches_tracked") for name in missing), missing
        return self


def build_trunk(arch: Arch) -> Trunk:
    """A trunk with fresh weights; ``.load(state)`` fills it."""
    if isinstance(arch, ResNetSpec):
        return Trunk(arch, build_resnet(arch))
    import timm

    # CLIP's plain models end in attention over a fixed number of places; "_gap" is the same trunk without it.
    name = f"{arch.model}_gap" if arch.model.endswith("_clip") else arch.model
    return Trunk(arch, timm.create_model(name, pretrained=False, num_classes=0))


@functools.lru_cache(maxsize=16)
def canonical_shapes(arch: Arch) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a canonical file's tensors: Detectron2's for its ResNets, timm's for timm's trunks."""
    if isinstance(arch, ResNetSpec):
        return MappingProxyType(names_and_shapes(arch))
    with torch.device("meta"):
        tensors = build_trunk(arch).body.state_dict()
    return MappingProxyType({n: tuple(t.shape) for n, t in tensors.items() if not n.endswith("num_batches_tracked")})
