"""For every anchor of a batch the true box that it overlaps most, without the matrix of all overlaps in memory.

Shapes: N images, A anchors (or proposals), G true boxes of the image that has most, the rest padded. Boxes are float32
xyxy in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scaleprior.detect.faster_rcnn import kernels

__all__ = ["best_overlaps"]

# Overlaps that exist at once, in bytes. At 800 pixels a batch of 16 has 240,000 anchors and up to some 50 true boxes an
# image: all of them would be 800 MB, and several times that with what their computation leaves behind.
_PART = 64 * 2**20


@torch.no_grad()
def best_overlaps(anchors: Tensor, truth: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """IoU and index of the true box that each anchor overlaps most, and whether no anchor overlaps some box more.

    IoU is what ``torchvision.ops.box_iou`` computes on a CPU, bit by bit. Of equal overlaps the first true box counts.

    Args:
        anchors: [A, 4] of all images, or [N, A, 4].
        truth: [N, G, 4].
        present: bool [N, G], false where ``truth`` is padding.

    Returns:
        IoU float32 [N, A] (-1 in an image without objects), index int64 [N, A] (0 there), and bool [N, A]: overlaps
        some true box as much as any anchor of its image does, however little (so that each object has an anchor).
    """
    if kernels.usable(anchors):
        from scaleprior.detect.faster_rcnn.kernels.matching import best_of_all

        return best_of_all(anchors, truth, present)
    return _by_parts(anchors.expand(len(truth), -1, -1), truth, present)


def _by_parts(anchors: Tensor, truth: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The same for anchors [N, A, 4], some of them at a time."""
    count, objects = anchors.shape[1], truth.shape[1]
    iou = truth.new_full((len(truth), count), -1.0)
    index = torch.zeros_like(iou, dtype=torch.int64)
    is_best = torch.zeros_like(iou, dtype=torch.bool)
    if not count or not present.numel():
        return iou, index, is_best
    part = max(1, _PART // (truth.element_size() * len(truth) * objects))
    parts = [slice(start, start + part) for start in range(0, count, part)]
    highest = torch.full_like(present, -1.0, dtype=truth.dtype)
    overlaps = truth.new_empty(0)
    for rows in parts:
        overlaps = _overlaps(anchors[:, rows], truth, present)
        iou[:, rows], index[:, rows] = overlaps.max(dim=1)
        highest = torch.maximum(highest, overlaps.amax(dim=2))
    # an absent box overlaps all anchors equally, by -1, and has none
    highest.masked_fill_(~present, torch.inf)
    for rows in parts:
        if len(parts) > 1:
            overlaps = _overlaps(anchors[:, rows], truth, present)
        is_best[:, rows] = (overlaps == highest[:, :, None]).any(dim=1)
    return iou, index, is_best


def _overlaps(anchors: Tensor, truth: Tensor, present: Tensor) -> Tensor:
    """IoU [N, G, A], -1 for padding; coordinate by coordinate, which needs a third of ``box_iou``'s memory."""
    x1, y1, x2, y2 = anchors[:, None].unbind(dim=-1)
    true_x1, true_y1, true_x2, true_y2 = truth[:, :, None].unbind(dim=-1)
    inter = (torch.minimum(true_x2, x2) - torch.maximum(true_x1, x1)).clamp_(min=0)
    inter *= (torch.minimum(true_y2, y2) - torch.maximum(true_y1, y1)).clamp_(min=0)
    areas = (true_x2 - true_x1) * (true_y2 - true_y1) + (x2 - x1) * (y2 - y1)
    return (inter / areas.sub_(inter)).masked_fill_(~present[:, :, None], -1.0)
