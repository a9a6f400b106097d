"""The true box that each anchor overlaps most, for all images at once and without a matrix of overlaps.

Shapes: N images, A anchors, G true boxes. Two kernels, as it takes all anchors to know which overlap a true box most.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from scaleprior.detect.faster_rcnn.kernels.overlap import iou

__all__ = ["best_of_all"]

_BLOCK = 1024  # anchors of a program


def best_of_all(anchors: Tensor, truth: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """What ``parts.matching.best_overlaps`` returns: IoU, index and whether it is the best, each [N, A].

    Args:
        anchors: float32 [A, 4] or [N, A, 4].
    """
    images, objects = present.shape
    count = anchors.shape[-2]
    best = truth.new_empty((images, count))
    index = torch.empty_like(best, dtype=torch.int64)
    is_best = torch.empty_like(best, dtype=torch.bool)
    if not best.numel():
        return best, index, is_best
    # bits of a float32, which are ordered as integers from 0.0 on; every true box is overlapped by 0.0 at least
    highest = torch.zeros((images, objects), dtype=torch.int32, device=truth.device)
    given = anchors.contiguous(), truth.contiguous(), present.contiguous()
    numbers = count, objects, 0 if anchors.dim() == 2 else 4 * count
    grid = triton.cdiv(count, _BLOCK), images
    with torch.cuda.device_of(truth):
        _highest[grid](*given, highest, best, index, *numbers, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=False)
        _who[grid](*given, highest, is_best, *numbers, BLOCK=_BLOCK, num_warps=4, enable_fp_fusion=False)
    return best, index, is_best


# differ from batch to batch, and are not to be compiled for
_RUNTIME = ["count", "objects", "stride"]


@triton.jit(do_not_specialize=_RUNTIME)
def _highest(
    anchors,  # float32 [A, 4] or [N, A, 4]
    truth,  # float32 [N, G, 4]
    present,  # bool [N, G]
    highest,  # int32 [N, G]: bits of the highest IoU with any anchor
    best,  # float32 [N, A]
    index,  # int64 [N, A]
    count,
    objects,
    stride,  # from the anchors of an image to those of the next
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = place < count
    x1, y1, x2, y2 = _box(anchors + image * stride + place * 4, real)
    value = tl.full([BLOCK], -1.0, dtype=tl.float32)
    which = tl.zeros([BLOCK], dtype=tl.int64)
    for number in range(objects):
        row = image * objects + number
        if tl.load(present + row) != 0:
            left, top, right, bottom = _box(truth + row * 4, number < objects)
            overlap = tl.where(real, iou(left, top, right, bottom, x1, y1, x2, y2), 0.0)
            which = tl.where(overlap > value, number, which)
            value = tl.maximum(overlap, value)
            most = tl.max(overlap, axis=0)
            if most > 0.0:
                tl.atomic_max(highest + row, most.to(tl.int32, bitcast=True), sem="relaxed")
    tl.store(best + image * count + place, value, mask=real)
    tl.store(index + image * count + place, which, mask=real)


@triton.jit(do_not_specialize=_RUNTIME)
def _who(
    anchors,  # as above
    truth,
    present,
    highest,
    is_best,  # bool [N, A]
    count,
    objects,
    stride,
    BLOCK: tl.constexpr,
):
    image = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = place < count
    x1, y1, x2, y2 = _box(anchors + image * stride + place * 4, real)
    found = tl.zeros([BLOCK], dtype=tl.int32)
    for number in range(objects):
        row = image * objects + number
        if tl.load(present + row) != 0:
            left, top, right, bottom = _box(truth + row * 4, number < objects)
            overlap = iou(left, top, right, bottom, x1, y1, x2, y2)
            most = tl.load(highest + row).to(tl.float32, bitcast=True)
            found = found | (overlap == most).to(tl.int32)
    tl.store(is_best + image * count + place, found != 0, mask=real)


@triton.jit
def _box(corner, real):
    """The four coordinates from ``corner`` on."""
    x1, y1 = tl.load(corner, mask=real, other=0.0), tl.load(corner + 1, mask=real, other=0.0)
    return x1, y1, tl.load(corner + 2, mask=real, other=0.0), tl.load(corner + 3, mask=real, other=0.0)
