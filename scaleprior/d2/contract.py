"""The contract inside Detectron2: a config, or a model that was built already, held against a backbone's card.

Detectron2 takes a wrong channel order, wrong pixel statistics and a wrong stride placement in silence.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling.backbone.resnet import BottleneckBlock
from torch import nn

from scaleprior.backbones import contract as backbone_contract
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS, Mismatch, check_contract
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.config import LoadedConfig
from scaleprior.config.dotted import flat_config, set_key
from scaleprior.d2.norm_eps import trunk_eps
from scaleprior.errors import UserError

__all__ = ["OTHER_EPS", "apply_card", "check_contract", "check_model", "check_norm_eps", "require_contract"]

logger = logging.getLogger(__name__)

_THEIRS = 1e-5  # of all norms that Detectron2 builds
OTHER_EPS = (
    " with scaleprior.d2.Trainer or tools/train_net.py: Detectron2's own build norms with eps "
    f"{_THEIRS:g}, whatever a config says; `scaleprior backbone export` makes a backbone that they can use of many"
)


def apply_card(cfg: CfgNode, card: Card, explicit: Collection[str] = ()) -> None:
    """Set in ``cfg`` every key that the card determines: pixel statistics, channel order, stride, norm, widths.

    Args:
        cfg: Detectron2's, with ``add_scaleprior_config``; changed in place, frozen or not. A norm that fits stays.
        explicit: dotted keys that were set on purpose and must not be changed.

    Raises:
        UserError: a key of ``explicit`` contradicts the card; prints the override lines.
    """
    before = dict(flat_config(cfg))
    applied = backbone_contract.apply_card(LoadedConfig(cfg, frozenset(explicit), "the config"), card)
    changed = {key: value for key, value in flat_config(applied) if before[key] != value}
    frozen = cfg.is_frozen()
    cfg.defrost()
    for key, value in changed.items():
        logger.info("%s: %r becomes %r, as the card of %s says", key, before[key], value, card.name)
        set_key(cfg, key, value)
    if frozen:
        cfg.freeze()


def check_model(model: nn.Module, card: Card) -> list[Mismatch]:
    """Everything in which a built model contradicts ``card``; empty when they agree.

    Compared: the model's pixel mean and std and its channel order, where it has them (all of Detectron2's detectors
    do), what its trunk's norms add to the variance, and where its bottlenecks stride. Depth, widths and kind of norm
    show in the tensors' names and shapes.
    """
    found = []
    for key, buffer, wanted in (
        ("MODEL.PIXEL_MEAN", "pixel_mean", card.pixel_mean),
        ("MODEL.PIXEL_STD", "pixel_std", card.pixel_std),
    ):
        value = getattr(model, buffer, None)
        if value is not None:
            numbers = [round(float(v), 4) for v in value.flatten()]
            if len(numbers) != len(wanted) or any(abs(a - b) > 1e-3 for a, b in zip(numbers, wanted)):
                found.append(Mismatch(key, numbers, list(wanted)))
    order = getattr(model, "input_format", None)
    if order is not None and order != card.channel_order:
        found.append(Mismatch("INPUT.FORMAT", order, card.channel_order))
    found += check_norm_eps(model, card.norm_eps, usual=card.arch.family.eps)
    if "MODEL.RESNETS.STRIDE_IN_1X1" in (card.arch.to_cfg_keys() or ()):
        blocks: list[Any] = [block for block in model.modules() if isinstance(block, BottleneckBlock)]
        places = [(block.conv1.stride[0], block.conv2.stride[0]) for block in blocks]
        strides = {first > 1 for first, second in places if max(first, second) > 1}
        if strides - {card.stride_in_1x1}:
            found.append(Mismatch("MODEL.RESNETS.STRIDE_IN_1X1", not card.stride_in_1x1, card.stride_in_1x1))
    return found


def check_norm_eps(model: nn.Module, eps: float, *, usual: float = _THEIRS) -> list[Mismatch]:
    """What the norms in a built model's trunk add to the variance, if that is not ``eps``.

    Args:
        usual: what the norms of a trunk that is not known here are taken to add.
    """
    others = sorted(e for e in trunk_eps(model) or {usual} if not same_eps(e, eps))
    return [Mismatch(NORM_EPS, others[0], eps)] if others else []


def require_contract(model: nn.Module, card: Card) -> None:
    """Raise where :func:`check_model` finds something.

    Raises:
        UserError: prints the override lines.
    """
    mismatches = check_model(model, card)
    if mismatches:
        said = ", ".join(f"{m.key} is {_short(m.config_value)}" for m in mismatches)
        hint = "use " + " ".join(m.override for m in mismatches)
        if any(m.key == NORM_EPS for m in mismatches):
            hint += OTHER_EPS
        raise UserError(f"the model contradicts the card of its backbone {card.name}: {said}", hint=hint)


def _short(value: Any) -> str:
    return "[" + ", ".join(f"{v:g}" for v in value) + "]" if isinstance(value, list) else repr(value)
