"""Configs at their defaults, made from the table of keys."""

from __future__ import annotations

from fvcore.common.config import CfgNode

from scaleprior.config.keys.table import DETECTION_KEYS, OWN_KEYS, add_keys

__all__ = ["add_detection_config", "add_scaleprior_config", "get_cfg"]


def get_cfg() -> CfgNode:
    """A fresh config with every key of ScalePrior's at its default; ``docs/config.md`` explains them."""
    cfg = CfgNode()
    add_detection_config(cfg)
    add_scaleprior_config(cfg)
    return cfg


def add_detection_config(cfg: CfgNode) -> None:
    """Declare every key of Detectron2's that the torchvision engine honours.

    A key of Detectron2's that is not among them is refused by ``load_config`` when it is set to anything but
    Detectron2's default ("needs the detectron2 engine"); so nothing is ever accepted and then ignored.
    """
    add_keys(cfg, DETECTION_KEYS)


def add_scaleprior_config(cfg: CfgNode) -> None:
    """Declare every key of ours on ``cfg``, which may be Detectron2's: SCALEPRIOR, MODEL.TIMM and PRETRAIN."""
    add_keys(cfg, OWN_KEYS)
