"""Which trunk a config or a card means. Torch-free.

MODEL.BACKBONE.NAME decides: the ``build_timm_...`` builders take the trunk of MODEL.TIMM.MODEL, others that of
MODEL.RESNETS. Detection and pretraining read the same keys, so one line of overrides names a trunk for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.trunks.family import TimmSpec, TrunkSpec, get_family, known_models
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.errors import UserError
from scaleprior.wording import shown

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "RESNET_BUILDERS", "TIMM_BUILDERS", "check_model_is_read", "check_only_resnets_keys", "config_eps",
    "is_timm_config", "spec_from_config", "spec_from_dict", "spec_of_model",
]  # fmt: skip

TIMM_BUILDERS = {
    "build_resnet_fpn_backbone": "build_timm_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone": "build_retinanet_timm_fpn_backbone",
}
"""MODEL.BACKBONE.NAME of a ResNet's pyramid -> that of the same pyramid on the trunk of MODEL.TIMM.MODEL."""
RESNET_BUILDERS = ("build_resnet_backbone", *TIMM_BUILDERS)
"""Values of MODEL.BACKBONE.NAME that build the trunk of MODEL.RESNETS."""
_TIMM_BUILDERS = ("build_timm_backbone", *TIMM_BUILDERS.values())


def is_timm_config(cfg: CfgNode) -> bool:
    """Whether MODEL.BACKBONE.NAME builds the trunk of MODEL.TIMM.MODEL rather than that of MODEL.RESNETS."""
    return cfg.MODEL.BACKBONE.NAME in _TIMM_BUILDERS


def check_model_is_read(cfg: CfgNode) -> None:
    """Refuse a MODEL.TIMM.MODEL beside a builder of MODEL.RESNETS: that would make another trunk, without a word.

    Raises:
        UserError: prints the line that makes the builder take it.
    """
    builder, model = cfg.MODEL.BACKBONE.NAME, cfg.MODEL.get("TIMM", {}).get("MODEL", "")
    if builder in RESNET_BUILDERS and model:
        taking = TIMM_BUILDERS.get(builder, "build_timm_fpn_backbone")
        raise UserError(
            f"MODEL.TIMM.MODEL is {model!r} with MODEL.BACKBONE.NAME {builder!r}, which takes the trunk of "
            "MODEL.RESNETS",
            hint=f'use MODEL.BACKBONE.NAME {taking}, or MODEL.TIMM.MODEL "" for the ResNet',
        )


def check_only_resnets_keys(cfg: CfgNode) -> None:
    """Refuse what only a ResNet of MODEL.RESNETS has, beside a trunk of MODEL.TIMM.MODEL, which would go without.

    Raises:
        UserError: deformable convolutions, or a dilated res5; names the key.
    """
    node = cfg.MODEL.RESNETS
    for key, plain in (("DEFORM_ON_PER_STAGE", [False] * 4), ("RES5_DILATION", 1)):
        value = node.get(key, plain)
        if value != plain:
            raise UserError(
                f"MODEL.RESNETS.{key} is {value}, which the trunks of MODEL.TIMM.MODEL do not have",
                hint=f"set it to {plain}, or take a config without it",
            )


def spec_of_model(model: str, norm: str) -> TrunkSpec:
    """The trunk that MODEL.TIMM.MODEL names, with norm layers that MODEL.RESNETS.NORM can make of its own.

    Args:
        model: "resnet18" .. "resnet152", or a model of another family.
        norm: "FrozenBN", "BN", "SyncBN", "GN" or "LN".

    Raises:
        UserError: an unknown name, or a norm that does not fit the trunk; names the key.
    """
    models = known_models()
    if model not in models:
        raise UserError(
            f"MODEL.TIMM.MODEL is {model!r}" if model else "MODEL.TIMM.MODEL is not set",
            hint=f"known: {', '.join(models)}",
        )
    return models[model].spec_of_model(model, norm)


def spec_from_config(cfg: CfgNode) -> TrunkSpec:
    """The trunk that a config describes: MODEL.RESNETS, or MODEL.TIMM.MODEL if the backbone's name says so.

    Raises:
        UserError: a value that no trunk has, a builder of no trunk that is known here, or a MODEL.TIMM.MODEL that the
            builder does not read; names the key.
    """
    if is_timm_config(cfg):
        return spec_of_model(cfg.MODEL.TIMM.MODEL, cfg.MODEL.RESNETS.NORM)
    check_model_is_read(cfg)
    if cfg.MODEL.BACKBONE.NAME not in RESNET_BUILDERS:
        raise UserError(
            f"MODEL.BACKBONE.NAME is {cfg.MODEL.BACKBONE.NAME!r}, which builds no trunk that is known here",
            hint=f"known: {', '.join((*RESNET_BUILDERS, *_TIMM_BUILDERS))}",
        )
    return ResNetSpec.from_config(cfg)


def config_eps(cfg: CfgNode) -> float | None:
    """MODEL.NORM_EPS: what the trunk's norms add to the variance; None = what its family's do.

    Configs without ScalePrior's keys mean the latter.
    """
    eps = cfg.MODEL.get("NORM_EPS", -1.0)
    return None if eps < 0 else eps


def spec_from_dict(value: Mapping[str, Any]) -> TrunkSpec:
    """The trunk that a card's ``arch`` object describes; without a ``family`` it is Detectron2's ResNet.

    Raises:
        UserError: a family or fields that this version does not know.
    """
    family = value.get("family", "resnet")
    if family == "timm" and set(value) == {"family", "model"}:
        return TimmSpec(value["model"])
    if not isinstance(family, str):
        raise UserError(f"the family of an architecture is {shown(family)}", hint="a name is needed")
    try:
        return get_family(family).spec_from_dict(value)
    except UserError as e:
        if family == "resnet":
            raise
        raise UserError(
            f"architecture {shown(dict(value))} is not known to this version of scaleprior",
            hint="update scaleprior, or install the package that adds such trunks",
        ) from e
