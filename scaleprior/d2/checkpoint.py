"""Backbones with a card through Detectron2's own loading path: ``MODEL.WEIGHTS`` of any trainer, stock ones included.

``extend_checkpointer()`` widens ``DetectionCheckpointer`` in two places. Files without a card go the way they went.

- ``_load_file`` also reads canonical ``.safetensors`` (``scaleprior://NAME`` resolves to one before).
- ``_load_model`` fills a trunk from a backbone with a card by exact names, counts, and refuses what does not fit:
  Detectron2 itself only warns, also when nothing matched at all. It holds the built model against the card, too.
"""

from __future__ import annotations

import json
import logging
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from torch import Tensor, nn

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS
from scaleprior.backbones.readers.assemble import CARD_IN_PICKLE
from scaleprior.backbones.trunks.trunk import canonical_shapes
from scaleprior.backbones.weights import has_card, load_canonical
from scaleprior.d2.contract import OTHER_EPS, check_norm_eps, require_contract
from scaleprior.errors import ScalePriorError, UserError

__all__ = ["EXTRA_KEY", "TrunkMatch", "extend_checkpointer", "load_detector", "match_trunk"]

# Below Detectron2's own logger, so that trainers which know nothing of ours show how many tensors matched.
logger = logging.getLogger("detectron2.scaleprior")

EXTRA_KEY = "scaleprior"
"""Entry of our checkpoints that holds, as JSON, what made them; Detectron2 passes over it."""
_COUNTER = ".num_batches_tracked"
_OFFSETS = ".conv2_offset."  # deformable convolutions add these; no backbone has them


@dataclass(frozen=True)
class TrunkMatch:
    """Which of a model's tensors a backbone fills.

    Attributes:
        filled: name in the model -> name in the file.
        unused: names of the file that the model has no place for: whole stages, such as res5 in an RPN on res4.
    """

    filled: Mapping[str, str]
    unused: tuple[str, ...]


def extend_checkpointer() -> None:
    """Teach ``DetectionCheckpointer`` about cards; doing it twice is harmless."""
    if getattr(DetectionCheckpointer, "_scaleprior", False):
        return
    load_file, load_model = DetectionCheckpointer._load_file, DetectionCheckpointer._load_model

    def _load_file(self: DetectionCheckpointer, filename: str) -> dict[str, Any]:
        if Path(filename).suffix == ".safetensors":
            if not has_card(filename):
                raise UserError(
                    f"MODEL.WEIGHTS {filename} has no ScalePrior card",
                    hint="`scaleprior backbone convert` gives it one, and knows what its pixels have to be",
                )
            tensors, card = load_canonical(filename)
            return {"model": tensors, CARD_IN_PICKLE: card.to_json()}
        return load_file(self, filename)

    def _load_model(self: DetectionCheckpointer, checkpoint: dict[str, Any]) -> Any:
        text = checkpoint.get(CARD_IN_PICKLE)
        if text is None:
            _hold_against_training(self.model, checkpoint)
            return load_model(self, checkpoint)
        card = Card.from_json(text, source="the card in MODEL.WEIGHTS")
        require_contract(self.model, card)
        warn_of_assumed(card, logger)
        tensors = checkpoint.pop("model")  # as Detectron2 does: what is left is what load() returns
        self._convert_ndarray_to_tensor(tensors)
        match = match_trunk(self.model, tensors, card)
        incompatible = load_model(self, {"model": {name: tensors[source] for name, source in match.filled.items()}})
        logger.info(
            "backbone %s: %d of its %d tensors fill the trunk; %d tensors of other layers start fresh",
            card.name,
            len(set(match.filled.values())),
            len(tensors),
            len([n for n in incompatible.missing_keys if not n.endswith(_COUNTER)]),
        )
        # The trunk is complete; that the heads are new is what a backbone is for, and not worth Detectron2's warning.
        incompatible.missing_keys.clear()
        return incompatible

    DetectionCheckpointer._load_file, DetectionCheckpointer._load_model = _load_file, _load_model
    DetectionCheckpointer._scaleprior = True  # pyright: ignore[reportAttributeAccessIssue] (a mark of ours)


def _hold_against_training(model: nn.Module, checkpoint: Mapping[str, Any]) -> None:
    """Refuse a detector of ours whose trunk has norms of another eps than the model's, which its tensors do not show.

    Raises:
        UserError: MODEL.NORM_EPS was set when it was trained, and whoever built the model did not read it.
    """
    text = checkpoint.get(EXTRA_KEY)
    config = json.loads(text).get("config", {}) if isinstance(text, str) else {}
    eps = config.get(NORM_EPS, -1.0)
    for mismatch in check_norm_eps(model, eps) if eps >= 0 else []:
        raise UserError(
            f"the detector was trained with {NORM_EPS} {eps:g}, the norms of this model's trunk have "
            f"{mismatch.config_value:g}",
            hint=f"use {mismatch.override}{OTHER_EPS}",
        )


def match_trunk(model: nn.Module, tensors: Mapping[str, Tensor], card: Card) -> TrunkMatch:
    """Where each tensor of a canonical backbone goes in ``model``, whatever the trunk's prefix is there.

    A name of the model matches the file's name that is its longest dotted suffix: one file fills ``backbone.``,
    ``backbone.bottom_up.`` and, for C4, ``roi_heads.res5.``.

    Raises:
        UserError: nothing matches; the trunk is not filled completely; shapes differ; a part of a stage is left over.
    """
    state, part_of = model.state_dict(), card.arch.family.part_of
    filled: dict[str, str] = {}
    prefixes: set[str] = set()
    found = {name: source for name in state if (source := _longest_suffix(name, tensors)) is not None}
    # A trunk is where its stem is; a name such as "norm.weight" (BiT's last) also ends names of other layers. What
    # stands apart from the stem is C4's res5 in the heads, and its names are its own.
    trunks = {_prefix(name, source) for name, source in found.items() if part_of(source) == "stem"}
    for name, source in found.items():
        if _prefix(name, source) in trunks or source.startswith("res"):
            filled[name] = source
            prefixes.add(_prefix(name, source))
    stages = {part_of(name) for name in canonical_shapes(card.arch)}
    hint = "take weights of the architecture that the config describes (MODEL.RESNETS.*, MODEL.TIMM.MODEL)"
    if not filled:
        raise UserError(f"none of the {len(tensors)} tensors of backbone {card.name} fits this model", hint=hint)
    unfilled = [
        name
        for name in state
        if name not in filled
        and not name.endswith(_COUNTER)
        and _OFFSETS not in name
        and any(name.startswith(p) and part_of(name[len(p) :]) in stages for p in prefixes)
    ]
    differing = [
        f"{name} is {tuple(state[name].shape)}, the file's {tuple(tensors[source].shape)}"
        for name, source in filled.items()
        if state[name].shape != tensors[source].shape
    ]
    used = set(filled.values())
    unused = tuple(name for name in tensors if name not in used)
    # A stage is in use when its convolutions are: BiT's res4 also passes the first norm of the stage behind it.
    convolved = {part_of(name) for name in used if tensors[name].ndim > 1}
    torn = [name for name in unused if part_of(name) in convolved]
    for what, names in (
        ("tensors of the model's trunk are not in it", unfilled),
        ("tensors have other shapes", differing),
        ("of its tensors have no place in the model", torn),
    ):
        if names:
            raise UserError(
                f"backbone {card.name} ({card.arch.name}) does not fit: {len(names)} {what}, first: {names[0]}",
                hint=hint,
            )
    return TrunkMatch(filled, unused)


def _prefix(name: str, source: str) -> str:
    return name[: len(name) - len(source)]


def _longest_suffix(name: str, tensors: Mapping[str, Tensor]) -> str | None:
    while name not in tensors:
        _, dot, name = name.partition(".")
        if not dot:
            return None
    return name


class _Complete(DetectionCheckpointer):
    """Loads a whole detector, and refuses one that leaves a tensor of the model as it was."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if CARD_IN_PICKLE in checkpoint:
            raise UserError("these weights are a backbone, not a trained detector", hint="fine-tune it first")
        incompatible = super()._load_model(checkpoint)
        other = {name: f"{name} {theirs} for {ours}" for name, theirs, ours in incompatible.incorrect_shapes}
        # Detectron2 counts a tensor of another shape as missing, too.
        missing = [n for n in incompatible.missing_keys if n not in other and not n.endswith(_COUNTER)]
        for what, names in (("tensors are missing", missing), ("tensors have other shapes", list(other.values()))):
            if names:
                raise UserError(
                    f"the weights do not fit the config: {len(names)} {what}, first: {names[0]}",
                    hint="evaluate with the config that the detector was trained with",
                )
        return incompatible


def load_detector(model: nn.Module, path: str) -> None:
    """Fill every tensor of ``model`` from a trained detector: ours, or any that Detectron2 reads.

    Raises:
        UserError: a file that cannot be read, a backbone, or a detector of another config.
    """
    try:
        _Complete(model).load(path)
    except UserError as e:
        raise UserError(f"MODEL.WEIGHTS {path}: {e}") from e
    except ScalePriorError:
        raise
    except (OSError, AssertionError, RuntimeError, EOFError, pickle.UnpicklingError) as e:
        raise UserError(f"MODEL.WEIGHTS {path} cannot be read: {e}", hint="check the path") from e
