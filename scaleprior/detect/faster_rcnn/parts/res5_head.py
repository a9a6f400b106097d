"""The C4 head: the backbone's last stage on what is pooled from its last map.

The stage begins with two 1x1 convolutions of the pooled map [R, 1024, 14, 14], which is most of what C4 keeps in
memory. Pooling is a weighted mean of a map's cells, channel by channel, and zero outside; a 1x1 convolution without
a bias is a weighted sum of channels, cell by cell. So they may change places: ``conv(pool(x)) = pool(conv(x))``. The
map is much smaller than what is pooled from it (16 images of 800 x 1216: 60,800 cells against 1.6 million), and of a
convolution with a stride only the cells that it looks at are pooled. Norms and biases follow behind the pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from timm.models.resnet import Bottleneck
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.parts.backbone import weight_and_bias

__all__ = ["Pool", "Res5Head"]

Pool = Callable[[Sequence[Tensor], int], Tensor]
"""(maps [N, C, H, W], step) -> [R, C, P / step, P / step], rounded up: every ``step``-th cell of what regions hold."""


class Res5Head(nn.Module):
    """Features of regions from the last map of the trunk.

    Args:
        res5: the stage, on maps of P x P cells. out_channels: of it.
    """

    def __init__(self, res5: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.res5 = res5
        self.out_channels = out_channels

    def maps(self, features: Sequence[Tensor], pool: Pool, *, skips: bool = True) -> Tensor:
        """[R, out_channels, P / 2, P / 2] of the regions that ``pool`` pools from the one map in ``features``.

        Args:
            skips: cells that ``pool`` leaves out cost nothing; else nothing is gained by pooling late.
        """
        blocks: list[Any] = list(self.res5.children())
        first, others = blocks[0], blocks[1:]
        if not (skips and _may_go_first(first)):
            return self.res5(pool(features, 1))
        x = first.act1(first.bn1(_pooled(first.conv1, features, pool)))
        x = first.bn3(first.conv3(first.act2(first.bn2(first.conv2(x)))))
        conv, norm = first.downsample
        x = first.act3(x + norm(_pooled(conv, features, pool)))
        for block in others:
            x = block(x)
        return x

    def forward(self, maps: Tensor) -> Tensor:
        """[R, out_channels], the mean over the cells of ``maps``."""
        return maps.mean(dim=(2, 3))


def _may_go_first(block: Any) -> bool:
    """Whether :meth:`Res5Head.maps` says all that the block does: timm's own bottleneck, and nothing added to it."""
    return (
        type(block) is Bottleneck
        and block.se is None
        and block.drop_path is None
        and isinstance(block.aa, nn.Identity)
        and isinstance(block.drop_block, nn.Identity)
        and isinstance(block.downsample, nn.Sequential)
        and [isinstance(part, nn.Conv2d) for part in block.downsample] == [True, False]
        and all(_is_pointwise(conv) for conv in (block.conv1, block.downsample[0]))
    )


def _is_pointwise(conv: nn.Module) -> bool:
    return isinstance(conv, nn.Conv2d) and conv.kernel_size == (1, 1) and conv.padding == (0, 0) and conv.groups == 1


def _pooled(conv: nn.Conv2d, features: Sequence[Tensor], pool: Pool) -> Tensor:
    """What ``conv`` makes of the pooled maps."""
    weight, bias = weight_and_bias(conv)
    pooled = pool([F.conv2d(feature, weight) for feature in features], conv.stride[0])
    return pooled if bias is None else pooled + bias.to(pooled.dtype).view(-1, 1, 1)
