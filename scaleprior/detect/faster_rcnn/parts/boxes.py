"""Boxes: regression codes, matching with the truth, and sampling for the loss, as Faster R-CNN and Detectron2 do it.

Shapes: A boxes, G true boxes. Boxes are float32 xyxy in pixels of the resized image.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

__all__ = ["clip", "decode", "encode", "match", "sample", "smooth_l1_sum"]

_MAX_LOG_SCALE = math.log(1000.0 / 16)  # keeps exp() of a wild prediction finite; Detectron2's value


def encode(reference: Tensor, target: Tensor, weights: Sequence[float]) -> Tensor:
    """Codes (dx, dy, dw, dh) that move ``reference`` onto ``target``, both [A, 4] (R-CNN), times ``weights``."""
    wx, wy, ww, wh = weights
    size, goal = reference[:, 2:] - reference[:, :2], target[:, 2:] - target[:, :2]
    centre, goal_centre = reference[:, :2] + 0.5 * size, target[:, :2] + 0.5 * goal
    shift = (goal_centre - centre) / size * size.new_tensor((wx, wy))
    scale = torch.log(goal / size) * size.new_tensor((ww, wh))
    return torch.cat([shift, scale], dim=1)


def decode(reference: Tensor, codes: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes [A, K, 4] that the codes [A, 4 * K] point to from ``reference`` [A, 4]; the inverse of :func:`encode`."""
    codes = codes.float()
    codes = codes.view(len(codes), codes.shape[1] // 4, 4) / codes.new_tensor(weights)
    size = (reference[:, 2:] - reference[:, :2])[:, None]
    centre = reference[:, None, :2] + 0.5 * size
    centre = centre + codes[..., :2] * size
    half = 0.5 * size * torch.exp(codes[..., 2:].clamp(max=_MAX_LOG_SCALE))
    return torch.cat([centre - half, centre + half], dim=-1)


def clip(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """``boxes`` [..., 4] cut to an image of ``size`` (height, width)."""
    height, width = size
    x, y = boxes[..., 0::2].clamp(0, width), boxes[..., 1::2].clamp(0, height)
    return torch.stack([x[..., 0], y[..., 0], x[..., 1], y[..., 1]], dim=-1)


def match(truth: Tensor, boxes: Tensor, thresholds: Sequence[float], *, keep_best: bool) -> tuple[Tensor, Tensor]:
    """For each of ``boxes`` [A, 4] the true box [G, 4] of highest IoU, and whether it counts.

    Args:
        thresholds: ``(t,)`` or ``(low, high)``: below the first background, from the last on object, else neither.
        keep_best: also count, for every true box, the boxes that overlap it most, however little (so that each
            object has an anchor).

    Returns:
        index of the true box int64 [A] (0 where there is none) and label int8 [A]: 1 object, 0 background, -1 neither.
    """
    if not len(truth):
        return boxes.new_zeros(len(boxes), dtype=torch.int64), boxes.new_zeros(len(boxes), dtype=torch.int8)
    iou = box_iou(truth, boxes)
    best, index = iou.max(dim=0)
    label = torch.full_like(index, -1, dtype=torch.int8)
    label[best < thresholds[0]] = 0
    label[best >= thresholds[-1]] = 1
    if keep_best:
        label[(iou == iou.max(dim=1, keepdim=True).values).any(dim=0)] = 1
    return index, label


def sample(label: Tensor, number: int, positive_fraction: float) -> tuple[Tensor, Tensor]:
    """Random indices of at most ``number * positive_fraction`` positives, filled up to ``number`` with negatives.

    Uses torch's global generator, which the trainer seeds at every step.
    """
    positive, negative = (torch.nonzero(label == value).squeeze(1) for value in (1, 0))
    positives = min(len(positive), int(number * positive_fraction))
    negatives = min(len(negative), number - positives)
    return (
        positive[torch.randperm(len(positive), device=label.device)[:positives]],
        negative[torch.randperm(len(negative), device=label.device)[:negatives]],
    )


def smooth_l1_sum(prediction: Tensor, target: Tensor, beta: float) -> Tensor:
    """Sum of ``0.5 d^2 / beta`` where ``|d| < beta``, else ``|d| - 0.5 beta``; plain ``|d|`` for beta 0."""
    if beta == 0.0:
        return F.l1_loss(prediction, target, reduction="sum")
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum")
