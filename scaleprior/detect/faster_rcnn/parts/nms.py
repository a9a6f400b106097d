"""Which boxes remain where better ones overlap them: greedy suppression, one row of boxes by itself."""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

__all__ = ["keep_best"]


def keep_best(boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None) -> Tensor:
    """Bool [B, K]: boxes that overlap no better one of their row that remains, by an IoU above ``threshold``.

    Args:
        boxes: float32 [B, K, 4]. scores: [B, K], falling; -inf = there is no box.
        groups: int64 [B, K]: only boxes of one group suppress each other; by default all of a row.
    """
    kept = torch.zeros_like(scores, dtype=torch.bool)
    for row in range(len(boxes)):
        there = torch.nonzero(torch.isfinite(scores[row])).squeeze(1)
        own, score = boxes[row][there], scores[row][there]
        keep = nms(own, score, threshold) if groups is None else batched_nms(own, score, groups[row][there], threshold)
        kept[row, there[keep]] = True
    return kept
