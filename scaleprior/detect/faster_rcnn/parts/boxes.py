"""Boxes: regression codes, matching with the truth, and sampling for the loss, as Faster R-CNN and Detectron2 do it.

Shapes: N images, A boxes of each, G true boxes at most. Boxes are float32 xyxy in pixels of the resized image. All of a
batch at once, and no answer of the device is waited for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleprior.detect.faster_rcnn.parts.draws import KEYS
from scaleprior.detect.faster_rcnn.parts.matching import best_overlaps
from scaleprior.detect.faster_rcnn.truth import Truth

__all__ = ["clip", "decode", "encode", "match", "rows_of", "sample", "smooth_l1_sum"]

_MAX_LOG_SCALE = math.log(1000.0 / 16)  # keeps exp() of a wild prediction finite; Detectron2's value


def encode(reference: Tensor, target: Tensor, weights: Sequence[float]) -> Tensor:
    """Codes (dx, dy, dw, dh) that move ``reference`` onto ``target``, both [..., 4] (R-CNN), times ``weights``."""
    wx, wy, ww, wh = weights
    size, goal = reference[..., 2:] - reference[..., :2], target[..., 2:] - target[..., :2]
    centre, goal_centre = reference[..., :2] + 0.5 * size, target[..., :2] + 0.5 * goal
    shift_x, shift_y = ((goal_centre - centre) / size).unbind(-1)
    scale_x, scale_y = torch.log(goal / size).unbind(-1)
    return torch.stack([shift_x * wx, shift_y * wy, scale_x * ww, scale_y * wh], dim=-1)


def decode(reference: Tensor, codes: Tensor, weights: Sequence[float]) -> Tensor:
    """Boxes [..., 4] that the codes [..., 4] point to from ``reference`` [..., 4]; the inverse of :func:`encode`."""
    wx, wy, ww, wh = weights
    dx, dy, dw, dh = codes.float().unbind(-1)
    x0, y0, x1, y1 = reference.unbind(-1)
    width, height = x1 - x0, y1 - y0
    x, y = x0 + 0.5 * width + dx / wx * width, y0 + 0.5 * height + dy / wy * height
    half_width = 0.5 * width * torch.exp((dw / ww).clamp(max=_MAX_LOG_SCALE))
    half_height = 0.5 * height * torch.exp((dh / wh).clamp(max=_MAX_LOG_SCALE))
    return torch.stack([x - half_width, y - half_height, x + half_width, y + half_height], dim=-1)


def clip(boxes: Tensor, sizes: Tensor) -> Tensor:
    """``boxes`` [N, ..., 4] cut to images of ``sizes`` [N, 2] (height, width)."""
    limit = sizes.flip(1).repeat(1, 2).view(len(sizes), *[1] * (boxes.dim() - 2), 4)
    return torch.minimum(boxes.clamp(min=0), limit)


def match(boxes: Tensor, truth: Truth, thresholds: Sequence[float], *, keep_best: bool) -> tuple[Tensor, Tensor]:
    """For each of ``boxes``, [A, 4] of all images or [N, A, 4], the true box of highest IoU, and whether it counts.

    Args:
        thresholds: ``(t,)`` or ``(low, high)``: below the first background, from the last on object, else neither.
        keep_best: also count, for every true box, the boxes that overlap it most, however little (so that each
            object has an anchor).

    Returns:
        index of the true box int64 [N, A] (0 where there is none) and label int8 [N, A]: 1 object, 0 background,
        -1 neither.
    """
    iou, index, best = best_overlaps(boxes, truth.boxes, truth.present)
    label = torch.full_like(index, -1, dtype=torch.int8)
    label = label.masked_fill(iou < thresholds[0], 0).masked_fill(iou >= thresholds[-1], 1)
    return index, label.masked_fill(best, 1) if keep_best else label


def sample(label: Tensor, number: int, positive_fraction: float, keys: Tensor) -> tuple[Tensor, Tensor]:
    """A random choice of at most ``number * positive_fraction`` objects, filled up to ``number`` with background.

    Args:
        label: int8 [N, A], as :func:`match` gives it. keys: from ``draws.random_keys``, [N, A]; higher ones are taken.

    Returns:
        index int64 [N, S] with S = min(number, A), and kind int8 [N, S] of each: 1 object, 0 background, -1 nothing,
        where there are not enough. Objects come first.
    """
    most = min(int(number * positive_fraction), label.shape[1])
    best, places = keys.masked_fill(label != 1, -1).topk(most, dim=1)
    chosen = torch.zeros_like(label, dtype=torch.bool).scatter_(1, places, best >= 0)
    priority = torch.where(chosen, keys + KEYS, keys.masked_fill(label != 0, -1))
    value, index = priority.topk(min(number, label.shape[1]), dim=1)
    return index, (value >= KEYS).to(torch.int8) - (value < 0).to(torch.int8)


def rows_of(values: Tensor, index: Tensor) -> Tensor:
    """``values`` [N, A, ...] at ``index`` [N, S]: [N, S, ...]."""
    return torch.take_along_dim(values, index.view(*index.shape, *[1] * (values.dim() - 2)), dim=1)


def smooth_l1_sum(prediction: Tensor, target: Tensor, beta: float, counts: Tensor) -> Tensor:
    """Sum of ``0.5 d^2 / beta`` where ``|d| < beta``, else ``|d| - 0.5 beta``; plain ``|d|`` for beta 0.

    Args:
        prediction, target: [..., 4]. counts: bool [...], which of them count; the others may be anything, also NaN.
    """
    target = torch.where(counts[..., None], target, 0.0)
    prediction = torch.where(counts[..., None], prediction, 0.0)
    if beta == 0.0:
        return F.l1_loss(prediction, target, reduction="sum")
    return F.smooth_l1_loss(prediction, target, beta=beta, reduction="sum")
