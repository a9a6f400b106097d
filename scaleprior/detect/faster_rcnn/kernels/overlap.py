"""IoU as torchvision computes it on a CPU, for kernels that have to decide as it does.

A kernel that calls it is launched with ``enable_fp_fusion=False``: fused multiply-adds round otherwise.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["iou"]


@triton.jit
def iou(x1, y1, x2, y2, left, top, right, bottom):
    """Overlap of boxes (x1, y1, x2, y2) and (left, top, right, bottom), float32 tensors that broadcast."""
    width = tl.maximum(tl.minimum(x2, right) - tl.maximum(x1, left), 0.0)
    height = tl.maximum(tl.minimum(y2, bottom) - tl.maximum(y1, top), 0.0)
    inter = width * height
    # `/` would be the approximate division
    return tl.div_rn(inter, (x2 - x1) * (y2 - y1) + (right - left) * (bottom - top) - inter)
