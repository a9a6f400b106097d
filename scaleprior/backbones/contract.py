"""The contract between weights and detection config: what the card says holds, or the user hears about it.

A wrong channel order, pixel statistic or stride placement loads without a word in most frameworks and costs AP.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.model import fitting_norms, same_eps
from scaleprior.backbones.trunks.selection import TIMM_BUILDERS, check_only_resnets_keys, config_eps, is_timm_config
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.config.load import LoadedConfig

__all__ = ["NORM_EPS", "Mismatch", "apply_card", "check_contract", "is_strict", "is_translation", "usual_norm"]

logger = logging.getLogger(__name__)

_BACKBONE = "MODEL.BACKBONE.NAME"
_TRUNK = "MODEL.TIMM.MODEL"
NORM_EPS = "MODEL.NORM_EPS"
"""What the trunk's norms add to the variance; -1 = what its family's do."""


@dataclass(frozen=True)
class Mismatch:
    """One key in which a config contradicts a card.

    Attributes:
        key: dotted config key.
        config_value: what the config says.
        card_value: what the weights need.
        explicit: somebody set the key, rather than leaving it at its default.
    """

    key: str
    config_value: Any
    card_value: Any
    explicit: bool = False

    @property
    def override(self) -> str:
        """The ``KEY VALUE`` words that settle it on the command line."""
        value = self.card_value
        text = "[" + ", ".join(repr(v) for v in value) + "]" if isinstance(value, list) else str(value)
        return f"{self.key} '{text}'" if " " in text else f"{self.key} {text}"


def is_translation(key: str, config_value: Any, value: Any) -> bool:
    """Whether ``value`` says the same as ``config_value`` in the words of the timm trunks: a ResNet's pyramid, and the
    same pyramid on the trunk of MODEL.TIMM.MODEL. One detection config so serves backbones of both kinds."""
    return key == _BACKBONE and TIMM_BUILDERS.get(config_value) == value


def check_contract(cfg: CfgNode, card: Card, explicit: Collection[str] = ()) -> list[Mismatch]:
    """Every key in which ``cfg`` contradicts ``card``; empty when they agree.

    Compared: MODEL.PIXEL_MEAN and PIXEL_STD (to 1e-3 on the 0-255 scale), INPUT.FORMAT, MODEL.RESNETS.NORM (BN weights
    fit BN, FrozenBN and SyncBN; GN fits GN, LN LN), MODEL.NORM_EPS, and what describes the trunk: under MODEL.RESNETS
    depth, widths and STRIDE_IN_1X1 (bottlenecks only); with a backbone ``build_timm_...`` MODEL.TIMM.MODEL. The card of
    a timm trunk turns a ResNet's pyramid into the same pyramid on that trunk; such a mismatch in MODEL.BACKBONE.NAME is
    never marked as explicit.

    Args:
        cfg: ours, or Detectron2's; with ScalePrior's keys where the card or the config is about timm's trunks.
        explicit: dotted keys that were set on purpose; marks them in the result.

    Raises:
        UserError: a trunk for which the config's backbone has no place.
    """
    needed: dict[str, Any] = {
        "MODEL.PIXEL_MEAN": list(card.pixel_mean),
        "MODEL.PIXEL_STD": list(card.pixel_std),
        "INPUT.FORMAT": card.channel_order,
    }
    keys = card.arch.to_cfg_keys()
    if keys is None:
        keys = _timm_keys(cfg, card)
    elif is_timm_config(cfg):
        keys = _plain_keys(cfg, card)
    needed |= keys
    if _get(cfg, "MODEL.RESNETS.NORM") not in fitting_norms(card.norm):
        needed["MODEL.RESNETS.NORM"] = usual_norm(card)
    own, said = card.arch.family.eps, config_eps(cfg)
    if not same_eps(own if said is None else said, card.norm_eps):
        needed[NORM_EPS] = -1.0 if same_eps(own, card.norm_eps) else card.norm_eps
    return [
        Mismatch(key, found, value, key in explicit and not is_translation(key, found, value))
        for key, value in needed.items()
        if not _same(found := _get(cfg, key), value)
    ]


def usual_norm(card: Card) -> str:
    """The value of MODEL.RESNETS.NORM that detectors take these weights with. BN weights are usually fine-tuned frozen:
    batches of 2 images a GPU are too small for statistics."""
    fitting = fitting_norms(card.norm)
    return "FrozenBN" if "FrozenBN" in fitting else fitting[0]


def _timm_keys(cfg: CfgNode, card: Card) -> dict[str, Any]:
    """The keys that describe a trunk which MODEL.RESNETS cannot."""
    builder = cfg.MODEL.BACKBONE.NAME
    what = f"backbone {card.name} is timm's {card.arch.name}, which no MODEL.RESNETS config describes"
    if not is_timm_config(cfg) and builder not in TIMM_BUILDERS:
        if builder == "build_resnet_backbone":
            what += f"; {_BACKBONE} is {builder}, and C4's head is the res5 of a ResNet"
        else:
            what += f"; {_BACKBONE} is {builder}, which is not one of those that take it"
        raise UserError(what, hint="take a config with a feature pyramid (FPN), such as COCO-Detection/Base-RCNN-FPN")
    if _has_res5_head(cfg):
        raise UserError(
            f"{what}; MODEL.ROI_HEADS.NAME is Res5ROIHeads, whose res5 is a ResNet's",
            hint=f"take a config with a feature pyramid (FPN) and {_BACKBONE} build_timm_fpn_backbone",
        )
    check_only_resnets_keys(cfg)
    return {_BACKBONE: TIMM_BUILDERS.get(builder, builder), _TRUNK: card.arch.timm_model}


def _plain_keys(cfg: CfgNode, card: Card) -> dict[str, Any]:
    """The keys that describe a ResNet which is built through MODEL.TIMM.MODEL."""
    spec = card.arch
    if spec.timm_model is None:
        resnet = {theirs: ours for ours, theirs in TIMM_BUILDERS.items()}
        raise UserError(
            f"backbone {card.name} is {spec.name} with stride_in_1x1 {spec.stride_in_1x1}; {_BACKBONE} "
            f"{cfg.MODEL.BACKBONE.NAME} builds plain ResNets of standard widths with the stride in the 3x3 only",
            hint=f"use {_BACKBONE} {resnet.get(cfg.MODEL.BACKBONE.NAME, 'build_resnet_backbone')}",
        )
    keys: dict[str, Any] = {_TRUNK: spec.timm_model}
    if _has_res5_head(cfg):
        keys["MODEL.RESNETS.STRIDE_IN_1X1"] = False  # of the head, which Detectron2 builds from MODEL.RESNETS
    return keys


def _has_res5_head(cfg: CfgNode) -> bool:
    """A C4 detector on ``build_timm_backbone``. RetinaNet's configs name Res5ROIHeads by default without having any."""
    return (
        cfg.MODEL.BACKBONE.NAME == "build_timm_backbone"
        and cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"
        and cfg.MODEL.get("META_ARCHITECTURE", "GeneralizedRCNN") == "GeneralizedRCNN"
    )


def apply_card(loaded: LoadedConfig, card: Card) -> CfgNode:
    """A frozen copy of the config with the keys that nobody set taken from the card.

    Raises:
        UserError: a key that was set contradicts the card; prints the override lines. With SCALEPRIOR.CONTRACT warn
            that is a warning, and the key stays as it was set.
    """
    mismatches = check_contract(loaded.cfg, card, loaded.explicit)
    contradictions = [m for m in mismatches if m.explicit]
    if contradictions:
        said = ", ".join(f"{m.key} is {m.config_value!r}" for m in contradictions)
        error = UserError(
            f"config {loaded.source} contradicts the card of backbone {card.name}: {said}",
            hint="use " + " ".join(m.override for m in contradictions),
        )
        if is_strict(loaded.cfg):
            raise error
        logger.warning("%s", error)
    cfg = loaded.cfg.clone()
    cfg.defrost()
    for mismatch in mismatches:
        if mismatch.explicit:
            continue
        if is_translation(mismatch.key, mismatch.config_value, mismatch.card_value):
            logger.info(
                "backbone %s is timm's %s: %s %s instead of %s",
                *(card.name, card.arch.name, mismatch.key, mismatch.card_value, mismatch.config_value),
            )
        *parents, leaf = mismatch.key.split(".")
        node = cfg
        for parent in parents:
            node = node[parent]
        node[leaf] = mismatch.card_value
    cfg.freeze()
    return cfg


def is_strict(cfg: CfgNode) -> bool:
    """Whether SCALEPRIOR.CONTRACT makes a contradiction an error; it does where the config does not declare the key.

    Raises:
        UserError: another word than the key takes.
    """
    word = cfg.get("SCALEPRIOR", {}).get("CONTRACT", "strict")
    if word not in ("strict", "warn"):
        raise UserError(f"SCALEPRIOR.CONTRACT is {word!r}", hint="take one of strict, warn")
    return word == "strict"


def _get(cfg: CfgNode, key: str) -> Any:
    node: Any = cfg
    for part in key.split("."):
        if part not in node:
            raise UserError(f"the config has no {key}", hint="declare ScalePrior's keys: add_scaleprior_config(cfg)")
        node = node[part]
    return node


def _same(config_value: Any, card_value: Any) -> bool:
    if isinstance(card_value, list):
        return len(config_value) == len(card_value) and all(
            abs(a - b) <= 1e-3 for a, b in zip(config_value, card_value)
        )
    return config_value == card_value
