"""What is in each proposal: the C4 (res5) and FPN (fully connected) heads, their losses and detections.

Shapes: N images, R proposals of all images, C classes, P side of the pooled square. Class C is background.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import batched_nms

from scaleprior.detect.faster_rcnn.parts import boxes as box_ops
from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["BoxHead", "Detections", "Predictor", "Res5Head", "RoiHeads", "RoiSettings"]


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first: boxes [D, 4] xyxy, scores [D] in [0, 1], classes int64 [D]."""

    boxes: Tensor
    scores: Tensor
    classes: Tensor


class BoxHead(nn.Module):
    """Detectron2's ``FastRCNNConvFCHead``: 3x3 convolutions, then fully connected layers, each with ReLU.

    Args:
        channels: of the pooled maps.
        resolution: P.
        conv_dims, fc_dims: widths of the layers.
        norm: makes a norm layer from its width; None = none (the convolutions then have a bias).
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self._layers: list[nn.Module] = []
        for number, width in enumerate(conv_dims, start=1):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layer = conv if norm is None else nn.Sequential(conv, norm(width))
            self.add_module(f"conv{number}", layer)
            self._layers.append(layer)
            channels = width
        size = channels * resolution * resolution
        for number, width in enumerate(fc_dims, start=1):
            layer = nn.Linear(size, width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.add_module(f"fc{number}", layer)
            self._layers.append(layer)
            size = width
        self.out_channels = size

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, out_channels] from [R, channels, P, P]."""
        x = pooled
        for layer in self._layers:
            if isinstance(layer, nn.Linear) and x.dim() > 2:
                x = x.flatten(1)
            x = F.relu(layer(x))
        return x.flatten(1)


class Res5Head(nn.Module):
    """The C4 head: the backbone's last stage on the pooled maps, then the mean over positions."""

    def __init__(self, res5: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.res5 = res5
        self.out_channels = out_channels

    def forward(self, pooled: Tensor) -> Tensor:
        """[R, out_channels] from [R, channels, P, P]."""
        return self.res5(pooled).mean(dim=(2, 3))


class Predictor(nn.Module):
    """Class logits [R, C + 1] and box codes [R, 4 * C] (or 4, class-agnostic)."""

    def __init__(self, channels: int, classes: int, *, agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score: nn.Linear = nn.Linear(channels, classes + 1)
        self.bbox_pred: nn.Linear = nn.Linear(channels, 4 if agnostic else 4 * classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float()


@dataclass(frozen=True)
class RoiSettings:
    """The numbers of ``MODEL.ROI_HEADS``, ``MODEL.ROI_BOX_HEAD`` and ``TEST`` (see ``config/keys/``)."""

    in_features: tuple[str, ...]
    classes: int
    iou_thresholds: tuple[float, ...]
    batch_size_per_image: int
    positive_fraction: float
    append_truth: bool
    box_weights: tuple[float, ...]
    beta: float
    loc_weight: float
    score_thresh: float
    nms_thresh: float
    per_image: int

    @classmethod
    def from_config(cls, cfg: CfgNode) -> RoiSettings:
        """Read the keys; the number of classes is ``MODEL.ROI_HEADS.NUM_CLASSES``."""
        heads, box = cfg.MODEL.ROI_HEADS, cfg.MODEL.ROI_BOX_HEAD
        return cls(
            in_features=tuple(heads.IN_FEATURES),
            classes=heads.NUM_CLASSES,
            iou_thresholds=tuple(heads.IOU_THRESHOLDS),
            batch_size_per_image=heads.BATCH_SIZE_PER_IMAGE,
            positive_fraction=heads.POSITIVE_FRACTION,
            append_truth=heads.PROPOSAL_APPEND_GT,
            box_weights=tuple(box.BBOX_REG_WEIGHTS),
            beta=box.SMOOTH_L1_BETA,
            loc_weight=box.BBOX_REG_LOSS_WEIGHT,
            score_thresh=heads.SCORE_THRESH_TEST,
            nms_thresh=heads.NMS_THRESH_TEST,
            per_image=cfg.TEST.DETECTIONS_PER_IMAGE,
        )


class RoiHeads(nn.Module):
    """Classify and refine proposals; in training, sample them and return the two losses."""

    def __init__(self, pooler: RoiPooler, head: nn.Module, predictor: Predictor, settings: RoiSettings) -> None:
        super().__init__()
        self.pooler = pooler
        self.box_head = head
        self.box_predictor = predictor
        self.settings = settings

    def losses(
        self,
        features: Mapping[str, Tensor],
        proposals: Sequence[Tensor],
        truth: Sequence[Tensor],
        classes: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Cross-entropy over the sampled proposals, and box regression of the objects among them over the same number.

        Args:
            proposals: [P_i, 4] per image; truth: true boxes [G_i, 4]; classes: their classes int64 [G_i].
        """
        s = self.settings
        rois, labels, targets = [], [], []
        for boxes, true_boxes, true_classes in zip(proposals, truth, classes):
            if s.append_truth:
                boxes = torch.cat([boxes, true_boxes])
            index, label = box_ops.match(true_boxes, boxes, s.iou_thresholds, keep_best=False)
            positive, negative = box_ops.sample(label, s.batch_size_per_image, s.positive_fraction)
            rois.append(boxes[torch.cat([positive, negative])])
            labels += [true_classes[index[positive]], torch.full_like(negative, s.classes)]
            if len(positive):
                targets.append(box_ops.encode(boxes[positive], true_boxes[index[positive]], s.box_weights))
        logits, codes = self._predict(features, rois)
        label = torch.cat(labels)
        # an empty mean is NaN: a batch without any proposal has no loss, but keeps the graph
        loss_cls = F.cross_entropy(logits, label) if len(label) else logits.sum() * 0
        row = torch.nonzero(label < s.classes).squeeze(1)
        codes = codes.view(len(codes), -1, 4)
        predicted = codes[row, 0] if codes.shape[1] == 1 else codes[row, label[row]]
        target = torch.cat(targets) if targets else predicted.detach()
        loss_loc = box_ops.smooth_l1_sum(predicted, target, s.beta) / max(len(label), 1)
        return {"loss_cls": loss_cls, "loss_box_reg": loss_loc * s.loc_weight}

    @torch.no_grad()
    def detect(
        self, features: Mapping[str, Tensor], proposals: Sequence[Tensor], sizes: Sequence[tuple[int, int]]
    ) -> list[Detections]:
        """Detections of each image in pixels of the resized image of ``sizes`` (height, width)."""
        logits, codes = self._predict(features, proposals)
        scores = logits.softmax(dim=1)[:, :-1]
        boxes = box_ops.decode(torch.cat(list(proposals)), codes, self.settings.box_weights)
        counts = [len(p) for p in proposals]
        return [self._select(*part) for part in zip(boxes.split(counts), scores.split(counts), sizes)]

    def _predict(self, features: Mapping[str, Tensor], rois: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        maps = [features[name] for name in self.settings.in_features]
        return self.box_predictor(self.box_head(self.pooler(maps, rois)))

    def _select(self, boxes: Tensor, scores: Tensor, size: tuple[int, int]) -> Detections:
        s = self.settings
        finite = torch.isfinite(boxes).all(dim=2).all(dim=1) & torch.isfinite(scores).all(dim=1)
        boxes, scores = box_ops.clip(boxes[finite], size), scores[finite]
        row, cls = torch.nonzero(scores > s.score_thresh, as_tuple=True)
        boxes = boxes[row, 0] if boxes.shape[1] == 1 else boxes[row, cls]
        scores = scores[row, cls]
        keep = batched_nms(boxes, scores, cls, s.nms_thresh)[: s.per_image]
        return Detections(boxes[keep], scores[keep], cls[keep])
