"""Feature maps for the detector: a trunk up to a stage, and the feature pyramid on top of it.

Shapes: N images, H x W the padded batch. Stage resN has stride 2**N; pyramid level pN has, too.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork, FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from scaleprior.backbones.trunks.freezing import FrozenBatchNormAct
from scaleprior.backbones.trunks.trunk import Trunk
from scaleprior.errors import UserError

__all__ = ["PyramidBackbone", "TrunkFeatures", "fuse_frozen_norms", "norm_layer", "weight_and_bias"]


def norm_layer(name: str, key: str) -> Callable[[int], nn.Module] | None:
    """The maker of a norm layer from its width for the config value ``name`` of ``key``; None for "".

    SyncBN is BN until ``share_norms``.

    Raises:
        UserError: a norm that only Detectron2 has.
    """
    group_norm = partial(nn.GroupNorm, 32)
    makers = {"": None, "BN": nn.BatchNorm2d, "SyncBN": nn.BatchNorm2d, "GN": group_norm}
    if name not in makers:
        raise UserError(f"{key} is {name!r}; that needs the detectron2 engine", hint='take "", "BN", "SyncBN" or "GN"')
    return makers[name]


class TrunkFeatures(nn.Module):
    """The maps of a trunk, by name.

    Args:
        trunk: from ``detection_trunk``, without the stages that nobody needs.
        out_features: among "res2" to "res5".
    """

    def __init__(self, trunk: Trunk, out_features: Sequence[str]) -> None:
        super().__init__()
        self.trunk = trunk
        self.out_features: tuple[str, ...] = tuple(out_features)

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Maps [N, C, H / 2**i, W / 2**i] by name from images [N, 3, H, W], as the network itself sees them next."""
        maps = self.trunk.features(x, normalised=True)
        return OrderedDict((name, maps[name]) for name in maps if name in self.out_features)


class _ConvThenFrozenNorm(nn.Conv2d):
    """A convolution that also does the work of the FrozenBN behind it: see :func:`fuse_frozen_norms`."""

    _norm: tuple[Any]  # in a tuple, so that it is not registered as a second child
    _kept: _Kept | None = None

    def both(self) -> tuple[Tensor, Tensor]:
        """Weight and bias of the convolution that does the work of both."""
        (norm,) = self._norm
        kept = self._kept
        if kept is None or not kept.holds(norm):
            kept = self._kept = _Kept.of(norm)
        if self.weight.requires_grad:  # a fused optimiser, and a recorded step, write to it without torch's count
            return self.weight * kept.scale, kept.shift
        return kept.scaled(self.weight), kept.shift

    def forward(self, input: Tensor) -> Tensor:
        weight, shift = self.both()
        return F.conv2d(input, weight, shift, self.stride, self.padding, self.dilation, self.groups)


class _Kept:
    """What a FrozenBN multiplies by and adds, worked out once: its four tensors do not learn.

    That they are the ones, and were not written to since, is told by themselves and by torch's count of writes.
    """

    def __init__(self, tensors: tuple[Tensor, ...], scale: Tensor, shift: Tensor) -> None:
        self._of = _written(*tensors)
        self.scale = scale
        self.shift = shift
        self._weight: tuple[tuple[tuple[Tensor, int], ...], Tensor] | None = None

    @classmethod
    def of(cls, norm: Any) -> _Kept:
        # whoever evaluates first, in inference mode, leaves tensors that training can use
        with torch.inference_mode(mode=False), torch.no_grad():
            scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
            shift = norm.bias - norm.running_mean * scale
            return cls(_tensors(norm), scale.view(-1, 1, 1, 1), shift)

    def holds(self, norm: Any) -> bool:
        return _same(self._of, _tensors(norm))

    def scaled(self, weight: Tensor) -> Tensor:
        """``weight``, which does not learn, times the scale, for as long as it is not written to."""
        if self._weight is None or not _same(self._weight[0], (weight,)):
            with torch.inference_mode(mode=False), torch.no_grad():
                self._weight = _written(weight), weight * self.scale
        return self._weight[1]


def _tensors(norm: Any) -> tuple[Tensor, ...]:
    return norm.weight, norm.bias, norm.running_mean, norm.running_var


def _written(*tensors: Tensor) -> tuple[tuple[Tensor, int], ...]:
    return tuple((tensor, tensor._version) for tensor in tensors)


def _same(before: tuple[tuple[Tensor, int], ...], now: tuple[Tensor, ...]) -> bool:
    return all(tensor is other and version == other._version for (tensor, version), other in zip(before, now))


class _FusedNorm(FrozenBatchNorm2d):
    """Keeps the numbers; the convolution before it applies them."""

    def forward(self, x: Tensor) -> Tensor:
        return x


class _FusedNormAct(FrozenBatchNormAct):
    """The same for a norm with an activation inside, which is left."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(x)


_FUSED = {FrozenBatchNorm2d: _FusedNorm, FrozenBatchNormAct: _FusedNormAct}


def fuse_frozen_norms(pairs: Iterable[tuple[nn.Module, nn.Module]]) -> None:
    """Let every convolution without a bias that a FrozenBN follows do both at once, in place.

    ``FrozenBN(conv(x, w)) = conv(x, w * scale) + shift`` with constants scale and shift, which saves two passes over
    each map (a fifth of the trunk's forward time on a CPU). Gradients reach ``w`` through the product. Only the
    classes of the two modules change; names, parameters and buffers stay.

    Args:
        pairs: (convolution, norm behind it), from the family's ``conv_norms``; other kinds are left as they are.
    """
    conv: Any
    norm: Any
    for conv, norm in pairs:
        if type(conv) is nn.Conv2d and type(norm) in _FUSED and conv.bias is None:
            conv.__class__, norm.__class__ = _ConvThenFrozenNorm, _FUSED[type(norm)]
            setattr(conv, "_norm", (norm,))  # noqa: B010 (a tuple, which the checker does not take for a module's)


def weight_and_bias(conv: nn.Conv2d) -> tuple[Tensor, Tensor | None]:
    """What ``conv`` computes with, also where :func:`fuse_frozen_norms` gave it a norm's work."""
    return conv.both() if isinstance(conv, _ConvThenFrozenNorm) else (conv.weight, conv.bias)


class PyramidBackbone(nn.Module):
    """FPN on the maps of a trunk: "p2", "p3", ... and one level more, subsampled from the last (for the RPN).

    Args:
        bottom_up: the trunk.
        channels: of the trunk's maps, in the order of its ``out_features``.
        out_channels: of every level.
        norm: maker of the norm layers, or None.
    """

    def __init__(
        self,
        bottom_up: TrunkFeatures,
        in_features: Sequence[str],
        channels: Sequence[int],
        out_channels: int,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self.bottom_up = bottom_up
        self.in_features: tuple[str, ...] = tuple(in_features)
        self.fpn: FeaturePyramidNetwork = FeaturePyramidNetwork(list(channels), out_channels, LastLevelMaxPool(), norm)
        first = int(in_features[0][3:])
        self.levels: list[str] = [f"p{first + i}" for i in range(len(channels) + 1)]

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        """Maps [N, out_channels, H / 2**i, W / 2**i] by name from images [N, 3, H, W]."""
        maps = self.bottom_up(x)
        pyramid = self.fpn(OrderedDict((name, maps[name]) for name in self.in_features))
        return OrderedDict(zip(self.levels, pyramid.values()))
