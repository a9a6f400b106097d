"""Parts of decoded images, resized on their own device as OpenCV resizes them on the CPU.

n images, S pixels a side of a crop. Resizing is linear in the pixels and works on rows and columns apart, so that a
crop is ``rows @ image @ columns.T``, where the two matrices [S, pixels] hold OpenCV's weights: INTER_AREA where pixels
are lost, INTER_LINEAR where they are made up, and what its INTER_AREA becomes where one axis loses some and the other
does not. Two products then resize any number of images of any sizes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Part", "resampled"]

_TOGETHER = 2**24  # pixels of images side by side: as float32 with three channels, 200 MB


class Part(NamedTuple):
    """What a crop shows: of an image's rectangle, resized to ``side`` x ``side``, the S x S from ``row``, ``column``.

    Attributes:
        top, left, height, width: of the rectangle.
        side: pixels it is resized to.
        row, column: where the crop begins in that.
        mirrored: left and right change places.
    """

    top: int
    left: int
    height: int
    width: int
    side: int
    row: int = 0
    column: int = 0
    mirrored: bool = False


@torch.no_grad()
def resampled(images: Sequence[Tensor], parts: Sequence[Part], size: int) -> Tensor:
    """Crops uint8 [n, S, S, 3] of ``images``, uint8 [3, H, W] each, on their device.

    Args:
        parts: one an image, inside it.
        size: S.
    """
    crops = images[0].new_empty(len(images), size, size, 3)
    for some in _groups(parts):
        crops[some] = _group([images[i] for i in some], [parts[i] for i in some], size)
    return crops


def _groups(parts: Sequence[Part]) -> Iterator[list[int]]:
    """Places of parts that are laid side by side, each padded to the largest: of like sizes, and of few pixels."""
    group, height, width = list[int](), 0, 0
    for place in sorted(range(len(parts)), key=lambda i: (parts[i].height, parts[i].width)):
        part = parts[place]
        higher, wider = max(height, part.height), max(width, part.width)
        if group and (len(group) + 1) * higher * wider > _TOGETHER:
            yield group
            group, higher, wider = [], part.height, part.width
        group.append(place)
        height, width = higher, wider
    if group:
        yield group


def _group(images: Sequence[Tensor], parts: Sequence[Part], size: int) -> Tensor:
    device = images[0].device
    height, width = max(part.height for part in parts), max(part.width for part in parts)
    pixels = torch.zeros(len(parts), 3, height, width, dtype=torch.uint8, device=device)
    for slot, image, part in zip(pixels, images, parts):
        top, left = part.top, part.left
        slot[:, : part.height, : part.width] = image[:, top : top + part.height, left : left + part.width]
    numbers = torch.tensor([part[2:] for part in parts], dtype=torch.float64).to(device)
    lengths_h, lengths_w, sides, starts_h, starts_w, mirrored = numbers.T
    fits = (lengths_h <= sides) & (lengths_w <= sides)
    area = (lengths_h >= sides) & (lengths_w >= sides) & ~fits
    rows = _weights(lengths_h, sides, starts_h, fits, area, size, height)
    columns = _weights(lengths_w, sides, starts_w, fits, area, size, width)
    columns = torch.where(mirrored.bool()[:, None, None], columns.flip(1), columns)
    crops = rows[:, None] @ pixels.float() @ columns[:, None].mT
    return crops.round_().clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


def _weights(
    lengths: Tensor, sides: Tensor, starts: Tensor, fits: Tensor, area: Tensor, size: int, pixels: int
) -> Tensor:
    """What each pixel of an axis adds to each pixel of the crop: float32 [n, S, pixels].

    Args:
        lengths, sides, starts: float64 [n], pixels of the axis, what they are resized to, and the crop's first of it.
        fits: bool [n], nothing is lost on either axis. area: something is lost, and nothing made up.
    """
    lengths, sides, fits = lengths[:, None], sides[:, None], fits[:, None]
    grows = sides / lengths
    scale = 1 / grows  # as OpenCV computes it: the last bit decides where a place that begins with a pixel begins
    places = starts[:, None] + torch.arange(size, dtype=torch.float64, device=lengths.device)  # [n, S]
    # where one axis loses pixels and the other does not, OpenCV leans on the pixel in which a place begins
    begun = (places * scale).floor()
    lean = (places + 1 - (begun + 1) * grows).float().double().clamp(min=0)
    centres = torch.where(fits, (places + 0.5) * scale - 0.5, begun + lean - lean.floor())
    centres = torch.minimum(centres.clamp(min=0), lengths - 1)
    low, high = places * scale, torch.minimum((places + 1) * scale, lengths)
    x = torch.arange(pixels, dtype=torch.float32, device=lengths.device)
    hat = (1 - (x - centres[..., None].float()).abs()).clamp(min=0)
    low, high = low[..., None].float(), high[..., None].float()
    overlap = (torch.minimum(x + 1, high) - torch.maximum(x, low)).clamp(min=0) / (high - low)
    return torch.where(area[:, None, None], overlap, hat)
