"""Non-maximum suppression: of boxes that overlap, the best.

Shapes: B rows that have nothing to do with each other (images, or levels of images), K boxes of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torchvision.ops import batched_nms, nms

from scaleprior.detect.faster_rcnn import kernels

__all__ = ["MOST_OF_KERNEL", "keep_best"]

MOST_OF_KERNEL = 2**16  # boxes of a row; it holds a bit for each of them in registers


@torch.no_grad()
def keep_best(
    boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None, *, limit: int | None = None
) -> Tensor:
    """Which boxes of each row stay, bool [B, K]: best first, each suppresses the lesser ones whose IoU with it is above
    ``threshold``. Of equal scores the first counts as the better.

    Decides as ``torchvision.ops.nms`` does on a CPU. With Triton on a GPU it does so for all rows at once, and nothing
    waits for the device.

    Args:
        boxes: float32 [B, K, 4], xyxy.
        scores: [B, K]. A box whose score is -inf or NaN, or that is not finite itself, is not there: it neither stays
            nor suppresses.
        groups: int64 [B, K], not negative; only boxes of one group suppress each other.
        limit: keep no more than so many of a row, the best.
    """
    there = torch.isfinite(boxes).all(dim=2) & (scores > -torch.inf)
    if boxes.shape[1] <= MOST_OF_KERNEL and kernels.usable(boxes):
        from scaleprior.detect.faster_rcnn.kernels.nms import suppress

        return suppress(boxes, scores, there, threshold, groups, limit)
    keep = torch.zeros_like(there)
    for row, real in enumerate(there):
        index = torch.nonzero(real).squeeze(1)
        box, score = boxes[row, index], scores[row, index].to(boxes.dtype)
        if groups is None:
            chosen = nms(box, score, threshold)
        else:
            chosen = batched_nms(box, score, groups[row, index], threshold)
        keep[row, index[chosen[:limit]]] = True
    return keep
