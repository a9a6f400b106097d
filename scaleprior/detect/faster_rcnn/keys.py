"""Which values of the config's keys the torchvision engine can honour; everything else is refused by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.arch import arch_from_cfg, is_timm_config
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["check_keys", "get_key", "set_key"]

_CHOICES: dict[str, tuple[Any, ...]] = {
    "VERSION": (2,),
    "MODEL.BACKBONE.NAME": ("build_resnet_backbone", "build_resnet_fpn_backbone", "build_timm_fpn_backbone"),
    "MODEL.RESNETS.NORM": ("FrozenBN", "BN", "GN"),
    "MODEL.FPN.NORM": ("", "BN", "GN"),
    "MODEL.ROI_HEADS.NAME": ("Res5ROIHeads", "StandardROIHeads"),
    "MODEL.ROI_BOX_HEAD.NAME": ("", "FastRCNNConvFCHead"),
    "MODEL.ROI_BOX_HEAD.NORM": ("", "BN", "GN"),
    "MODEL.ROI_BOX_HEAD.POOLER_TYPE": ("ROIAlignV2", "ROIAlign"),
    "INPUT.FORMAT": ("BGR", "RGB"),
    "INPUT.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    "SOLVER.LR_SCHEDULER_NAME": ("WarmupMultiStepLR", "WarmupCosineLR"),
    "SOLVER.WARMUP_METHOD": ("linear", "constant"),
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": ("value", "norm"),
}

_POSITIVE = (
    "MODEL.FPN.OUT_CHANNELS",
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE",
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN",
    "MODEL.RPN.PRE_NMS_TOPK_TEST",
    "MODEL.RPN.POST_NMS_TOPK_TRAIN",
    "MODEL.RPN.POST_NMS_TOPK_TEST",
    "MODEL.ROI_HEADS.NUM_CLASSES",
    "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE",
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "MODEL.ROI_BOX_HEAD.FC_DIM",
    "MODEL.ROI_BOX_HEAD.CONV_DIM",
    "INPUT.MAX_SIZE_TRAIN",
    "INPUT.MAX_SIZE_TEST",
    "SOLVER.BASE_LR",
    "SOLVER.IMS_PER_BATCH",
    "TEST.DETECTIONS_PER_IMAGE",
)

_NOT_NEGATIVE = (
    "MODEL.PROPOSAL_GENERATOR.MIN_SIZE",
    "MODEL.RPN.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.SMOOTH_L1_BETA",
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO",
    "MODEL.ROI_BOX_HEAD.NUM_FC",
    "MODEL.ROI_BOX_HEAD.NUM_CONV",
    "INPUT.MIN_SIZE_TEST",
    "DATALOADER.NUM_WORKERS",
    "SCALEPRIOR.IMAGE_CACHE_MB",
    "SOLVER.MAX_ITER",
    "SOLVER.WARMUP_ITERS",
    "SOLVER.CHECKPOINT_PERIOD",
    "SOLVER.WEIGHT_DECAY",
    "SOLVER.WEIGHT_DECAY_NORM",
)

_SHARES = (
    "MODEL.RPN.POSITIVE_FRACTION",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.ROI_HEADS.POSITIVE_FRACTION",
    "MODEL.ROI_HEADS.NMS_THRESH_TEST",
    "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
    "SOLVER.MOMENTUM",
)


def get_key(cfg: CfgNode, key: str) -> Any:
    """The value under a dotted name."""
    node: Any = cfg
    for part in key.split("."):
        node = node[part]
    return node


def set_key(cfg: CfgNode, key: str, value: Any) -> None:
    """Set a dotted name; ``cfg`` must not be frozen."""
    *parents, leaf = key.split(".")
    node: Any = cfg
    for part in parents:
        node = node[part]
    node[leaf] = value


def check_keys(cfg: CfgNode) -> None:
    """Refuse values that the torchvision engine cannot honour, and combinations that make no detector.

    Raises:
        UserError: names the key and its value.
    """
    for key, choices in _CHOICES.items():
        value = get_key(cfg, key)
        if value not in choices:
            raise UserError(
                f"{key} is {value!r}; that needs the detectron2 engine",
                hint=f"the torchvision engine knows {', '.join(map(repr, choices))}",
            )
    _check_range(cfg, _POSITIVE, lambda v: v > 0, "above 0")
    _check_range(cfg, _NOT_NEGATIVE, lambda v: v >= 0, "of at least 0")
    _check_range(cfg, _SHARES, lambda v: 0 <= v <= 1, "from 0 to 1")
    for key, lengths in (("MODEL.RPN.IOU_THRESHOLDS", (1, 2)), ("MODEL.ROI_HEADS.IOU_THRESHOLDS", (1,))):
        if len(get_key(cfg, key)) not in lengths:
            raise UserError(
                f"{key} is {get_key(cfg, key)}; that needs the detectron2 engine", hint=f"give {lengths[-1]} of them"
            )
    for key in ("MODEL.RPN.BBOX_REG_WEIGHTS", "MODEL.ROI_BOX_HEAD.BBOX_REG_WEIGHTS"):
        if len(get_key(cfg, key)) != 4 or min(get_key(cfg, key)) <= 0:
            raise UserError(f"{key} is {get_key(cfg, key)}", hint="give four numbers above 0")
    for key in ("MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"):
        if len(get_key(cfg, key)) != 3:
            raise UserError(f"{key} is {get_key(cfg, key)}", hint="give three numbers, one per channel")
    if min(cfg.MODEL.PIXEL_STD) <= 0:
        raise UserError(f"MODEL.PIXEL_STD is {cfg.MODEL.PIXEL_STD}", hint="give numbers above 0")
    if not cfg.MODEL.RPN.CONV_DIMS or any(width != -1 and width < 1 for width in cfg.MODEL.RPN.CONV_DIMS):
        raise UserError(f"MODEL.RPN.CONV_DIMS is {cfg.MODEL.RPN.CONV_DIMS}", hint="give widths above 0, or -1")
    if cfg.SOLVER.NESTEROV and cfg.SOLVER.MOMENTUM == 0:
        raise UserError("SOLVER.NESTEROV is True with SOLVER.MOMENTUM 0", hint="give a momentum above 0")
    _check_sizes(cfg)
    _check_architecture(cfg)


def _check_range(cfg: CfgNode, keys: tuple[str, ...], good: Callable[[Any], bool], words: str) -> None:
    for key in keys:
        if not good(get_key(cfg, key)):
            raise UserError(f"{key} is {get_key(cfg, key)!r}", hint=f"give a number {words}")


def _check_sizes(cfg: CfgNode) -> None:
    sizes, sampling = cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING
    if not sizes or min(sizes) <= 0 or (sampling == "range" and (len(sizes) != 2 or sizes[0] > sizes[1])):
        raise UserError(
            f"INPUT.MIN_SIZE_TRAIN is {tuple(sizes)} with MIN_SIZE_TRAIN_SAMPLING {sampling!r}",
            hint="give pixels above 0; for range exactly (low, high)",
        )


def _check_architecture(cfg: CfgNode) -> None:
    """The backbone and the heads have to fit each other: all of C4, or all of FPN."""
    model = cfg.MODEL
    out, pyramid_in = list(model.RESNETS.OUT_FEATURES), list(model.FPN.IN_FEATURES)
    if model.BACKBONE.NAME == "build_resnet_backbone":
        _require(cfg, "MODEL.ROI_HEADS.NAME", "Res5ROIHeads")
        _require(cfg, "MODEL.ROI_BOX_HEAD.NAME", "")
        _require(cfg, "MODEL.RESNETS.OUT_FEATURES", ["res4"])
        if model.RESNETS.DEPTH < 50:
            raise UserError(
                f"MODEL.RESNETS.DEPTH is {model.RESNETS.DEPTH} with MODEL.ROI_HEADS.NAME Res5ROIHeads",
                hint="Res5ROIHeads has bottleneck blocks: take depth 50, 101 or 152, or an FPN config",
            )
        return
    if is_timm_config(cfg):
        arch_from_cfg(cfg)
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


def _require(cfg: CfgNode, key: str, value: Any) -> None:
    if get_key(cfg, key) != value:
        raise UserError(
            f"{key} is {get_key(cfg, key)!r} with MODEL.BACKBONE.NAME {cfg.MODEL.BACKBONE.NAME!r}; "
            "that needs the detectron2 engine",
            hint=f"the torchvision engine takes {value!r} there",
        )
