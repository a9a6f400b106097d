"""Build the trunk that a card or a detection config names, behind one interface whatever its family.

B images, H x W pixels (H and W divisible by 32): ``features(x: [B, 3, H, W])`` gives ``{"res2": [B, C2, H/4, W/4],
..., "res5": [B, C5, H/32, W/32]}``.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from scaleprior.backbones.arch import Arch, TimmSpec
from scaleprior.backbones.names import from_detectron2, to_detectron2
from scaleprior.backbones.spec import ResNetSpec
from scaleprior.backbones.trunk import build_resnet, check_stages, freeze_at, freeze_norms, names_and_shapes
from scaleprior.errors import UserError

__all__ = ["STRIDES", "Trunk", "build_trunk", "canonical_shapes", "detection_trunk"]

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels of the image for a step in each feature map."""

_COUNTER = "num_batches_tracked"


class Trunk(nn.Module):
    """A trunk as detectors want it.

    Attributes:
        arch: what it is.
        body: the module of timm that holds the parameters.
        channels: of each feature map, ``{"res2": 256, ...}``.
        strides: ``STRIDES``.
    """

    def __init__(self, arch: Arch, body: nn.Module) -> None:
        super().__init__()
        self.arch, self.body = arch, body
        self.channels = {name: n for name, n in arch.out_channels.items() if name != "stem"}
        self.strides = dict(STRIDES)
        # BiT's blocks begin with their norm; the sum that a stage hands on has passed none.
        self._norm_first = isinstance(arch, TimmSpec) and arch.model.endswith("_bit")

    def features(self, x: Tensor, *, normalised: bool = False) -> dict[str, Tensor]:
        """res2 .. res5 (fewer after :meth:`keep`) of normalised pixels [B, 3, H, W].

        BiT is a pre-activation network: the res2 .. res4 that timm gives are the raw sums that the next stage
        normalises, res5 has passed the last norm, as in timm's ``forward_features``.

        Args:
            normalised: give BiT's res2 .. res4 as the next stage sees them, that is through its first norm and ReLU.
                Detectors take these: the raw sums grow from stage to stage (standard deviations of about 10, 16 and 26
                against res5's 0.6), which a pyramid without norms cannot take. Other trunks' maps are the same.
        """
        maps = {}
        x = self._stem(x)
        for name, stage in self._stages().items():
            x = stage(x)
            maps[name] = x
        if self._norm_first:
            norms = self._next_norms() if normalised else {"res5": getattr(self.body, "norm", None)}
            maps.update({name: norm(maps[name]) for name, norm in norms.items() if name in maps})
        return maps

    forward = features

    def _stem(self, x: Tensor) -> Tensor:
        body = self.body
        if isinstance(self.arch, ResNetSpec):
            return body.maxpool(body.act1(body.bn1(body.conv1(x))))
        return body.stem(x)

    def _stages(self) -> dict[str, nn.Module]:
        """The stages that are still there, by the name of their map."""
        body = self.body
        if isinstance(self.arch, ResNetSpec):
            stages: Sequence[nn.Module] = [body.layer1, body.layer2, body.layer3, body.layer4]
        else:
            stages = list(body.stages)
        return {name: stage for name, stage in zip(STRIDES, stages) if name in self.channels}

    def _next_norms(self) -> dict[str, nn.Module]:
        """BiT's maps -> the norm (with ReLU) that the network itself sends them through next."""
        following = [stage.blocks[0].norm1 for stage in list(self.body.stages)[1:]]
        return dict(zip(STRIDES, [*following, *([self.body.norm] if hasattr(self.body, "norm") else [])]))

    def keep(self, names: Collection[str]) -> Trunk:
        """Drop the stages that none of the maps ``names`` needs, in place; returns self.

        Their parameters would get no gradient, which distributed training refuses. Of BiT, the norm that the last kept
        map passes stays.
        """
        unknown = sorted(set(names) - set(STRIDES))
        if unknown or not names:
            raise UserError(
                f"MODEL.RESNETS.OUT_FEATURES is {list(names)}", hint=f"take some of {', '.join(STRIDES)} for this trunk"
            )
        count = 1 + max(list(STRIDES).index(name) for name in names)
        self.channels = dict(list(self.channels.items())[:count])
        body = self.body
        if isinstance(self.arch, ResNetSpec):
            for number in range(count + 1, 5):
                setattr(body, f"layer{number}", nn.Identity())
        elif count < len(body.stages):
            if self._norm_first:
                block = body.stages[count].blocks[0]
                for name in [name for name, _ in block.named_children() if name != "norm1"]:
                    delattr(block, name)
                body.stages[count].blocks = body.stages[count].blocks[:1]
                del body.norm
            body.stages = body.stages[: count + int(self._norm_first)]
        return self

    def freeze_at(self, stages: int) -> Trunk:
        """Freeze the first ``stages`` stages in place; returns self.

        Args:
            stages: as ``trunk.freeze_at``: 0 none, 1 the stem, 2 stem and res2, ... 5 all. Frozen parameters need no
                gradient, and their BN becomes FrozenBN.
        """
        if isinstance(self.arch, ResNetSpec):
            freeze_at(self.body, stages)
            return self
        check_stages(stages)
        frozen = [self.body.stem, *list(self.body.stages)[: max(stages - 1, 0)]] if stages else []
        if stages == 5 and hasattr(self.body, "norm"):
            frozen.append(self.body.norm)
        for part in frozen:
            freeze_norms(part)
            for parameter in part.parameters():
                parameter.requires_grad_(False)
        return self

    def load(self, state: Mapping[str, Tensor]) -> Trunk:
        """Fill with the tensors of a canonical backbone file (``load_backbone``); returns self."""
        own = from_detectron2(state) if isinstance(self.arch, ResNetSpec) else dict(state)
        missing, unexpected = self.body.load_state_dict(own, strict=False)
        assert not unexpected, unexpected
        assert all(name.endswith(_COUNTER) for name in missing), missing
        return self

    def canonical_names(self) -> dict[str, str]:
        """The body's own names of its tensors -> those of a canonical file: Detectron2's for its ResNets, timm's for
        timm's trunks. With BN's ``num_batches_tracked``, which files leave out, in the same style."""
        names = list(self.body.state_dict())
        if not isinstance(self.arch, ResNetSpec):
            return {name: name for name in names}
        renamed = {}
        for name in names:
            stem, _, tensor = name.rpartition(".")
            (theirs,) = to_detectron2({f"{stem}.weight": None})
            renamed[name] = f"{theirs.removesuffix('weight')}{tensor}"
        return renamed


def build_trunk(arch: Arch) -> Trunk:
    """A trunk with fresh weights; ``.load(state)`` fills it."""
    if isinstance(arch, ResNetSpec):
        return Trunk(arch, build_resnet(arch))
    import timm

    # CLIP's plain models end in attention over a fixed number of places; "_gap" is the same trunk without it.
    name = f"{arch.model}_gap" if arch.model.endswith("_clip") else arch.model
    return Trunk(arch, timm.create_model(name, pretrained=False, num_classes=0))


def detection_trunk(arch: Arch, *, norm: str, freeze_stages: int, out_features: Collection[str]) -> Trunk:
    """A trunk with fresh weights, made ready for a detector.

    Args:
        arch: from ``arch_from_cfg`` or ``arch_from_timm``, which check that ``norm`` fits it.
        norm: MODEL.RESNETS.NORM. Norms keep the eps that the trunk was trained with.
        freeze_stages: MODEL.BACKBONE.FREEZE_AT.
        out_features: MODEL.RESNETS.OUT_FEATURES; stages that none of them needs are dropped.
    """
    trunk = build_trunk(arch)
    if norm == "FrozenBN":
        freeze_norms(trunk.body)
    trunk.freeze_at(freeze_stages).keep(out_features)
    if norm == "SyncBN":
        from timm.layers import convert_sync_batchnorm

        trunk.body = convert_sync_batchnorm(trunk.body)
    return trunk


@functools.lru_cache(maxsize=16)
def canonical_shapes(arch: Arch) -> Mapping[str, tuple[int, ...]]:
    """Names and shapes of a canonical file's tensors: Detectron2's for its ResNets, timm's for timm's trunks."""
    if isinstance(arch, ResNetSpec):
        return MappingProxyType(names_and_shapes(arch))
    with torch.device("meta"):
        tensors = build_trunk(arch).body.state_dict()
    return MappingProxyType({n: tuple(t.shape) for n, t in tensors.items() if not n.endswith(_COUNTER)})
