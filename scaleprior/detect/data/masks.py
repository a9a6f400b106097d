"""What a mask head learns: the part of an object's mask in a box, to the bit as Detectron2 cuts it out.

M boxes, float32 xyxy in pixels of the resized image; a target has ``side`` x ``side`` pixels.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import roi_align

from scaleprior.detect.data.rasterise import LARGEST, rasterise
from scaleprior.detect.data.segmentation import Bitmap, Polygons, Segmentation, cut, draw

__all__ = ["mask_targets"]

_THINNEST = 0.1  # pixels of a box whose content is enlarged; thinner ones are taken for as thick


def mask_targets(masks: Sequence[Segmentation], boxes: Tensor, side: int) -> Tensor:
    """What a mask head should find in each box: bool [M, side, side] on the CPU.

    Polygons are drawn in the box enlarged to the target (Detectron2's ``rasterize_polygons_within_box``); of bitmaps a
    pixel of the target is the object's where half of what it averages is (its ``BitMasks.crop_and_resize``).

    Args:
        masks: M of them, of one object as often as it has boxes.
        boxes: float32 [M, 4] on the CPU, in pixels of the masks' image.
    """
    assert len(masks) == len(boxes), (len(masks), len(boxes))
    outlines = [mask for mask in masks if isinstance(mask, Polygons)]
    if outlines and len(outlines) == len(masks):
        return torch.from_numpy(_drawn_in(outlines, boxes.numpy(), side)).view(torch.bool)
    targets = torch.zeros(len(boxes), side, side, dtype=torch.bool)
    if outlines:
        rows = [row for row, mask in enumerate(masks) if isinstance(mask, Polygons)]
        targets[rows] = torch.from_numpy(_drawn_in(outlines, boxes[rows].numpy(), side)).view(torch.bool)
    bitmaps: dict[int, tuple[Bitmap, list[int]]] = {}
    for row, mask in enumerate(masks):
        if isinstance(mask, Bitmap):  # unpacked once, however many boxes it has
            bitmaps.setdefault(id(mask), (mask, []))[1].append(row)
    for mask, rows in bitmaps.values():
        targets[rows] = _averaged(mask.array(), boxes[rows], side)
    return targets


def _drawn_in(outlines: Sequence[Polygons], boxes: np.ndarray, side: int) -> np.ndarray:
    """uint8 [M, side, side] of each one's polygons in its box; all numbers of all boxes at once."""
    extent = boxes[:, 2:] - boxes[:, :2]
    thin = extent < np.float32(_THINNEST)
    # the scale of a box is float32, as the box is, and all else float64: to the bit as NumPy 2 has it there
    scale = np.where(thin, side / _THINNEST, (np.float32(side) / np.where(thin, 1, extent)).astype(np.float64))
    counts = [len(each.points) for each in outlines]
    points = np.concatenate([each.points for each in outlines])
    points = (points - np.repeat(boxes[:, :2], counts, axis=0)) * np.repeat(scale, counts, axis=0)
    of_polygons = [count for each in outlines for count in each.counts]
    of_objects = [len(each.counts) for each in outlines]
    if side > LARGEST:
        return np.ascontiguousarray(draw(cut(points, of_polygons), of_objects, side, side))
    return rasterise(points, of_polygons, of_objects, side)


def _averaged(bitmap: np.ndarray, boxes: Tensor, side: int) -> Tensor:
    """bool [M, side, side] of one bitmap in each of ``boxes``."""
    # rows and columns behind all boxes are no sample's; those before them have to stay, or the sums would round anew
    width, height = (boxes.max(dim=0).values[2:].clamp(min=0).ceil().int() + 2).tolist()
    image = torch.from_numpy(bitmap[:height, :width].astype(np.float32))[None, None]
    rois = torch.cat([boxes.new_zeros(len(boxes), 1), boxes], dim=1)
    return roi_align(image, rois, side, sampling_ratio=0, aligned=True)[:, 0] >= 0.5
