"""Build the trunk that a card or a config names, behind one interface whatever its family.

B images, H x W pixels (H and W divisible by 32): ``features(x: [B, 3, H, W])`` gives ``{"res2": [B, C2, H/4, W/4],
..., "res5": [B, C5, H/32, W/32]}``.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn

from scaleprior.backbones.trunks.drop_path import set_drop_path
from scaleprior.backbones.trunks.family import TrunkFamily, TrunkSpec
from scaleprior.backbones.trunks.freezing import check_stages, freeze_norms, freeze_parts
from scaleprior.backbones.trunks.model import MAPS, STRIDES, same_eps
from scaleprior.backbones.trunks.norms import set_norm_eps
from scaleprior.errors import UserError

__all__ = ["Trunk", "build_trunk", "canonical_shapes", "detection_trunk", "feature_maps"]

_COUNTER = "num_batches_tracked"


class Trunk(nn.Module):
    """A trunk as detectors and pretraining want it.

    Attributes:
        arch: what it is.
        body: the module that holds the parameters, as the family's ``build`` gave it.
        channels: of each feature map, ``{"res2": 256, ...}``.
        strides: ``STRIDES``.
    """

    def __init__(self, arch: TrunkSpec, body: nn.Module) -> None:
        super().__init__()
        self.arch: TrunkSpec = arch
        self.body: nn.Module = body
        self._family: TrunkFamily = arch.family  # looked up once: a compiler cannot follow the search for it
        self.channels: dict[str, int] = {name: arch.out_channels[name] for name in MAPS}
        self.strides: dict[str, int] = dict(STRIDES)

    def features(self, x: Tensor, *, normalised: bool = False) -> dict[str, Tensor]:
        """res2 .. res5 (fewer after :meth:`keep`) of normalised pixels [B, 3, H, W].

        These are the outputs of the network's stages, as timm's ``forward_features`` and ``features_only`` give them;
        the last has passed a norm where the family's ``last_norm`` is one.

        Args:
            normalised: give each map as the network itself sees it next, where the family's ``next_norms`` say so
                (BiT, ConvNeXt). Detectors take these. Other trunks' maps are the same.
        """
        return feature_maps(self._family, self.body, x, normalised=normalised)

    forward = features

    def pooled(self, x: Tensor) -> Tensor:
        """The vectors [B, C5] that a linear head reads, from normalised pixels [B, 3, H, W]."""
        return self._family.pool(self.body, self.features(x)[MAPS[-1]])

    def stage(self, name: str) -> nn.Module:
        """The module that makes the map ``name`` from the one before it."""
        return dict(zip(MAPS, self.arch.family.stages(self.body)))[name]

    def keep(self, names: Collection[str]) -> Trunk:
        """Drop the stages that none of the maps ``names`` needs, in place; returns self.

        Their parameters would get no gradient, which distributed training refuses. A norm that the last kept map passes
        stays.
        """
        unknown = sorted(set(names) - set(MAPS))
        if unknown or not names:
            raise UserError(
                f"MODEL.RESNETS.OUT_FEATURES is {list(names)}", hint=f"take some of {', '.join(MAPS)} for this trunk"
            )
        count = 1 + max(MAPS.index(name) for name in names)
        if count < len(self.channels):
            self.arch.family.drop_after(self.body, count)
        self.channels = dict(list(self.channels.items())[:count])
        return self

    def freeze_at(self, stages: int) -> Trunk:
        """Freeze the first ``stages`` stages in place; returns self.

        Args:
            stages: MODEL.BACKBONE.FREEZE_AT: 0 none, 1 the stem, 2 stem and res2, ... 5 all with the norms behind them.
                Frozen parameters need no gradient, and their BN becomes FrozenBN.
        """
        check_stages(stages)
        family, body = self.arch.family, self.body
        parts = [*family.stem_parts(body), *family.stages(body)[: stages - 1]] if stages else []
        if stages == 1 + len(MAPS):
            parts += [norm for norm in (family.last_norm(body), *family.next_norms(body).values()) if norm is not None]
        freeze_parts(body, parts)
        return self

    def set_norm_eps(self, eps: float) -> Trunk:
        """Let every norm add ``eps`` to the variance, frozen ones too, in place; returns self.

        Raises:
            UserError: norms of kinds that are not known here would keep theirs in silence.
        """
        if not set_norm_eps(self.body, eps):
            raise UserError(
                f"{self.arch.name} has no norm whose eps can be set to {eps:g}",
                hint="its family's norms must derive from torch's, or its weights have the family's eps",
            )
        return self

    def set_drop_path(self, rate: float) -> Trunk:
        """Stochastic depth in training, up to ``rate`` in the last block, in place; returns self.

        Raises:
            UserError: the family has none.
        """
        set_drop_path(self.arch, self.body, rate)
        return self

    def load(self, state: Mapping[str, Tensor]) -> Trunk:
        """Fill with the tensors of a canonical backbone file (``load_canonical``); returns self."""
        own = {theirs: ours for ours, theirs in self.canonical_names().items()}
        unknown = sorted(set(state) - set(own))
        assert not unknown, unknown
        missing, _ = self.body.load_state_dict({own[name]: value for name, value in state.items()}, strict=False)
        assert all(name.endswith(_COUNTER) for name in missing), missing
        return self

    def canonical_names(self) -> dict[str, str]:
        """The body's own names of its tensors -> those of a canonical file: Detectron2's for its ResNets, timm's for
        others. With BN's ``num_batches_tracked``, which files leave out, in the same style."""
        return self.arch.family.canonical_names(list(self.body.state_dict()))

    def canonical_state(self) -> dict[str, Tensor]:
        """The tensors of a canonical file, not copied."""
        names = self.canonical_names()
        return {names[n]: tensor for n, tensor in self.body.state_dict().items() if not n.endswith(_COUNTER)}


def feature_maps(family: TrunkFamily, body: nn.Module, x: Tensor, *, normalised: bool = False) -> dict[str, Tensor]:
    """What :meth:`Trunk.features` gives.

    Args:
        body: what the family built, or a module with the same children under the same names.
    """
    maps: dict[str, Tensor] = {}
    x = family.stem(body)(x)
    for name, stage in zip(MAPS, family.stages(body)):
        x = stage(x)
        maps[name] = x
    last = family.last_norm(body)
    norms = family.next_norms(body) if normalised else {MAPS[-1]: last} if last is not None else {}
    maps.update({name: norm(maps[name]) for name, norm in norms.items() if name in maps})
    return maps


def build_trunk(arch: TrunkSpec, *, norm_eps: float | None = None) -> Trunk:
    """A trunk with fresh weights; ``.load(state)`` fills it.

    Args:
        norm_eps: what its norms add to the variance, a ``Card.norm_eps``; None = what the family's do.

    Raises:
        UserError: see :meth:`Trunk.set_norm_eps`.
    """
    trunk = Trunk(arch, arch.family.build(arch))
    if norm_eps is None or same_eps(norm_eps, arch.family.eps):
        return trunk  # as the family built it, whatever its norms are
    return trunk.set_norm_eps(norm_eps)


def detection_trunk(arch: TrunkSpec, *, norm: str, freeze_stages: int, norm_eps: float | None = None) -> Trunk:
    """A trunk with fresh weights, made ready for a detector; ``.keep(names)`` drops what that has no use for.

    Args:
        arch: from ``spec_from_config`` or ``spec_of_model``, which check that ``norm`` fits it.
        norm: MODEL.RESNETS.NORM.
        freeze_stages: MODEL.BACKBONE.FREEZE_AT.
        norm_eps: as for :func:`build_trunk`; ``config_eps`` reads it from MODEL.NORM_EPS.
    """
    trunk = build_trunk(arch, norm_eps=norm_eps)  # freezing and synchronising keep each norm's eps
    if norm == "FrozenBN":
        freeze_norms(trunk.body)
    trunk.freeze_at(freeze_stages)
    if norm == "SyncBN":
        from timm.layers import convert_sync_batchnorm

        trunk.body = convert_sync_batchnorm(trunk.body)
    return trunk


@functools.lru_cache(maxsize=16)
def canonical_shapes(arch: TrunkSpec) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a canonical file's tensors."""
    shapes = arch.family.shapes(arch)
    if shapes is None:
        with torch.device("meta"):
            shapes = {name: tuple(tensor.shape) for name, tensor in build_trunk(arch).canonical_state().items()}
    return MappingProxyType(dict(shapes))
