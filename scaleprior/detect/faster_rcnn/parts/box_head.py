"""The FPN head, fully connected on what is pooled from the pyramid, and the predictor that C4 and FPN have.

Shapes: R regions of all images, C classes, P side of the pooled square. Class C is background.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.parts.res5_head import Pool

__all__ = ["BoxHead", "Predictor"]


class BoxHead(nn.Module):
    """Detectron2's ``FastRCNNConvFCHead``: 3x3 convolutions, then fully connected layers, each with ReLU.

    Args:
        channels: of the pooled maps.
        resolution: P.
        conv_dims, fc_dims: widths of the layers.
        norm: makes a norm layer from its width; None = none (the convolutions then have a bias).
    """

    def __init__(
        self,
        channels: int,
        resolution: int,
        conv_dims: Sequence[int],
        fc_dims: Sequence[int],
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self._layers: list[nn.Module] = []
        for number, width in enumerate(conv_dims, start=1):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm is None)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            if conv.bias is not None:
                nn.init.zeros_(conv.bias)
            layer = conv if norm is None else nn.Sequential(conv, norm(width))
            self.add_module(f"conv{number}", layer)
            self._layers.append(layer)
            channels = width
        size = channels * resolution * resolution
        for number, width in enumerate(fc_dims, start=1):
            layer = nn.Linear(size, width)
            nn.init.kaiming_uniform_(layer.weight, a=1)
            nn.init.zeros_(layer.bias)
            self.add_module(f"fc{number}", layer)
            self._layers.append(layer)
            size = width
        self.out_channels = size

    def maps(self, features: Sequence[Tensor], pool: Pool, *, skips: bool = True) -> Tensor:
        """What is pooled from the pyramid, [R, channels, P, P]."""
        return pool(features, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """[R, out_channels] from [R, channels, P, P]."""
        x = maps
        for layer in self._layers:
            x = F.relu(_of_maps(layer, x) if isinstance(layer, nn.Linear) and x.dim() > 2 else layer(x))
        return x.flatten(1)


def _of_maps(layer: nn.Linear, maps: Tensor) -> Tensor:
    """``layer`` on [R, C, P, P], flattened.

    Maps with their channels last in memory would be copied, and their gradient back. Where there are more regions than
    outputs it is cheaper to put the weights in the maps' order.
    """
    if len(maps) <= layer.out_features or not maps.is_contiguous(memory_format=torch.channels_last):
        return layer(maps.flatten(1))
    weight = layer.weight.unflatten(1, maps.shape[1:]).permute(0, 2, 3, 1).flatten(1)
    return F.linear(maps.permute(0, 2, 3, 1).flatten(1), weight, layer.bias)


class Predictor(nn.Module):
    """Class logits [R, C + 1] and box codes [R, 4 * C] (or 4, class-agnostic)."""

    def __init__(self, channels: int, classes: int, *, agnostic: bool = False) -> None:
        super().__init__()
        self.cls_score: nn.Linear = nn.Linear(channels, classes + 1)
        self.bbox_pred: nn.Linear = nn.Linear(channels, 4 if agnostic else 4 * classes)
        nn.init.normal_(self.cls_score.weight, std=0.01)
        nn.init.normal_(self.bbox_pred.weight, std=0.001)
        for layer in (self.cls_score, self.bbox_pred):
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.cls_score(x).float(), self.bbox_pred(x).float()
