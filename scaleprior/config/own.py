"""ScalePrior's own keys, on our config and on Detectron2's alike: SCALEPRIOR, MODEL.TIMM and PRETRAIN."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scaleprior.config.pretrain import add_pretrain_config

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["add_scaleprior_config"]


def add_scaleprior_config(cfg: CfgNode) -> None:
    """Declare every key of ours on ``cfg``, which has a ``MODEL`` node (Detectron2's, or ours)."""
    node = type(cfg)  # Detectron2's configs accept nodes of their own class only
    cfg.SCALEPRIOR = node()
    # Own data sets: a list of [name, path of the COCO JSON, image root]. The root is a folder, a tar or a glob of tars.
    cfg.SCALEPRIOR.DATASETS = []
    # File of COCO 2014's minival image ids (one a line, or a JSON list), for the sets coco_2014_minival_8k and
    # coco_2014_valminusminival_8k. "" = $DETECTRON2_DATASETS/coco/annotations/minival_8k_ids.txt.
    cfg.SCALEPRIOR.MINIVAL_IDS = ""
    # Megabytes (2**20 bytes) of decoded images kept in memory, per data set; 0 = none. No effect on results.
    # The torchvision engine's; Detectron2's loader keeps none.
    cfg.SCALEPRIOR.IMAGE_CACHE_MB = 1024
    # A CSV file that every evaluation appends a row to, for `scaleprior laws fit`; "" = none.
    cfg.SCALEPRIOR.RESULTS = ""

    cfg.MODEL.TIMM = node()
    # Trunk for MODEL.BACKBONE.NAME build_timm_backbone, build_timm_fpn_backbone and build_retinanet_timm_fpn_backbone:
    # resnet18 ... resnet152, or a trunk that MODEL.RESNETS cannot describe (BiT's resnetv2_50x1_bit, CLIP's
    # resnet50_clip, ...). MODEL.RESNETS.OUT_FEATURES and NORM and MODEL.BACKBONE.FREEZE_AT hold for it, too; the other
    # keys of MODEL.RESNETS have no meaning there. "" = none.
    cfg.MODEL.TIMM.MODEL = ""
    add_pretrain_config(cfg)
