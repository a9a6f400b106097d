"""ROIAlign, and the choice of a pyramid level for each box.

Shapes: R boxes, P side of the pooled square, S sample points per cell and side, a map is [N, C, H, W].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from scaleprior.detect.faster_rcnn import kernels

__all__ = ["RoiPooler", "pool_by_matmul"]

_CANONICAL_SIZE, _CANONICAL_LEVEL = 224, 4  # FPN paper, Eq. 1: a 224-pixel box is pooled from p4
# Maps up to this many cells are pooled by matrix products on a CPU. Their cost grows with H * W, that of torchvision's
# kernel with the samples; its backward pass is not vectorised, and for 32 boxes an image on a 32 x 32 map it took
# a quarter of a whole training step.
_MATMUL_CELLS = 64 * 64
_KERNEL_LEVELS = 5  # maps that the kernel takes
_MATMUL_CELLS_FORWARD = 24 * 24  # where no backward pass follows


class RoiPooler(nn.Module):
    """ROIAlign from the level that suits each box's size (FPN paper, Eq. 1).

    Args:
        resolution: P.
        strides: pixels per cell of each map, consecutive powers of two.
        sampling_ratio: S; 0 = as many as the box has map cells per pooled cell, rounded up.
        aligned: pixel centres at half integers (ROIAlignV2).
    """

    def __init__(self, resolution: int, strides: Sequence[int], *, sampling_ratio: int, aligned: bool) -> None:
        super().__init__()
        self.resolution = resolution
        self.strides: tuple[int, ...] = tuple(strides)
        self.sampling_ratio = sampling_ratio
        self.aligned = aligned

    def forward(self, maps: Sequence[Tensor], boxes: Tensor, images: Tensor, step: int = 1) -> Tensor:
        """Pool [R, C, P, P] from the maps, in their type; coordinates stay float32, also under autocast.

        With Triton on a GPU that is one kernel for all levels, and the result lies in memory with its channels last.
        Its backward pass adds up in no fixed order, so torchvision's operators take its place where torch is told to
        use deterministic algorithms.

        Args:
            boxes: float32 [R, 4], xyxy in pixels.
            images: int64 [R], which image of the maps each box is in.
            step: of the P x P cells only every so many-th, from the first on: [R, C, ceil(P / step), ...].
        """
        with torch.autocast(boxes.device.type, enabled=False):
            level = self.levels(boxes) if len(maps) > 1 else torch.zeros_like(images)
            if self._by_kernel(maps):
                from scaleprior.detect.faster_rcnn.kernels.roi_align import Pooling, pool

                pooling = Pooling(self.resolution, 1.0 / self.strides[0], self.sampling_ratio, self.aligned, step)
                return pool(maps, boxes, images, level, pooling)
            rois = torch.cat([images[:, None].to(boxes.dtype), boxes], dim=1)
            if len(maps) == 1:
                return self._align(maps[0], rois, self.strides[0], step)
            rows = [torch.nonzero(level == number).squeeze(1) for number in range(len(maps))]
            pooled = [self._align(*part, step) for part in zip(maps, (rois[r] for r in rows), self.strides)]
            # one gather puts the rows back in order
            order = torch.empty_like(level)
            order[torch.cat(rows)] = torch.arange(len(level), device=level.device)
            return torch.cat(pooled)[order]

    def levels(self, boxes: Tensor) -> Tensor:
        """Index into the maps for each of ``boxes`` [R, 4]: floor(4 + log2(sqrt(area) / 224)), cut to what there is."""
        size = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1).sqrt()
        level = torch.floor(_CANONICAL_LEVEL + torch.log2(size / _CANONICAL_SIZE + 1e-8)).to(torch.int64)
        lowest = int(math.log2(self.strides[0]))
        return level.clamp(lowest, lowest + len(self.strides) - 1) - lowest

    def _by_kernel(self, maps: Sequence[Tensor]) -> bool:
        return (
            len(maps) <= _KERNEL_LEVELS
            and maps[0].dtype in (torch.float32, torch.float16, torch.bfloat16)
            and not torch.are_deterministic_algorithms_enabled()
            and kernels.usable(maps[0])
        )

    def skips(self, maps: Sequence[Tensor]) -> bool:
        """Whether cells that a step leaves out cost nothing."""
        return self._by_kernel(maps) or all(map(self._by_matmul, maps))

    def _by_matmul(self, feature: Tensor) -> bool:
        cells = feature.shape[2] * feature.shape[3]
        most = _MATMUL_CELLS if torch.is_grad_enabled() else _MATMUL_CELLS_FORWARD
        return feature.device.type == "cpu" and cells <= most

    def _align(self, feature: Tensor, rois: Tensor, stride: int, step: int) -> Tensor:
        # 16 bits have no room for pixels: at 800 pixels a coordinate would be off by up to half of one
        wide = feature.float() if feature.dtype in (torch.float16, torch.bfloat16) else feature
        rois = rois.to(wide.dtype)
        args = wide, rois, self.resolution, 1.0 / stride, self.sampling_ratio, self.aligned
        # The products want the boxes of an image together.
        if self._by_matmul(feature) and bool((rois[1:, 0] >= rois[:-1, 0]).all()):
            return pool_by_matmul(*args, step).to(feature.dtype)
        return roi_align(*args)[:, :, ::step, ::step].to(feature.dtype)


def pool_by_matmul(
    feature: Tensor,
    rois: Tensor,
    resolution: int,
    scale: float,
    sampling_ratio: int,
    aligned: bool,
    step: int = 1,
) -> Tensor:
    """What ``torchvision.ops.roi_align`` computes, as ``Wy @ feature @ Wx^T`` per box.

    Bilinear sampling is separable, and so is the mean over a cell's samples; a row of Wy [P, H] holds the mean of the
    hat functions around the sample points of one cell, which sit at most one map cell outside the map.

    Args:
        rois: [R, 5], the image's index and xyxy in pixels; rows of an image follow one another.
        sampling_ratio: S, or 0.
        step: see ``RoiPooler.forward``.
    """
    height, width = feature.shape[2:]
    box = rois[:, 1:] * scale - (0.5 if aligned else 0.0)
    weights_x = _weights(box[:, 0], box[:, 2], width, resolution, sampling_ratio, aligned)[:, ::step].to(feature.dtype)
    weights_y = _weights(box[:, 1], box[:, 3], height, resolution, sampling_ratio, aligned)[:, ::step].to(feature.dtype)
    pooled, side = [], -(-resolution // step)
    counts = torch.bincount(rois[:, 0].to(torch.int64), minlength=len(feature)).tolist()
    for image, wy, wx in zip(feature.permute(0, 2, 3, 1), weights_y.split(counts), weights_x.split(counts)):
        if len(wy):
            # [R * P, H] @ [H, W * C] -> [R, P, W, C]; then over W: [R, 1, P, W] @ [R, P, W, C] -> [R, P, P, C]
            rows = (wy.flatten(0, 1) @ image.reshape(height, -1)).view(len(wy), side, width, -1)
            pooled.append(wx[:, None] @ rows)
    if not pooled:
        return feature.new_zeros(0, feature.shape[1], side, side) + feature.sum() * 0
    return torch.cat(pooled).permute(0, 3, 1, 2)


def _weights(low: Tensor, high: Tensor, cells: int, resolution: int, sampling_ratio: int, aligned: bool) -> Tensor:
    """[R, P, cells]: how much each map cell along one axis contributes to each pooled cell of each box."""
    size = high - low
    if not aligned:
        size = size.clamp(min=1.0)  # the older ROIAlign pools at least one map cell
    # Sample points of a pooled cell, the same number for all boxes, or as many as the box has map cells in one.
    own = torch.full_like(size, sampling_ratio) if sampling_ratio else torch.ceil(size / resolution).clamp(min=0)
    most = sampling_ratio or max(int(own.max()) if len(own) else 0, 1)
    point = torch.arange(most, device=low.device, dtype=low.dtype)
    place = (point + 0.5) / own.clamp(min=1)[:, None]
    cell = torch.arange(resolution, device=low.device, dtype=low.dtype)
    samples = low[:, None, None] + (cell[:, None] + place[:, None]) * (size / resolution)[:, None, None]  # [R, P, S]
    inside = (samples >= -1) & (samples <= cells) & (point < own[:, None])[:, None]
    samples = samples.clamp(0, cells - 1)
    hat = 1 - (samples[..., None] - torch.arange(cells, device=low.device)).abs()
    return (hat.clamp(min=0) * inside[..., None]).sum(dim=2) / own.clamp(min=1)[:, None, None]
