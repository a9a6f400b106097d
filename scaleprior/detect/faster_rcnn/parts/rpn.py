"""The region proposal network: which boxes may hold an object (Faster R-CNN, with Detectron2's normalisation).

Shapes: N images, L levels, A anchors of all levels. Boxes are xyxy in pixels of the resized image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from scaleprior.detect.faster_rcnn.parts import boxes as box_ops
from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Rpn", "RpnHead", "RpnSettings"]


class RpnHead(nn.Module):
    """3x3 convolutions shared by all levels, then objectness and box codes per anchor.

    Args:
        channels: of every feature map.
        anchors: per cell.
        conv_dims: channels of the 3x3 convolutions; -1 = ``channels``.
    """

    def __init__(self, channels: int, anchors: int, conv_dims: Sequence[int] = (-1,)) -> None:
        super().__init__()
        widths = [channels if width == -1 else width for width in conv_dims]
        convs = [nn.Conv2d(i, o, 3, padding=1) for i, o in zip([channels, *widths], widths)]
        self.conv: nn.Conv2d | nn.Sequential = convs[0] if len(convs) == 1 else nn.Sequential()
        if len(convs) > 1:
            for number, conv in enumerate(convs):  # Detectron2's names: conv.conv0, conv.conv1, ...
                self.conv.add_module(f"conv{number}", conv)
        self._convs = convs
        self.objectness_logits: nn.Conv2d = nn.Conv2d(widths[-1], anchors, 1)
        self.anchor_deltas: nn.Conv2d = nn.Conv2d(widths[-1], anchors * 4, 1)
        for layer in (*convs, self.objectness_logits, self.anchor_deltas):
            nn.init.normal_(layer.weight, std=0.01)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)

    def forward(self, features: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Per level: logits float32 [N, H * W * anchors] and codes float32 [N, H * W * anchors, 4]."""
        logits, codes = [], []
        for x in features:
            for conv in self._convs:
                x = F.relu(conv(x))
            logits.append(self.objectness_logits(x).permute(0, 2, 3, 1).flatten(1).float())
            codes.append(self.anchor_deltas(x).permute(0, 2, 3, 1).reshape(len(x), -1, 4).float())
        return logits, codes


@dataclass(frozen=True)
class RpnSettings:
    """The numbers of ``MODEL.RPN`` (see ``config/keys/heads.py``); pairs are (training, evaluation)."""

    in_features: tuple[str, ...]
    iou_thresholds: tuple[float, ...]
    batch_size_per_image: int
    positive_fraction: float
    box_weights: tuple[float, ...]
    beta: float
    cls_weight: float
    loc_weight: float
    pre_nms: tuple[int, int]
    post_nms: tuple[int, int]
    nms_thresh: float
    min_size: float

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RpnSettings:
        """Read ``MODEL.RPN`` and ``MODEL.PROPOSAL_GENERATOR``."""
        rpn = cfg.MODEL.RPN
        return cls(
            in_features=tuple(rpn.IN_FEATURES),
            iou_thresholds=tuple(rpn.IOU_THRESHOLDS),
            batch_size_per_image=rpn.BATCH_SIZE_PER_IMAGE,
            positive_fraction=rpn.POSITIVE_FRACTION,
            box_weights=tuple(rpn.BBOX_REG_WEIGHTS),
            beta=rpn.SMOOTH_L1_BETA,
            cls_weight=rpn.LOSS_WEIGHT,
            loc_weight=rpn.BBOX_REG_LOSS_WEIGHT * rpn.LOSS_WEIGHT,
            pre_nms=(rpn.PRE_NMS_TOPK_TRAIN, rpn.PRE_NMS_TOPK_TEST),
            post_nms=(rpn.POST_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TEST),
            nms_thresh=rpn.NMS_THRESH,
            min_size=cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE,
        )


class Rpn(nn.Module):
    """Proposals, and in training the two RPN losses."""

    def __init__(self, head: RpnHead, anchors: AnchorGrid, settings: RpnSettings) -> None:
        super().__init__()
        self.rpn_head = head
        self.anchors = anchors
        self.settings = settings

    def forward(
        self, features: Mapping[str, Tensor], sizes: Sequence[tuple[int, int]], truth: Sequence[Tensor] | None
    ) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: maps by name, [N, C, H, W] each.
            sizes: (height, width) of each image without padding.
            truth: true boxes [G, 4] of each image in training, else None.

        Returns:
            proposals [P, 4] per image, best first and detached, and the losses (empty without truth).
        """
        maps = [features[name] for name in self.settings.in_features]
        anchors = self.anchors(maps)
        logits, codes = self.rpn_head(maps)
        losses = {} if truth is None else self._losses(torch.cat(anchors), logits, codes, truth)
        with torch.no_grad():
            return self._propose(anchors, logits, codes, sizes), losses

    def _losses(
        self, anchors: Tensor, logits: list[Tensor], codes: list[Tensor], truth: Sequence[Tensor]
    ) -> dict[str, Tensor]:
        """Sums over the sampled anchors, divided by batch_size_per_image * N (Detectron2; torchvision divides by
        the number really sampled)."""
        s = self.settings
        all_logits, all_codes = torch.cat(logits, dim=1), torch.cat(codes, dim=1)
        rows_pos, rows_neg, targets = [], [], []
        for image, boxes in enumerate(truth):
            index, label = box_ops.match(boxes, anchors, s.iou_thresholds, keep_best=True)
            positive, negative = box_ops.sample(label, s.batch_size_per_image, s.positive_fraction)
            rows_pos.append(positive + image * len(anchors))
            rows_neg.append(negative + image * len(anchors))
            if len(positive):
                targets.append(box_ops.encode(anchors[positive], boxes[index[positive]], s.box_weights))
        positive, negative = torch.cat(rows_pos), torch.cat(rows_neg)
        chosen = all_logits.flatten()[torch.cat([positive, negative])]
        label = torch.zeros_like(chosen)
        label[: len(positive)] = 1
        normaliser = s.batch_size_per_image * len(truth)
        loss_cls = F.binary_cross_entropy_with_logits(chosen, label, reduction="sum") / normaliser
        predicted = all_codes.flatten(0, 1)[positive]
        target = torch.cat(targets) if targets else predicted.detach()
        loss_loc = box_ops.smooth_l1_sum(predicted, target, s.beta) / normaliser
        return {"loss_rpn_cls": loss_cls * s.cls_weight, "loss_rpn_loc": loss_loc * s.loc_weight}

    def _propose(
        self, anchors: list[Tensor], logits: list[Tensor], codes: list[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Tensor]:
        s = self.settings
        mode = 0 if self.training else 1
        scores, boxes, levels = [], [], []
        for level, (anchor, logit, code) in enumerate(zip(anchors, logits, codes)):
            best, index = logit.topk(min(s.pre_nms[mode], logit.shape[1]), dim=1)
            picked = code.gather(1, index[..., None].expand(-1, -1, 4))
            decoded = box_ops.decode(anchor[index.flatten()], picked.reshape(-1, 4), s.box_weights)
            boxes.append(decoded.view(len(logit), -1, 4))
            scores.append(best)
            levels.append(torch.full_like(index[0], level))
        all_scores, all_boxes, all_levels = torch.cat(scores, 1), torch.cat(boxes, 1), torch.cat(levels)
        proposals = []
        for score, box, size in zip(all_scores, all_boxes, sizes):
            box = box_ops.clip(box, size)
            side = (box[:, 2:] - box[:, :2]).min(dim=1).values
            # a comparison with NaN is false, so this also drops boxes that are not finite
            usable = (side > s.min_size) & torch.isfinite(score)
            box, score, level = box[usable], score[usable], all_levels[usable]
            keep = batched_nms(box, score, level, s.nms_thresh)[: s.post_nms[mode]]
            proposals.append(box[keep])
        return proposals
