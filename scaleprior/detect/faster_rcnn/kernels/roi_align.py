"""ROIAlign from all levels of a pyramid in one launch, in the maps' own type, forward and backward.

Shapes: N images, C channels, R boxes, P side of the pooled square, L levels. Maps and pooled squares lie in memory as
[N, H, W, C] and [R, P, P, C].

A pooled cell is the mean of samples, each a bilinear blend of four map cells. Both are separable, so a map cell's part
in it is the product of a weight along y and one along x; a cell that several samples touch is read, or added to, once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["Pooling", "pool"]

_LEVELS = 5  # that the kernel takes
_TILE = 2048  # elements of a program: a row of pooled cells by some channels


@dataclass(frozen=True)
class Pooling:
    """What a pooler does with each box: see ``parts.roi_pool.RoiPooler``."""

    resolution: int
    scale: float
    """Cells of the first map per pixel; every next map has half of it."""
    sampling_ratio: int
    aligned: bool
    step: int = 1
    """Of the cells of a square only every so many-th is pooled."""

    @property
    def side(self) -> int:
        """Cells along a side that are pooled."""
        return -(-self.resolution // self.step)


def pool(maps: Sequence[Tensor], boxes: Tensor, images: Tensor, levels: Tensor, pooling: Pooling) -> Tensor:
    """Pooled squares [R, C, side, side] in the type of the maps [N, C, H, W], channels last in memory.

    Autocast changes nothing here: coordinates and sums are float32. A box that is not finite pools zeros.

    Args:
        boxes: float32 [R, 4], xyxy in pixels.
        images: int64 [R], in 0..N-1.
        levels: int64 [R], in 0..L-1.
    """
    assert len(maps) <= _LEVELS
    return _Pool.apply(boxes.contiguous(), images.contiguous(), levels.contiguous(), pooling, *maps)


class _Pool(torch.autograd.Function):
    """Keeps for the backward pass where the boxes are, and of the maps no more than their shapes."""

    @staticmethod
    def forward(ctx: Any, boxes: Tensor, images: Tensor, levels: Tensor, pooling: Pooling, *maps: Tensor) -> Tensor:
        ctx.save_for_backward(boxes, images, levels)
        ctx.pooling = pooling
        ctx.shapes = [m.shape for m in maps]
        size = (len(boxes), maps[0].shape[1], pooling.side, pooling.side)
        # empty() is asked in the order of memory, so that it is dense in that order also where a side is 1
        pooled = maps[0].new_empty((size[0], size[2], size[3], size[1]))
        last = [m.permute(0, 2, 3, 1).contiguous() for m in maps]  # no copy of maps that are channels_last
        _launch(pooled, last, boxes, images, levels, pooling, forward=True)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]  # the decorator
        (gradient,) = grad_outputs
        boxes, images, levels = ctx.saved_tensors
        # Many boxes add to one cell, in no order, too many and too little at a time for a 16-bit type.
        sums = [gradient.new_zeros((n, h, w, c), dtype=torch.float32) for n, c, h, w in ctx.shapes]
        _launch(gradient.permute(0, 2, 3, 1).contiguous(), sums, boxes, images, levels, ctx.pooling, forward=False)
        cast = []
        while sums:  # one by one, so that no two copies of all levels exist
            cast.append(sums.pop(0).to(gradient.dtype).permute(0, 3, 1, 2))
        return None, None, None, None, *cast


def _launch(
    pooled: Tensor,
    maps: Sequence[Tensor],
    boxes: Tensor,
    images: Tensor,
    levels: Tensor,
    pooling: Pooling,
    *,
    forward: bool,
) -> None:
    """Fill ``pooled`` from ``maps``, or add its part in ``maps`` to them; all with channels last."""
    if not pooled.numel():
        return
    side, channels = pooled.shape[2:]
    row = triton.next_power_of_2(side)
    block = max(min(triton.next_power_of_2(channels), _TILE // row), 16)
    padded = [*maps, *[maps[0]] * (_LEVELS - len(maps))]
    sizes = [size for m in padded for size in m.shape[1:3]]
    with torch.cuda.device_of(pooled):
        _pool[(len(pooled) * side, triton.cdiv(channels, block))](
            *(pooled, boxes, images, levels, *padded, *sizes, channels, pooling.scale),
            FORWARD=forward,
            LEVELS=len(maps),
            SIDE=pooling.resolution,
            STEP=pooling.step,
            OUT=side,
            ROW=row,
            BLOCK=block,
            SAMPLES=max(pooling.sampling_ratio, 0),
            ALIGNED=pooling.aligned,
            num_warps=4,
        )


# Sizes of maps differ from batch to batch; Triton would compile anew by whether 16 divides each of them.
_SIZES = [f"{side}{level}" for level in range(_LEVELS) for side in ("height", "width")]


@triton.jit(do_not_specialize=_SIZES)
def _pool(
    pooled,  # [R, OUT, OUT, C]: the answer, or the gradient by it
    boxes,  # float32 [R, 4]
    images,  # int64 [R]
    levels,  # int64 [R]
    map0,  # [N, H, W, C]; or float32, the gradient by it
    map1,
    map2,
    map3,
    map4,
    height0,
    width0,
    height1,
    width1,
    height2,
    width2,
    height3,
    width3,
    height4,
    width4,
    channels,
    scale,
    FORWARD: tl.constexpr,
    LEVELS: tl.constexpr,
    SIDE: tl.constexpr,
    STEP: tl.constexpr,
    OUT: tl.constexpr,
    ROW: tl.constexpr,
    BLOCK: tl.constexpr,
    SAMPLES: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """One row of pooled cells of one box, some of its channels."""
    box = tl.program_id(0) // OUT
    level = tl.load(levels + box)
    cells, height, width = map0, height0, width0
    if LEVELS > 1:
        cells, height, width, scale = _other(level, 1, map1, height1, width1, scale, cells, height, width)
    if LEVELS > 2:
        cells, height, width, scale = _other(level, 2, map2, height2, width2, scale, cells, height, width)
    if LEVELS > 3:
        cells, height, width, scale = _other(level, 3, map3, height3, width3, scale, cells, height, width)
    if LEVELS > 4:
        cells, height, width, scale = _other(level, 4, map4, height4, width4, scale, cells, height, width)
    x1, x2 = tl.load(boxes + box * 4), tl.load(boxes + box * 4 + 2)
    y1, y2 = tl.load(boxes + box * 4 + 1), tl.load(boxes + box * 4 + 3)
    row, column = tl.program_id(0) % OUT, tl.arange(0, ROW)
    first_y, step_y, number_y = _samples(row * STEP, y1 * scale, y2 * scale, SIDE, SAMPLES, ALIGNED)
    first_x, step_x, number_x = _samples(column * STEP, x1 * scale, x2 * scale, SIDE, SAMPLES, ALIGNED)
    top, bottom = _reach(first_y, step_y, number_y, height)
    left, right = _reach(first_x, step_x, number_x, width)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    line = width.to(tl.int64) * channels
    cells += tl.load(images + box) * height * line
    place = pooled + ((tl.program_id(0).to(tl.int64) * OUT + column) * channels)[:, None] + channel[None, :]
    real = (column < OUT)[:, None] & (channel < channels)[None, :]
    count = tl.maximum(number_y * number_x, 1).to(tl.float32)
    if FORWARD:
        tile = tl.zeros([ROW, BLOCK], dtype=tl.float32)
    else:
        tile = tl.load(place, mask=real, other=0.0).to(tl.float32) / count
    for shift in range(tl.where(number_y * number_x > 0, tl.max(right - left, axis=0) + 1, 0)):
        x = left + shift
        weight_x = tl.where(x <= right, _weight(x * 1.0, first_x, step_x, number_x, width), 0.0)
        spot = cells + (x * channels)[:, None] + channel[None, :]
        for y in range(top, bottom + 1):
            weight = weight_x * _weight(y * 1.0, first_y, step_y, number_y, height)
            touched = real & (weight != 0.0)[:, None]
            if FORWARD:
                tile += weight[:, None] * tl.load(spot + y * line, mask=touched, other=0.0).to(tl.float32)
            else:
                tl.atomic_add(spot + y * line, weight[:, None] * tile, mask=touched, sem="relaxed")
    if FORWARD:
        tl.store(place, (tile / count).to(pooled.dtype.element_ty), mask=real)


@triton.jit
def _other(level, LEVEL: tl.constexpr, other, other_height, other_width, scale, cells, height, width):
    """The map of LEVEL if ``level`` says so, else what was chosen before; the scale of this level halved as often."""
    here = level == LEVEL
    cells = tl.where(here, other, cells)
    height, width = tl.where(here, other_height, height), tl.where(here, other_width, width)
    return cells, height, width, tl.where(level >= LEVEL, scale * 0.5, scale)


@triton.jit
def _samples(cell, low, high, SIDE: tl.constexpr, SAMPLES: tl.constexpr, ALIGNED: tl.constexpr):
    """First sample of pooled ``cell``, distance to the next, and number; along one axis, in cells of the map."""
    if ALIGNED:
        low -= 0.5
        high -= 0.5
    size = high - low
    if not ALIGNED:
        size = tl.maximum(size, 1.0)  # the older ROIAlign pools at least one map cell
    side = tl.div_rn(size, SIDE * 1.0)  # exact, as a size that just fills its samples must not get one more
    number = tl.ceil(side) * 1.0
    if SAMPLES > 0:
        number = side * 0.0 + SAMPLES
    finite = (tl.abs(low) < 1e6) & (tl.abs(size) < 1e6)
    number = tl.where(finite & (number > 0.0), number, 0.0)
    step = side / tl.maximum(number, 1.0)
    return low + cell * side + 0.5 * step, step, number.to(tl.int32)


@triton.jit
def _reach(first, step, number, cells):
    """First and last map cell that the samples may touch."""
    last = first + (number - 1) * step
    low, high = tl.floor(tl.minimum(first, last)), tl.floor(tl.maximum(first, last)) + 1.0
    edge = cells - 1.0
    low, high = tl.minimum(tl.maximum(low, 0.0), edge), tl.minimum(tl.maximum(high, 0.0), edge)
    return low.to(tl.int32), high.to(tl.int32)


@triton.jit
def _weight(cell, first, step, number, cells):
    """Sum over the samples of what ``cell`` counts in each: 1 at its centre, 0 from a cell away on.

    A sample up to one cell outside the map counts as at its edge, one farther off not at all.
    """
    total = first * 0.0
    for i in range(number):
        place = first + i * step
        inside = (place >= -1.0) & (place <= cells * 1.0)
        place = tl.minimum(tl.maximum(place, 0.0), cells - 1.0)
        total += tl.where(inside, tl.maximum(1.0 - tl.abs(place - cell), 0.0), 0.0)
    return total
