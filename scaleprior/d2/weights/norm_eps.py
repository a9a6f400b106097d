"""MODEL.NORM_EPS in Detectron2, whose own ResNets have an eps that no config can change: set once they are built."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from detectron2.config import CfgNode
from detectron2.layers import FrozenBatchNorm2d
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.roi_heads import Res5ROIHeads
from torch import nn

from scaleprior.backbones.contract import NORM_EPS
from scaleprior.backbones.trunks.norms import NORMS, norms_of, set_norm_eps
from scaleprior.backbones.trunks.selection import config_eps
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.errors import UserError

__all__ = ["build_norm_eps", "trunk_eps"]

_KINDS = (*NORMS, FrozenBatchNorm2d)


def _trunks(model: nn.Module) -> Iterator[Any]:
    """Detectron2's ResNets and our trunks in ``model``, and the res5 that C4 has in its head; not pyramids and heads,
    whose norms are no backbone's."""
    for module in model.modules():
        if isinstance(module, (ResNet, TimmBackbone)):
            yield module
        elif isinstance(module, Res5ROIHeads):
            yield module.res5


def trunk_eps(model: nn.Module) -> set[float]:
    """What the norms of the model's trunk add to the variance; empty where its trunk is none that is known here."""
    return {norm.eps for trunk in _trunks(model) for norm in norms_of(trunk, _KINDS)}


def build_norm_eps(model: nn.Module, cfg: CfgNode) -> nn.Module:
    """Let the norms of a model that Detectron2 has built from ``cfg`` add what MODEL.NORM_EPS says; returns the model.

    Raises:
        UserError: the key is set, and the model's trunk is none that is known here.
    """
    eps = config_eps(cfg)
    if eps is not None and not sum([set_norm_eps(trunk, eps, _KINDS) for trunk in _trunks(model)]):
        raise UserError(
            f"{NORM_EPS} is {eps:g}, and nobody here knows where MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME} has its "
            "norms",
            hint="take one of Detectron2's or ScalePrior's backbones, or weights whose norms have Detectron2's eps",
        )
    return model
