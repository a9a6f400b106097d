"""The region proposal network: which boxes may hold an object (Faster R-CNN, with Detectron2's normalisation).

Shapes: N images, A anchors of all levels, P proposals of an image. Boxes are xyxy in pixels of the resized image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.parts import boxes as box_ops
from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid
from scaleprior.detect.faster_rcnn.parts.draws import ANCHORS, random_keys
from scaleprior.detect.faster_rcnn.parts.nms import MOST_OF_KERNEL, keep_best
from scaleprior.detect.faster_rcnn.truth import Truth

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Proposals", "Rpn", "RpnHead", "RpnSettings"]


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


@dataclass(frozen=True)
class Proposals:
    """Boxes that may hold an object, best first: float32 [N, P, 4], and which of these places have one, bool [N, P]."""

    boxes: Tensor
    present: Tensor


class Rpn(nn.Module):
    """Proposals, and in training the two RPN losses."""

    def __init__(self, head: RpnHead, anchors: AnchorGrid, settings: RpnSettings) -> None:
        super().__init__()
        self.rpn_head = head
        self.anchors = anchors
        self.settings = settings

    def forward(
        self, features: Mapping[str, Tensor], sizes: Tensor, truth: Truth | None, seeds: Tensor
    ) -> tuple[Proposals, dict[str, Tensor]]:
        """Propose boxes.

        Args:
            features: maps by name, [N, C, H, W] each.
            sizes: float32 [N, 2], (height, width) of each image without padding.
            truth: in training, else None.
            seeds: int64 [N], of the choice of anchors.

        Returns:
            proposals, best first and detached, and the losses (empty without truth).
        """
        maps = [features[name] for name in self.settings.in_features]
        anchors = self.anchors(maps)
        logits, codes = self.rpn_head(maps)
        levels = [logit.shape[1] for logit in logits]
        every = torch.cat(anchors), torch.cat(logits, dim=1), torch.cat(codes, dim=1)
        losses = {} if truth is None else self._losses(*every, truth, seeds)
        with torch.no_grad():
            return self._propose(*every, levels, sizes), losses

    def waits_for(self) -> str | None:
        """Why a step on a GPU has to ask the device for something; None if it need not."""
        most = self.settings.pre_nms[0]
        return None if most <= MOST_OF_KERNEL else f"MODEL.RPN.PRE_NMS_TOPK_TRAIN is {most}"

    def _losses(self, anchors: Tensor, logits: Tensor, codes: Tensor, truth: Truth, seeds: Tensor) -> dict[str, Tensor]:
        """Sums over the sampled anchors, divided by batch_size_per_image * N (Detectron2; torchvision divides by
        the number really sampled)."""
        s = self.settings
        with torch.no_grad():
            matched, label = box_ops.match(anchors, truth, s.iou_thresholds, keep_best=True)
            keys = random_keys(seeds, ANCHORS, len(anchors))
            index, kind = box_ops.sample(label, s.batch_size_per_image, s.positive_fraction, keys)
            positives = index[:, : int(s.batch_size_per_image * s.positive_fraction)]  # objects come first
            goal = box_ops.rows_of(truth.boxes, box_ops.rows_of(matched, positives))
            target = box_ops.encode(anchors[positives], goal, s.box_weights)
        normaliser = s.batch_size_per_image * len(truth)
        chosen = box_ops.rows_of(logits, index)
        each = F.binary_cross_entropy_with_logits(chosen, (kind == 1).to(chosen.dtype), reduction="none")
        loss_cls = torch.where(kind >= 0, each, 0.0).sum() / normaliser
        predicted, objects = box_ops.rows_of(codes, positives), kind[:, : positives.shape[1]] == 1
        loss_loc = box_ops.smooth_l1_sum(predicted, target, s.beta, objects) / normaliser
        return {"loss_rpn_cls": loss_cls * s.cls_weight, "loss_rpn_loc": loss_loc * s.loc_weight}

    def _propose(
        self, anchors: Tensor, logits: Tensor, codes: Tensor, levels: Sequence[int], sizes: Tensor
    ) -> Proposals:
        """The best of every level, without those that overlap a better one of it, then the best of all levels.

        Args:
            levels: how many of the anchors [A, 4], logits [N, A] and codes [N, A, 4] are of each level, in their order.
        """
        s = self.settings
        mode = 0 if self.training else 1
        most, first, scores, places = min(s.pre_nms[mode], max(levels)), 0, [], []
        for number, logit in zip(levels, logits.split(list(levels), dim=1)):
            best, index = logit.topk(min(most, number), dim=1)
            # One row for each level of each image; shorter levels have places behind their own that hold nothing.
            scores.append(F.pad(best, (0, most - best.shape[1]), value=-torch.inf))
            places.append(F.pad(index + first, (0, most - best.shape[1])))
            first += number
        best, index = torch.cat(scores, dim=1), torch.cat(places, dim=1)
        boxes = box_ops.decode(anchors[index], box_ops.rows_of(codes, index), s.box_weights)
        boxes = box_ops.clip(boxes, sizes)
        # a comparison with NaN is false, so this also drops boxes that are not finite
        usable = (boxes[..., 2:] - boxes[..., :2] > s.min_size).all(dim=-1) & torch.isfinite(best)
        best = best.masked_fill(~usable, -torch.inf)
        kept = keep_best(boxes.view(-1, most, 4), best.view(-1, most), s.nms_thresh)
        best, index = best.masked_fill(~kept.view_as(best), -torch.inf).topk(
            min(s.post_nms[mode], best.shape[1]), dim=1
        )
        return Proposals(box_ops.rows_of(boxes, index), best > -torch.inf)
