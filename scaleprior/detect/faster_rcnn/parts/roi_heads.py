"""What is in each proposal: regions to learn from, losses, detections and their masks, by the C4 or the FPN head.

Shapes: N images, S sampled regions of an image, R regions of all images, C classes, P side of the pooled square.
Class C is background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.parts import boxes as box_ops
from scaleprior.detect.faster_rcnn.parts.box_head import BoxHead, Predictor
from scaleprior.detect.faster_rcnn.parts.draws import REGIONS, random_keys
from scaleprior.detect.faster_rcnn.parts.mask_head import MaskHead, Objects, mask_loss
from scaleprior.detect.faster_rcnn.parts.nms import keep_best
from scaleprior.detect.faster_rcnn.parts.res5_head import Res5Head
from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler
from scaleprior.detect.faster_rcnn.parts.rpn import Proposals
from scaleprior.detect.faster_rcnn.truth import Truth

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.training.processes import ProcessGroup

__all__ = ["Detections", "RoiHeads", "RoiSettings", "Sampled"]

_MASKS_AT_ONCE = 256  # detections in one pass of the mask head: its widest map takes 0.2 GB for them in float32


@dataclass(frozen=True)
class Detections:
    """What was found in one image, best first: boxes [D, 4] xyxy, scores [D] in [0, 1], classes int64 [D].

    Attributes:
        masks: of Mask R-CNN, [D, S, S] in [0, 1]: how likely each cell of a box is the object's.
    """

    boxes: Tensor
    scores: Tensor
    classes: Tensor
    masks: Tensor | None = None


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


@dataclass(frozen=True)
class Sampled:
    """The regions of a batch that the heads learn from; objects come first in each image.

    Attributes:
        boxes: float32 [N, S, 4].
        labels: int64 [N, S], class of each, C for background and where there is nothing.
        matched: int64 [N, S], place in the truth of the object that it overlaps most.
        kind: int8 [N, S], 1 object, 0 background, -1 nothing.
    """

    boxes: Tensor
    labels: Tensor
    matched: Tensor
    kind: Tensor


class RoiHeads(nn.Module):
    """Classify and refine proposals, and find masks; in training, sample them and return the losses.

    Args:
        mask_head: of Mask R-CNN.
        mask_pooler: what it sees of a box; None = the maps of the box head (C4).
    """

    def __init__(
        self,
        pooler: RoiPooler,
        head: BoxHead | Res5Head,
        predictor: Predictor,
        settings: RoiSettings,
        *,
        mask_head: MaskHead | None = None,
        mask_pooler: RoiPooler | None = None,
    ) -> None:
        super().__init__()
        self.pooler = pooler
        self.box_head = head
        self.box_predictor = predictor
        self.settings = settings
        self.mask_head = mask_head
        self.mask_pooler = mask_pooler
        self.processes: ProcessGroup | None = None  # that train it together, if there are several

    def sample(self, proposals: Proposals, truth: Truth, seeds: Tensor) -> Sampled:
        """Choose the regions to learn from.

        Args:
            seeds: int64 [N], of the choice.
        """
        s = self.settings
        boxes, present = proposals.boxes, proposals.present
        if s.append_truth:
            boxes, present = torch.cat([boxes, truth.boxes], 1), torch.cat([present, truth.present], 1)
        matched, label = box_ops.match(boxes, truth, s.iou_thresholds, keep_best=False)
        keys = random_keys(seeds, REGIONS, boxes.shape[1])
        label = label.masked_fill(~present, -1)
        index, kind = box_ops.sample(label, s.batch_size_per_image, s.positive_fraction, keys)
        matched = box_ops.rows_of(matched, index)
        labels = torch.where(kind == 1, box_ops.rows_of(truth.classes, matched), s.classes)
        return Sampled(box_ops.rows_of(boxes, index), labels, matched, kind)

    def losses(
        self, features: Mapping[str, Tensor], proposals: Proposals, truth: Truth, seeds: Tensor
    ) -> dict[str, Tensor]:
        """Cross-entropy over the sampled proposals, box regression of the objects among them over the same number, and
        with a mask head the cross-entropy of their pixels.

        Args:
            seeds: int64 [N], of the choice of regions.
        """
        s = self.settings
        with torch.no_grad():
            sampled = self.sample(proposals, truth, seeds)
            goal = box_ops.rows_of(truth.boxes, sampled.matched)
            target = box_ops.encode(sampled.boxes, goal, s.box_weights).flatten(0, 1)
            rows = self._rows(sampled.kind >= 0)
            label, kind = sampled.labels.flatten()[rows], sampled.kind.flatten()[rows]
            # chosen before the heads run, which a device then does while the host draws
            objects = None if self.mask_head is None else self._objects(sampled, rows, truth)
        logits, codes, maps = self._predict(features, sampled.boxes, rows)
        # an empty mean is NaN: a batch without any proposal has no loss, but keeps the graph
        count = self.normaliser((kind >= 0).sum().to(logits.dtype))
        each = F.cross_entropy(logits, label, reduction="none")
        loss_cls = torch.where(kind >= 0, each, 0.0).sum() / count
        codes = codes.view(len(codes), -1, 4)
        own = label.clamp(max=codes.shape[1] - 1)  # one box for every class, or one for all
        predicted = box_ops.rows_of(codes, own[:, None]).squeeze(1)
        loss_loc = box_ops.smooth_l1_sum(predicted, target[rows], s.beta, kind == 1) / count
        losses = {"loss_cls": loss_cls, "loss_box_reg": loss_loc * s.loc_weight}
        return losses if objects is None else {**losses, "loss_mask": self._mask_loss(features, maps, objects)}

    def _objects(self, sampled: Sampled, rows: Tensor | slice, truth: Truth) -> Objects:
        assert truth.masks is not None, "the sets were read without masks"
        regions = (sampled.kind, _images_of(sampled.boxes), sampled.labels, sampled.matched)
        kind, images, labels, matched = (each.flatten()[rows] for each in regions)
        return Objects.among(kind, sampled.boxes.flatten(0, 1)[rows], images, labels, matched, truth.masks)

    def _mask_loss(self, features: Mapping[str, Tensor], maps: Tensor | None, objects: Objects) -> Tensor:
        """Of the masks of the sampled objects.

        Args:
            maps: of all sampled regions, as the box head sees them, where the masks' head shares them.
        """
        assert self.mask_head is not None
        if self.mask_pooler is None:
            assert maps is not None
            seen = maps[objects.rows]
        else:
            seen = self.mask_pooler(self._levels(features), objects.boxes, objects.images)
        logits = self.mask_head(seen, objects.classes)
        count = self.normaliser(logits.new_tensor(float(len(logits))))
        return mask_loss(logits, objects.targets(logits.shape[-1]), count)

    def normaliser(self, count: Tensor) -> Tensor:
        """What the losses are divided by, from the number of regions that were sampled here: its mean over the
        processes, so that the mean of their losses is the loss of all regions. 1 where there are none at all."""
        if self.processes is None:
            return count.clamp(min=1)
        return self.processes.all_reduce(count).clamp(min=1) / self.processes.size

    @torch.no_grad()
    def detect(self, features: Mapping[str, Tensor], proposals: Proposals, sizes: Tensor) -> list[Detections]:
        """Detections of each image in pixels of the resized image of ``sizes`` [N, 2] (height, width)."""
        images, places = proposals.present.shape
        rows = self._rows(proposals.present)
        logits, codes, _ = self._predict(features, proposals.boxes, rows)
        codes = codes.view(len(codes), -1, 4)
        given = proposals.boxes.flatten(0, 1)[rows][:, None].expand(-1, codes.shape[1], -1)
        found = box_ops.decode(given, codes, self.settings.box_weights)
        scores = logits.new_full((images * places, self.settings.classes), -torch.inf)
        boxes = found.new_zeros(images * places, codes.shape[1], 4)
        scores[rows], boxes[rows] = logits.softmax(dim=1)[:, :-1], found
        scores = scores.view(images, places, -1).masked_fill(~proposals.present[..., None], -torch.inf)
        detections = self.select(boxes.view(images, places, -1, 4), scores, sizes)
        return detections if self.mask_head is None else self._with_masks(features, detections)

    def _with_masks(self, features: Mapping[str, Tensor], detections: Sequence[Detections]) -> list[Detections]:
        """The detections with the masks of their boxes, which the heads have not seen yet."""
        assert self.mask_head is not None
        counts = [len(each.scores) for each in detections]
        boxes = torch.cat([each.boxes for each in detections])
        classes = torch.cat([each.classes for each in detections])
        # from a list, so that nobody asks the device how many there are
        images = torch.tensor([image for image, count in enumerate(counts) for _ in range(count)], dtype=torch.int64)
        images = images.to(boxes.device, non_blocking=True)
        masks = []
        for b, i, c in zip(*(each.split(_MASKS_AT_ONCE) for each in (boxes, images, classes))):
            if self.mask_pooler is None:
                seen = self._maps(features, b, i)
            else:
                seen = self.mask_pooler(self._levels(features), b, i)
            masks.append(self.mask_head(seen, c).sigmoid())
        return [replace(each, masks=mask) for each, mask in zip(detections, torch.cat(masks).split(counts))]

    def select(self, boxes: Tensor, scores: Tensor, sizes: Tensor) -> list[Detections]:
        """The detections of each image: those of a sufficient score that overlap no better one of their class.

        Args:
            boxes: float32 [N, P, C, 4], or [N, P, 1, 4] where classes share them. scores: [N, P, C].
        """
        s = self.settings
        finite = torch.isfinite(boxes).all(dim=3).all(dim=2) & torch.isfinite(scores).all(dim=2)
        candidate = (scores > s.score_thresh) & finite[..., None]
        scores = scores.masked_fill(~candidate, -torch.inf).flatten(1)
        most = int(candidate.flatten(1).sum(1).max()) if candidate.numel() else 0
        best, index = scores.topk(most, dim=1)
        classes = index % s.classes
        flat = boxes.flatten(1, 2)
        places = index if boxes.shape[2] == s.classes else torch.div(index, s.classes, rounding_mode="floor")
        found = box_ops.clip(box_ops.rows_of(flat, places), sizes)
        kept = keep_best(found, best, s.nms_thresh, classes, limit=s.per_image)
        best, index = best.masked_fill(~kept, -torch.inf).topk(min(s.per_image, most), dim=1)
        found, classes = box_ops.rows_of(found, index), box_ops.rows_of(classes, index)
        counts = (best > -torch.inf).sum(1).tolist()
        return [Detections(b[:n], score[:n], c[:n]) for b, score, c, n in zip(found, best, classes, counts)]

    def waits_for(self) -> str | None:
        """Why a step on a GPU has to ask the device or the host for something; None if it need not."""
        if self.mask_head is not None:
            return "the targets of masks are drawn on the host"
        return "a BN of the head learns" if self._counts_regions() else None

    def _rows(self, there: Tensor) -> Tensor | slice:
        """Which of all regions [N, S], flattened, go through the head.

        To know those that are there costs nothing on a CPU. A GPU would have to be waited for, so all go through it
        there, unless a norm would count the empty ones in its statistics.
        """
        if there.device.type != "cpu" and not self._counts_regions():
            return slice(None)
        return torch.nonzero(there.flatten()).squeeze(1)

    def _counts_regions(self) -> bool:
        """Whether a norm of the head gathers statistics over regions."""
        return any(_learns_statistics(module) for module in self.box_head.modules())

    def _predict(
        self, features: Mapping[str, Tensor], boxes: Tensor, rows: Tensor | slice
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits and codes of the regions ``rows``, and what the box head saw of them where masks are found from it."""
        maps = self._maps(features, boxes.flatten(0, 1)[rows], _images_of(boxes)[rows])
        shared = self.mask_head is not None and self.mask_pooler is None
        # else nobody needs them: all there is to keep of them is what gradients need
        return *self.box_predictor(self.box_head(maps)), maps if shared else None

    def _maps(self, features: Mapping[str, Tensor], boxes: Tensor, images: Tensor) -> Tensor:
        """What the box head sees of ``boxes`` [R, 4] of ``images`` [R]."""
        maps = self._levels(features)
        skips = self.pooler.skips(maps)
        return self.box_head.maps(maps, lambda maps, step: self.pooler(maps, boxes, images, step), skips=skips)

    def _levels(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        return [features[name] for name in self.settings.in_features]


def _images_of(boxes: Tensor) -> Tensor:
    """int64 [N * S], the image of each of ``boxes`` [N, S, 4], flattened."""
    return torch.arange(len(boxes), device=boxes.device).repeat_interleave(boxes.shape[1])


def _learns_statistics(module: nn.Module) -> bool:
    return isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training
