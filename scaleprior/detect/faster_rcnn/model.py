"""Faster R-CNN from a Detectron2-style config: normalise, features, proposals, heads.

Shapes: N images; an image is uint8 [3, h, w] in the channel order of ``INPUT.FORMAT``, boxes are xyxy in its pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.selection import config_eps, spec_from_config
from scaleprior.backbones.trunks.trunk import detection_trunk
from scaleprior.detect.data.segmentation import Segmentation
from scaleprior.detect.data.transforms import pad_images
from scaleprior.detect.faster_rcnn import kernels
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid
from scaleprior.detect.faster_rcnn.parts.backbone import (
    PyramidBackbone,
    TrunkFeatures,
    fuse_frozen_norms,
    norm_layer,
)
from scaleprior.detect.faster_rcnn.parts.box_head import BoxHead, Predictor
from scaleprior.detect.faster_rcnn.parts.mask_head import MaskHead
from scaleprior.detect.faster_rcnn.parts.res5_head import Res5Head
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections, RoiHeads, RoiSettings
from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler
from scaleprior.detect.faster_rcnn.parts.rpn import Rpn, RpnHead, RpnSettings
from scaleprior.detect.faster_rcnn.truth import Truth
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Detector", "build_detector", "has_idle_parameters"]


class Detector(nn.Module):
    """A two-stage detector.

    Args:
        backbone: images [N, 3, H, W] -> maps by name.
        pixel_mean, pixel_std: per channel, 0-255 scale.
        divisibility: the batch is padded to multiples of this.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: PyramidBackbone | TrunkFeatures,
        proposal_generator: Rpn,
        roi_heads: RoiHeads,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        divisibility: int,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.divisibility = divisibility
        # not persistent: pixel statistics belong to the config and the card, as in Detectron2
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(1, 3, 1, 1), persistent=False)

    def batch(self, images: Tensor, sizes: Sequence[tuple[int, int]] | Tensor) -> Tensor:
        """Normalised float32 batch [N, 3, H', W'] in channels_last; what is not of an image is 0 (the mean).

        Args:
            images: uint8 [N, 3, H, W], padded right and below.
            sizes: (height, width) of each without padding, or as float32 [N, 2] on the device.
        """
        height, width = images.shape[2:]
        divisor = max(self.divisibility, 1)
        pixels = images.to(self.pixel_mean.device, non_blocking=True)
        batch = (pixels.float() - self.pixel_mean) / self.pixel_std
        if isinstance(sizes, Tensor) or any(tuple(size) != (height, width) for size in sizes):
            batch.masked_fill_(~_inside(height, width, on_device(sizes, batch.device)), 0.0)
        if height % divisor or width % divisor:
            batch = F.pad(batch, (0, -width % divisor, 0, -height % divisor))
        return batch.contiguous(memory_format=torch.channels_last)

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | Tensor,
        truth: Truth | None = None,
        seeds: Tensor | Sequence[int] | None = None,
    ) -> dict[str, Tensor] | list[Detections]:
        """With ``truth`` the losses, whose sum is to be minimised; without it the detections, without gradients.

        Args:
            images: uint8 [N, 3, H, W], padded right and below.
            sizes: (height, width) of each without padding, or as float32 [N, 2] on the device.
            seeds: of the choice of anchors and regions in each image, in [0, 2**32), or as int64 [N]; by default from
                torch's global generator.
        """
        device = self.pixel_mean.device
        sides = on_device(sizes, device)
        drawn = torch.randint(2**32, (len(sizes),)) if seeds is None else torch.as_tensor(seeds)
        drawn = drawn.to(device, non_blocking=True)
        if truth is None:
            with torch.no_grad():
                features = self.backbone(self.batch(images, sizes))
                proposals, _ = self.proposal_generator(features, sides, None, drawn)
                return self.roi_heads.detect(features, proposals, sides)
        truth = truth.to(device)
        features = self.backbone(self.batch(images, sizes))
        proposals, losses = self.proposal_generator(features, sides, truth, drawn)
        return {**losses, **self.roi_heads.losses(features, proposals, truth, drawn)}

    def waits_for(self) -> str | None:
        """Why a step on a GPU has to ask the device or the host for something; None if it need not."""
        if not kernels.usable(self.pixel_mean):
            return "there are no Triton kernels here"
        if torch.are_deterministic_algorithms_enabled():
            return "torch was told to use deterministic algorithms"
        return self.proposal_generator.waits_for() or self.roi_heads.waits_for()

    def losses(
        self,
        images: Sequence[Tensor],
        boxes: Sequence[Tensor],
        classes: Sequence[Tensor],
        masks: list[list[Segmentation]] | None = None,
    ) -> dict[str, Tensor]:
        """The losses of a list of images.

        Args:
            images: uint8 [3, h, w] each. boxes: true boxes float32 [G, 4] of each. classes: int64 [G] in 0..C-1.
            masks: G of each, for a detector with a mask head.
        """
        return cast("dict[str, Tensor]", self(*pad_images(images), Truth.padded(boxes, classes, masks)))

    def detect(self, images: Sequence[Tensor]) -> list[Detections]:
        """Detections of each of a list of images, uint8 [3, h, w], in its pixels."""
        return cast("list[Detections]", self(*pad_images(images)))


def on_device(sizes: Sequence[tuple[int, int]] | Tensor, device: torch.device) -> Tensor:
    """(height, width) of each image as float32 [N, 2] on ``device``; nobody waits for the copy."""
    sides = sizes if isinstance(sizes, Tensor) else torch.tensor(sizes, dtype=torch.float32)
    return sides.to(device, non_blocking=True)


def _inside(height: int, width: int, sizes: Tensor) -> Tensor:
    """Bool [N, 1, H, W]: which pixels are of an image of ``sizes`` [N, 2] in the upper left corner."""
    rows = torch.arange(height, device=sizes.device) < sizes[:, :1]
    columns = torch.arange(width, device=sizes.device) < sizes[:, 1:]
    return (rows[:, :, None] & columns[:, None, :])[:, None]


def build_detector(cfg: CfgNode) -> Detector:
    """The detector that ``cfg`` describes, with fresh weights; ``MODEL.ROI_HEADS.NUM_CLASSES`` has to be final.

    Raises:
        UserError: a value that the torchvision engine cannot honour; names the key.
    """
    check_keys(cfg)
    arch = spec_from_config(cfg)
    pyramid = cfg.MODEL.BACKBONE.NAME != "build_resnet_backbone"
    bottom_up, res5 = _build_trunk(cfg, arch, pyramid=pyramid)
    if pyramid:
        names = cfg.MODEL.FPN.IN_FEATURES
        backbone: PyramidBackbone | TrunkFeatures = PyramidBackbone(
            bottom_up,
            names,
            [arch.out_channels[name] for name in names],
            cfg.MODEL.FPN.OUT_CHANNELS,
            norm_layer(cfg.MODEL.FPN.NORM, "MODEL.FPN.NORM"),
        )
        channels, available = cfg.MODEL.FPN.OUT_CHANNELS, backbone.levels
        divisibility = 2 ** int(names[-1][3:])
    else:
        backbone, channels, available, divisibility = bottom_up, arch.out_channels["res4"], ["res4"], 0
    for key, wanted in (("RPN", cfg.MODEL.RPN.IN_FEATURES), ("ROI_HEADS", cfg.MODEL.ROI_HEADS.IN_FEATURES)):
        if not wanted or not set(wanted) <= set(available):
            raise UserError(
                f"MODEL.{key}.IN_FEATURES is {list(wanted)}; the backbone makes {available}", hint="take some of those"
            )
    detector = Detector(
        backbone,
        _build_rpn(cfg, channels),
        _build_roi_heads(cfg, channels, arch, res5),
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        divisibility=divisibility,
    )
    # NHWC in memory: convolutions of this size run about 1.4 times as fast on a CPU
    return detector.to(memory_format=torch.channels_last)


def has_idle_parameters(cfg: CfgNode) -> bool:
    """Whether some of the detector's parameters have no part in its loss: a stage above those of the pyramid, or one of
    its levels that nobody reads."""
    if cfg.MODEL.BACKBONE.NAME == "build_resnet_backbone":
        return False
    stages = [int(name[3:]) for name in cfg.MODEL.FPN.IN_FEATURES]
    read = {min(int(name[1:]), stages[-1]) for name in (*cfg.MODEL.RPN.IN_FEATURES, *cfg.MODEL.ROI_HEADS.IN_FEATURES)}
    highest = max(int(name[3:]) for name in cfg.MODEL.RESNETS.OUT_FEATURES)
    return highest > stages[-1] or not set(stages) <= read


def _build_trunk(cfg: CfgNode, arch: TrunkSpec, *, pyramid: bool) -> tuple[TrunkFeatures, nn.Module | None]:
    """The trunk with its frozen stages, and the res5 that C4 has in its head and never freezes."""
    frozen, out_features = cfg.MODEL.BACKBONE.FREEZE_AT, cfg.MODEL.RESNETS.OUT_FEATURES
    trunk = detection_trunk(
        arch,
        norm="BN" if cfg.MODEL.RESNETS.NORM == "SyncBN" else cfg.MODEL.RESNETS.NORM,  # until share_norms
        freeze_stages=frozen if pyramid else min(frozen, 4),
        norm_eps=config_eps(cfg),
    )
    fuse_frozen_norms(arch.family.conv_norms(trunk.body))
    res5 = None if pyramid else trunk.stage("res5")
    return TrunkFeatures(trunk.keep(out_features), out_features), res5


def _stride(name: str) -> int:
    """2**N for "resN" and "pN"."""
    return 2 ** int(name[-1])


def _build_rpn(cfg: CfgNode, channels: int) -> Rpn:
    anchors = AnchorGrid(
        cfg.MODEL.ANCHOR_GENERATOR.SIZES,
        cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS,
        [_stride(name) for name in cfg.MODEL.RPN.IN_FEATURES],
        offset=cfg.MODEL.ANCHOR_GENERATOR.OFFSET,
    )
    if len(set(anchors.per_cell)) != 1:
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR gives {anchors.per_cell} anchors per cell of the feature maps",
            hint="the RPN's head is shared, so give every map as many",
        )
    return Rpn(RpnHead(channels, anchors.per_cell[0], cfg.MODEL.RPN.CONV_DIMS), anchors, RpnSettings.from_config(cfg))


def _build_roi_heads(cfg: CfgNode, channels: int, arch: TrunkSpec, res5: nn.Module | None) -> RoiHeads:
    box = cfg.MODEL.ROI_BOX_HEAD
    pooler = _build_pooler(cfg, box)
    if cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads":
        assert res5 is not None
        head: Res5Head | BoxHead = Res5Head(res5, arch.out_channels["res5"])
    else:
        head = BoxHead(
            channels,
            box.POOLER_RESOLUTION,
            [box.CONV_DIM] * box.NUM_CONV,
            [box.FC_DIM] * box.NUM_FC,
            norm_layer(box.NORM, "MODEL.ROI_BOX_HEAD.NORM"),
        )
    predictor = Predictor(head.out_channels, cfg.MODEL.ROI_HEADS.NUM_CLASSES, agnostic=box.CLS_AGNOSTIC_BBOX_REG)
    mask_head, mask_pooler = _build_masks(cfg, channels if res5 is None else head.out_channels, pyramid=res5 is None)
    settings = RoiSettings.from_config(cfg)
    return RoiHeads(pooler, head, predictor, settings, mask_head=mask_head, mask_pooler=mask_pooler)


def _build_masks(cfg: CfgNode, channels: int, *, pyramid: bool) -> tuple[MaskHead | None, RoiPooler | None]:
    """Mask R-CNN's head, and on a pyramid its pooler; in C4 it shares the maps of res5.

    Args:
        channels: of what it sees.
    """
    if not cfg.MODEL.MASK_ON:
        return None, None
    pooler = _build_pooler(cfg, cfg.MODEL.ROI_MASK_HEAD) if pyramid else None
    return MaskHead.from_config(cfg, channels), pooler


def _build_pooler(cfg: CfgNode, head: CfgNode) -> RoiPooler:
    """As ``MODEL.ROI_BOX_HEAD`` or ``MODEL.ROI_MASK_HEAD`` describes it."""
    return RoiPooler(
        head.POOLER_RESOLUTION,
        [_stride(name) for name in cfg.MODEL.ROI_HEADS.IN_FEATURES],
        sampling_ratio=head.POOLER_SAMPLING_RATIO,
        aligned=head.POOLER_TYPE == "ROIAlignV2",
    )
