"""Plain ResNets of MODEL.TIMM.MODEL in Detectron2's own modules, and so in its names; they compute the same bits."""

from __future__ import annotations

from typing import Any

import torch
from detectron2.modeling.backbone.resnet import BasicStem, ResNet
from torch import nn

from scaleprior.backbones.trunks.family import TrunkFamily
from scaleprior.backbones.trunks.model import MAPS
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.backbones.trunks.trunk import Trunk

__all__ = ["Detectron2Named", "in_detectron2s_modules"]


class Detectron2Named(TrunkFamily):
    """How to go through a trunk that Detectron2's modules make up; no family that a config can name."""

    name = "detectron2"

    def stages(self, body: Any) -> list[nn.Module]:
        return [getattr(body, name) for name in MAPS if hasattr(body, name)]


def in_detectron2s_modules(trunk: Trunk, spec: ResNetSpec) -> ResNet:
    """Detectron2's ResNet with the parameters and the very norms of ``trunk``, whatever kind they are.

    Args:
        trunk: of ``spec``, whose widths are the standard ones, made ready for a detector; stages that it dropped are
            not built.
    """
    stages = len(trunk.channels)
    placement = {"stride_in_1x1": spec.stride_in_1x1} if spec.bottleneck else {}
    with torch.device("meta"):  # no memory, and no random numbers: the heads get those that come after the trunk's
        blocks = ResNet.make_default_stages(spec.depth, norm="", **placement)
        net = ResNet(BasicStem(norm=""), blocks[:stages], out_features=[MAPS[stages - 1]])
    for own in dict.fromkeys(name.rpartition(".")[0] for name in trunk.body.state_dict()):
        (name,) = trunk.arch.family.canonical_names([f"{own}.weight"]).values()
        place, module = name.removesuffix(".weight"), trunk.body.get_submodule(own)
        if place.endswith(".norm"):
            net.get_submodule(place.removesuffix(".norm")).norm = module
        else:
            net.get_submodule(place).weight = module.weight
    # Optimisers count parameters: they stay in the trunk's order, in which shortcuts come last.
    for block in [parent for parent in net.modules() if isinstance(getattr(parent, "shortcut", None), nn.Module)]:
        shortcut = block.shortcut
        del block.shortcut
        block.shortcut = shortcut
    return net
