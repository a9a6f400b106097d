"""Anchors as Detectron2's ``DefaultAnchorGenerator`` makes them: unrounded, centred at (cell + offset) * stride."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scaleprior.errors import UserError

__all__ = ["AnchorGrid", "cell_anchors"]


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """xyxy anchors [len(sizes) * len(ratios), 4] around the origin, sizes outermost.

    Args:
        sizes: square roots of the areas, in pixels.
        ratios: heights over widths.
    """
    size = torch.tensor(sizes, dtype=torch.float64)[:, None]
    ratio = torch.tensor(ratios, dtype=torch.float64)[None, :]
    width = torch.sqrt(size * size / ratio)
    height = ratio * width
    return (torch.stack([-width, -height, width, height], dim=-1) / 2).reshape(-1, 4).float()


class AnchorGrid(nn.Module):
    """All anchors of an image, level by level; one image size is computed once and kept.

    Args:
        sizes, ratios: one list for all levels (alone or as a list of one list) or one list per level.
        strides: pixels of the image per cell, one per level.
        offset: place of an anchor's centre in its cell, in strides, in [0, 1).
    """

    def __init__(
        self, sizes: Sequence[Any], ratios: Sequence[Any], strides: Sequence[int], *, offset: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= offset < 1:
            raise UserError(f"MODEL.ANCHOR_GENERATOR.OFFSET is {offset}", hint="give a value in [0, 1)")
        self.strides: tuple[int, ...] = tuple(strides)
        self.offset = offset
        per_level = zip(_spread(sizes, len(strides), "SIZES"), _spread(ratios, len(strides), "ASPECT_RATIOS"))
        for number, (level_sizes, level_ratios) in enumerate(per_level):
            self.register_buffer(f"cell{number}", cell_anchors(level_sizes, level_ratios), persistent=False)
        self._kept: tuple[tuple, list[Tensor]] | None = None

    @property
    def per_cell(self) -> list[int]:
        """Number of anchors per cell, one per level."""
        return [len(cell) for cell in self.buffers()]

    def forward(self, features: Sequence[Tensor]) -> list[Tensor]:
        """Anchors [H * W * per_cell, 4] for each feature map [N, C, H, W], rows first, then cells, then shapes."""
        levels = zip(self.buffers(), self.strides, features)
        if features[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return [self._level(*level) for level in levels]  # what the recording reads must stay, so it makes its own
        # tensors of inference mode are of no use to a step that learns
        key = (features[0].device, torch.is_inference_mode_enabled(), *(f.shape[-2:] for f in features))
        if self._kept is None or self._kept[0] != key:
            self._kept = (key, [self._level(*level) for level in levels])
        return self._kept[1]

    def _level(self, cell: Tensor, stride: int, feature: Tensor) -> Tensor:
        height, width = feature.shape[-2:]
        y = (torch.arange(height, device=feature.device) + self.offset) * stride
        x = (torch.arange(width, device=feature.device) + self.offset) * stride
        y, x = torch.meshgrid(y, x, indexing="ij")
        centre = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4).float()
        return (centre + cell).reshape(-1, 4)


def _spread(values: Sequence, levels: int, name: str) -> list[Sequence[float]]:
    """One list of numbers per level."""
    if values and not isinstance(values[0], (list, tuple)):
        values = [values]
    if len(values) == 1:
        values = list(values) * levels
    if len(values) != levels or not all(values):
        raise UserError(
            f"MODEL.ANCHOR_GENERATOR.{name} has {len(values)} lists for {levels} feature maps",
            hint="give one list, or one for each of MODEL.RPN.IN_FEATURES",
        )
    return list(values)
