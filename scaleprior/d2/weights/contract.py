"""The contract inside Detectron2: a config, or a model that was built already, held against a backbone's card.

Detectron2 takes a wrong channel order, wrong pixel statistics and a wrong stride placement in silence. What a model
does not show is said, once for every model.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Collection, Sequence
from typing import Any, Literal, get_args

from detectron2.config import CfgNode
from torch import nn

from scaleprior.backbones import contract as backbone_contract
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS, Mismatch, check_contract
from scaleprior.backbones.trunks.model import same_eps
from scaleprior.backbones.trunks.trunk import canonical_shapes
from scaleprior.config import LoadedConfig
from scaleprior.config.dotted import flat_config, set_key
from scaleprior.d2.weights.built import note_inside
from scaleprior.d2.weights.inspection import inspect_model
from scaleprior.d2.weights.norm_eps import trunk_eps
from scaleprior.d2.weights.places import TrunkPlace, find_trunks
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = [
    "OTHER_EPS", "ContractMode", "apply_card", "check_contract", "check_model", "check_norm_eps", "contract_mode",
    "is_strict", "require_contract",
]  # fmt: skip

# Below Detectron2's own logger, so that trainers which know nothing of ours show what is said.
logger = logging.getLogger("detectron2.scaleprior")

ContractMode = Literal["strict", "warn"]
"""What a contradiction between a model and its backbone's card is: an error, or a warning."""
_mode: ContractMode = "strict"
_told: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models of which it was said what could not be checked

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


def contract_mode(mode: ContractMode) -> None:
    """Choose for this process what SCALEPRIOR.CONTRACT chooses for a model built from a yacs config with our keys.

    For LazyConfigs, and programs that know nothing of ours: call it once, before weights are loaded.

    Args:
        mode: "strict", the default: a model that contradicts its backbone's card, or a trunk that the backbone does not
            fill completely, is an error. "warn": it is a warning, and of a trunk that was changed inside what fits is
            loaded.

    Raises:
        UserError: another word.
    """
    global _mode
    if mode not in get_args(ContractMode):
        raise UserError(f"{parameter('mode')} is {mode!r}", hint=f"take one of {', '.join(get_args(ContractMode))}")
    _mode = mode


def is_strict(model: nn.Module) -> bool:
    """Whether a contradiction is an error: neither the model's config nor :func:`contract_mode` says "warn"."""
    note = note_inside(model)
    return _mode == "strict" and (note is None or note.strict)


def check_model(model: nn.Module, card: Card) -> list[Mismatch]:
    """Everything in which a built model contradicts ``card``; empty when they agree.

    Compared, at every trunk in the model that is named as the card's: pixel mean and std, channel order, what the
    trunk's norms add to the variance, and where its bottlenecks stride. Depth, widths and kind of norm show in the
    tensors' names and shapes.
    """
    places = find_trunks(model.state_dict(), canonical_shapes(card.arch), card.arch)
    return inspect_model(model, card, places or [TrunkPlace("", (), {})]).mismatches


def check_norm_eps(model: nn.Module, eps: float, *, usual: float = _THEIRS) -> list[Mismatch]:
    """What the norms in a built model's trunk add to the variance, if that is not ``eps``.

    Args:
        usual: what the norms of a trunk that is not known here are taken to add.
    """
    others = sorted(e for e in trunk_eps(model) or {usual} if not same_eps(e, eps))
    return [Mismatch(NORM_EPS, others[0], eps)] if others else []


def require_contract(
    model: nn.Module, card: Card, places: Sequence[TrunkPlace], companions: Sequence[Any] = (), *, strict: bool = True
) -> None:
    """Raise where a model contradicts ``card``; say, once for every model, what could not be checked.

    Args:
        places, companions: see :func:`inspect_model`.
        strict: contradictions are errors, not warnings.

    Raises:
        UserError: prints the override lines.
    """
    findings = inspect_model(model, card, places, companions)
    if findings.mismatches:
        said = ", ".join(f"{m.key} is {_short(m.config_value)}" for m in findings.mismatches)
        where = f" at {', '.join(findings.where)}" if findings.where else ""
        said = f"the model contradicts the card of its backbone {card.name}{where}: {said}"
        hint = "use " + " ".join(m.override for m in findings.mismatches)
        if any(m.key == NORM_EPS for m in findings.mismatches):
            hint += OTHER_EPS
        if strict:
            raise UserError(said, hint=hint)
        logger.warning("%s; %s", said, hint)
    if findings.unchecked and model not in _told:
        _told.add(model)
        logger.warning("could not check against backbone %s: %s", card.name, "; ".join(findings.unchecked))


def _short(value: Any) -> str:
    return "[" + ", ".join(f"{v:g}" for v in value) + "]" if isinstance(value, list) else repr(value)
