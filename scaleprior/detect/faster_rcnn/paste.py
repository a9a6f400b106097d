"""Masks of detected boxes as masks of their image, in the run lengths (RLE) of COCO's results format.

D detections in an image of ``height`` x ``width`` pixels; a head gives S x S numbers for each box, which are stretched
over it bilinearly: pixels are the object's where they are in Detectron2 (``paste_masks_in_image``).
"""

from __future__ import annotations

from collections.abc import Iterator

import faster_coco_eval.core.mask as mask_api
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["paste_masks"]

_THRESHOLD = 0.5
_PIXELS = 2**24  # of all masks that a GPU stretches at once: 0.3 GB


@torch.no_grad()
def paste_masks(masks: Tensor, boxes: Tensor, height: int, width: int) -> list[str]:
    """The run lengths of each detection's pixels, compressed: ``counts`` of the results format, of this size.

    No mask of a whole image leaves the device, only where its runs begin.

    Args:
        masks: float [D, S, S], how likely each place of a box is the object's.
        boxes: float32 [D, 4] xyxy within the image, none without extent, on the same device.
    """
    runs: list[list[int]] = []
    for part, low, high in _windows(boxes, height, width):
        runs += _runs(_inside(masks[part].float(), boxes[part], low, high), low, height, width)
    if not runs:
        return []
    compressed = mask_api.frPyObjects([{"counts": counts, "size": [height, width]} for counts in runs], height, width)
    return [each["counts"].decode("ascii") for each in compressed]


def _windows(boxes: Tensor, height: int, width: int) -> Iterator[tuple[slice, tuple[int, int], tuple[int, int]]]:
    """Detections to stretch at once, and the corners (x, y) of what they are stretched over, which holds their boxes.

    A CPU takes one after the other, in its box with a pixel around it; a GPU many, over the whole image.
    """
    if boxes.device.type == "cpu":
        lows = (boxes[:, :2].floor() - 1).clamp(min=0).int().tolist()
        highs = torch.minimum(boxes[:, 2:].ceil() + 1, boxes.new_tensor([width, height])).int().tolist()
        for number, (low, high) in enumerate(zip(lows, highs)):
            yield slice(number, number + 1), (low[0], low[1]), (high[0], high[1])
        return
    size = max(1, _PIXELS // (height * width))
    for start in range(0, len(boxes), size):
        yield slice(start, start + size), (0, 0), (width, height)


def _inside(masks: Tensor, boxes: Tensor, low: tuple[int, int], high: tuple[int, int]) -> Tensor:
    """bool [n, h, w] over the window from ``low`` to ``high``, which has w x h pixels."""
    at = []
    for axis in (0, 1):
        start, end = boxes[:, axis, None], boxes[:, axis + 2, None]
        centres = torch.arange(low[axis], high[axis], dtype=torch.float32, device=boxes.device) + 0.5
        at.append((centres - start) / (end - start) * 2 - 1)
    x, y = at
    shape = (len(boxes), y.shape[1], x.shape[1])
    grid = torch.stack([x[:, None, :].expand(shape), y[:, :, None].expand(shape)], dim=3)
    return F.grid_sample(masks[:, None], grid, align_corners=False)[:, 0] >= _THRESHOLD


def _runs(inside: Tensor, low: tuple[int, int], height: int, width: int) -> list[list[int]]:
    """Lengths of the runs of 0 and 1 down the columns of each image, of which ``inside`` is a window at ``low``."""
    columns = F.pad(inside.transpose(1, 2).to(torch.uint8), (1, 1))  # [n, w, h + 2]: nothing above and below
    number, x, y = (each.cpu().numpy() for each in (columns[..., 1:] != columns[..., :-1]).nonzero(as_tuple=True))
    ends = (x + low[0]) * height + y + low[1]  # in the image, column by column; they ascend
    place = number * (height * width + 1) + ends
    # a run down to the last row goes on where the next column begins with one
    joined = np.flatnonzero(place[1:] == place[:-1])
    keep = np.ones(len(place), dtype=bool)
    keep[joined] = keep[joined + 1] = False
    keep &= ends < height * width
    number, ends = number[keep], ends[keep]
    cuts = np.searchsorted(number, np.arange(1, len(inside)))
    return [np.diff(part, prepend=0, append=height * width).tolist() for part in np.split(ends, cuts)]
