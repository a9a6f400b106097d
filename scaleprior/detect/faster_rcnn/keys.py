"""Which configs the torchvision engine can honour; everything else is refused by name.

What a key takes by itself stands in its row of the table of keys; here is what keys owe each other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scaleprior.backbones.trunks.selection import check_model_is_read, spec_from_config
from scaleprior.config.dotted import get_key
from scaleprior.config.keys.key import TORCHVISION
from scaleprior.config.keys.table import check_values
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_box_head", "check_keys"]

# Of MODEL.BACKBONE.NAME; pretraining takes more, since it asks only for the trunk.
_BUILDERS = ("build_resnet_backbone", "build_resnet_fpn_backbone", "build_timm_fpn_backbone")


def check_keys(cfg: CfgNode) -> None:
    """Refuse values that the torchvision engine cannot honour, and combinations that make no detector.

    Raises:
        UserError: names the key and its value.
    """
    check_values(cfg, TORCHVISION)
    _require_start(cfg)
    if cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM == 0:
        raise UserError("SOLVER.NESTEROV is True with SOLVER.MOMENTUM 0", hint="give a momentum above 0")
    _check_sizes(cfg)
    _check_architecture(cfg)


def _require_start(cfg: CfgNode) -> None:
    if cfg.SCALEPRIOR.START != "backbone":
        raise UserError(
            f"SCALEPRIOR.START is {cfg.SCALEPRIOR.START!r}; that needs the detectron2 engine", hint="take backbone"
        )


def _check_sizes(cfg: CfgNode) -> None:
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1]):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)} with MIN_SIZE_TRAIN_SAMPLING {sampling!r}",
            hint="for range give exactly (low, high)",
        )


def _check_architecture(cfg: CfgNode) -> None:
    """The backbone and the heads have to fit each other: all of C4, or all of FPN."""
    if cfg.MODEL.BACKBONE.NAME not in _BUILDERS:
        raise UserError(
            f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}; that needs the detectron2 engine",
            hint=f"take one of {', '.join(_BUILDERS)}",
        )
    check_model_is_read(cfg)
    model = cfg.MODEL
    out, pyramid_in = list(model.RESNETS.OUT_FEATURES), list(model.FPN.IN_FEATURES)
    if model.BACKBONE.NAME == "build_resnet_backbone":
        _require(cfg, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
        check_box_head(cfg)
        _require(cfg, "MODEL.RESNETS.OUT_FEATURES", ["res4"])
        if model.RESNETS.DEPTH < 50:
            raise UserError(
                f"MODEL.RESNETS.DEPTH is {model.RESNETS.DEPTH} with MODEL.ROI_HEADS.NAME Res5ROIHeads",
                hint="Res5ROIHeads has bottleneck blocks: take depth 50, 101 or 152, or an FPN config",
            )
        return
    spec_from_config(cfg)
    _require(cfg, "MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    _require(cfg, "MODEL.ROI_BOX_HEAD.NAME", "FastRCNNConvFCHead")
    stages = ["res2", "res3", "res4", "res5"]
    first = stages.index(pyramid_in[0]) if pyramid_in and pyramid_in[0] in stages else -1
    if first < 0 or pyramid_in != stages[first : first + len(pyramid_in)]:
        raise UserError(
            f"MODEL.FPN.IN_FEATURES is {pyramid_in}", hint="give consecutive stages such as res2, res3, res4, res5"
        )
    if not set(pyramid_in) <= set(out) or not set(out) <= set(stages):
        raise UserError(
            f"MODEL.RESNETS.OUT_FEATURES is {out}, MODEL.FPN.IN_FEATURES {pyramid_in}",
            hint="OUT_FEATURES are stages res2 to res5 and contain IN_FEATURES",
        )
    if model.ROI_BOX_HEAD.NUM_FC + model.ROI_BOX_HEAD.NUM_CONV == 0:
        raise UserError("MODEL.ROI_BOX_HEAD.NUM_FC and NUM_CONV are both 0", hint="Detectron2's FPN uses NUM_FC 2")


def check_box_head(cfg: CfgNode) -> None:
    """Refuse a box head beside ``Res5ROIHeads``, whose head is res5: no engine would build it, Detectron2 no more.

    Raises:
        UserError: names the key and its value.
    """
    name, heads = cfg.MODEL.ROI_BOX_HEAD.NAME, cfg.MODEL.ROI_HEADS.NAME
    if heads == "Res5ROIHeads" and name:
        raise UserError(
            f"MODEL.ROI_BOX_HEAD.NAME is {name!r} with MODEL.ROI_HEADS.NAME {heads}, whose head is res5: it would not "
            "be used",
            hint="take a config with a feature pyramid (FPN), or leave the box head's keys out",
        )


def _require(cfg: CfgNode, key: str, value: Any) -> None:
    if get_key(cfg, key) != value:
        raise UserError(
            f"{key} is {get_key(cfg, key)!r} with MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r}; "
            "that needs the detectron2 engine",
            hint=f"the torchvision engine takes {value!r} there",
        )
