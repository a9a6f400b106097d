"""Architectures that a card can name: Detectron2's ResNets (``ResNetSpec``) and trunks that only timm has. Torch-free.

A trunk of timm keeps timm's parameter names, since Detectron2's ResNet has no place for it: BiT is a pre-activation
ResNetV2 with GroupNorm and standardised weights, CLIP's ResNet has a stem of three convolutions and blurs its strides.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from scaleprior.backbones.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "FITTING_NORMS",
    "PLAIN_RESNETS",
    "TIMM_BUILDERS",
    "TIMM_TRUNKS",
    "Arch",
    "TimmFacts",
    "TimmSpec",
    "arch_from_cfg",
    "arch_from_dict",
    "arch_from_timm",
    "is_timm_config",
]

FITTING_NORMS = {"BN": ("BN", "FrozenBN", "SyncBN"), "FrozenBN": ("FrozenBN", "BN", "SyncBN"), "GN": ("GN",)}
"""Norm that the weights were trained with -> values of MODEL.RESNETS.NORM that can use their numbers."""

TIMM_BUILDERS = {
    "build_resnet_fpn_backbone": "build_timm_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_timm_fpn_backbone",
}
"""MODEL.BACKBONE.NAME of a ResNet's pyramid -> that of the same pyramid on the trunk of MODEL.TIMM.MODEL."""

PLAIN_RESNETS = {f"resnet{depth}": depth for depth in BLOCKS_PER_STAGE}
"""timm's names of the plain ResNets (stride in the 3x3 convolution, standard widths) -> depth."""


@dataclass(frozen=True)
class TimmFacts:
    """What a timm trunk is, and what its publishers trained it on pixels of.

    Attributes:
        blocks: residual blocks in each stage.
        stem_channels: channels of the stem's last convolution.
        norm: "GN" or "BN".
        pixel_mean, pixel_std: published, RGB, 0-255 scale.
    """

    blocks: tuple[int, int, int, int]
    stem_channels: int
    norm: str
    pixel_mean: tuple[float, float, float]
    pixel_std: tuple[float, float, float]


_HALF = (127.5, 127.5, 127.5)
_CLIP_MEAN, _CLIP_STD = (122.7709383, 116.7460125, 104.09373615), (68.5005327, 66.6321579, 70.32316305)


def _bit(depth: int, width: int) -> TimmFacts:
    return TimmFacts(BLOCKS_PER_STAGE[depth], 64 * width, "GN", _HALF, _HALF)


def _clip(blocks: tuple[int, int, int, int], width: int) -> TimmFacts:
    return TimmFacts(blocks, width, "BN", _CLIP_MEAN, _CLIP_STD)


TIMM_TRUNKS: dict[str, TimmFacts] = {
    "resnetv2_50x1_bit": _bit(50, 1),
    "resnetv2_50x3_bit": _bit(50, 3),
    "resnetv2_101x1_bit": _bit(101, 1),
    "resnetv2_101x3_bit": _bit(101, 3),
    "resnetv2_152x2_bit": _bit(152, 2),
    "resnetv2_152x4_bit": _bit(152, 4),
    "resnet50_clip": _clip((3, 4, 6, 3), 64),
    "resnet101_clip": _clip((3, 4, 23, 3), 64),
    "resnet50x4_clip": _clip((4, 6, 10, 6), 80),
    "resnet50x16_clip": _clip((6, 8, 18, 8), 96),
    "resnet50x64_clip": _clip((3, 15, 36, 10), 128),
}
"""The trunks by timm's model name (a test compares every fact with timm's own)."""


@dataclass(frozen=True)
class TimmSpec:
    """A trunk of timm, without its head.

    Attributes:
        model: timm's model name, one of ``TIMM_TRUNKS``.
    """

    model: str

    def __post_init__(self) -> None:
        if self.model not in TIMM_TRUNKS:
            raise UserError(
                f"architecture {self.model!r} of timm is not known here", hint=f"known: {', '.join(TIMM_TRUNKS)}"
            )

    @property
    def facts(self) -> TimmFacts:
        """The row of ``TIMM_TRUNKS``."""
        return TIMM_TRUNKS[self.model]

    @property
    def name(self) -> str:
        """timm's model name."""
        return self.model

    @property
    def norm(self) -> str:
        """ "GN" (BiT, together with weight standardisation) or "BN" (CLIP)."""
        return self.facts.norm

    @property
    def stride_in_1x1(self) -> bool:
        """False: all of these downsample in the 3x3 (CLIP's after it)."""
        return False

    @property
    def out_channels(self) -> dict[str, int]:
        """Channels of the feature maps: ``{"stem": 64, "res2": 256, ...}``."""
        stem = self.facts.stem_channels
        return {"stem": stem, **{f"res{stage}": stem * 2**stage for stage in range(2, 6)}}

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; :func:`arch_from_dict` undoes it."""
        return {"family": "timm", "model": self.model}


Arch: TypeAlias = ResNetSpec | TimmSpec


def arch_from_dict(value: Mapping[str, Any]) -> Arch:
    """The architecture that a card's ``arch`` object describes; without a ``family`` it is Detectron2's ResNet.

    Raises:
        UserError: a family or fields that this version does not know.
    """
    if "family" not in value:
        return ResNetSpec.from_dict(value)
    if value["family"] != "timm" or set(value) != {"family", "model"}:
        raise UserError(
            f"architecture {dict(value)!r} is not known to this version of scaleprior", hint="update scaleprior"
        )
    return TimmSpec(value["model"])


def is_timm_config(cfg: CfgNode) -> bool:
    """Whether MODEL.BACKBONE.NAME builds the trunk of MODEL.TIMM.MODEL rather than that of MODEL.RESNETS."""
    return cfg.MODEL.BACKBONE.NAME in ("build_timm_backbone", *TIMM_BUILDERS.values())


def arch_from_timm(model: str, norm: str) -> Arch:
    """The trunk that MODEL.TIMM.MODEL names, with norm layers that MODEL.RESNETS.NORM can make of its own.

    Args:
        model: "resnet18" .. "resnet152" or a key of ``TIMM_TRUNKS``.
        norm: "FrozenBN", "BN", "SyncBN" or "GN".

    Raises:
        UserError: an unknown name, or a norm that does not fit the trunk; names the key.
    """
    if model in PLAIN_RESNETS:
        # SyncBN is BN in all but its statistics, which are no part of an architecture
        return ResNetSpec(depth=PLAIN_RESNETS[model], norm="BN" if norm == "SyncBN" else norm)
    if model not in TIMM_TRUNKS:
        raise UserError(
            f"MODEL.TIMM.MODEL is {model!r}" if model else "MODEL.TIMM.MODEL is not set",
            hint=f"known: {', '.join((*PLAIN_RESNETS, *TIMM_TRUNKS))}",
        )
    fitting = FITTING_NORMS[TIMM_TRUNKS[model].norm]
    if norm not in fitting:
        raise UserError(
            f"MODEL.RESNETS.NORM is {norm!r} with MODEL.TIMM.MODEL {model!r}", hint=f"it takes {', '.join(fitting)}"
        )
    return TimmSpec(model)


def arch_from_cfg(cfg: CfgNode) -> Arch:
    """The trunk that a detection config describes: MODEL.RESNETS, or MODEL.TIMM.MODEL if the backbone's name says so.

    Raises:
        UserError: a value that no trunk has; names the key.
    """
    if is_timm_config(cfg):
        return arch_from_timm(cfg.MODEL.TIMM.MODEL, cfg.MODEL.RESNETS.NORM)
    return ResNetSpec.from_cfg(cfg)
