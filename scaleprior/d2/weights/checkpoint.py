"""Backbones with a card through Detectron2's own loading path: ``MODEL.WEIGHTS`` of any trainer, stock ones included.

``extend_checkpointer()`` widens ``DetectionCheckpointer`` in three places. Files without a card go the way they went.

- ``load`` can be called again after it has failed.
- ``_load_file`` also reads canonical ``.safetensors`` (``scaleprior://NAME`` resolves to one before).
- ``_load_model`` fills trunks from a backbone with a card by exact names, counts, and refuses what does not fit:
  Detectron2 itself only warns, also when nothing matched at all. It holds the built model against the card, too.
"""

from __future__ import annotations

import functools
import json
import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import ParseResult, parse_qs

from detectron2.checkpoint import DetectionCheckpointer
from torch import nn

from scaleprior.backbones.assumed import warn_of_assumed
from scaleprior.backbones.card import Card
from scaleprior.backbones.contract import NORM_EPS
from scaleprior.backbones.readers.assemble import CARD_IN_PICKLE
from scaleprior.backbones.weights import has_card, load_canonical
from scaleprior.d2.weights.contract import OTHER_EPS, check_norm_eps, is_strict, require_contract
from scaleprior.d2.weights.matching import COUNTER, fresh_groups, match_trunk
from scaleprior.errors import ScalePriorError, UserError

__all__ = ["EXTRA_KEY", "extend_checkpointer", "load_detector"]

# Below Detectron2's own logger, so that trainers which know nothing of ours show how many tensors matched.
logger = logging.getLogger("detectron2.scaleprior")

EXTRA_KEY = "scaleprior"
"""Entry of our checkpoints that holds, as JSON, what made them; Detectron2 passes over it."""


def extend_checkpointer() -> None:
    """Teach ``DetectionCheckpointer`` about cards; doing it twice is harmless."""
    if getattr(DetectionCheckpointer, "_scaleprior", False):
        return
    load, load_file = DetectionCheckpointer.load, DetectionCheckpointer._load_file
    load_model = DetectionCheckpointer._load_model

    @functools.wraps(load)
    def _load(self: DetectionCheckpointer, path: str, *args: Any, **kwargs: Any) -> dict[str, Any]:
        try:
            return load(self, path, *args, **kwargs)
        except BaseException:
            self._parsed_url_during_load = None  # or every later load of this object fails an assertion
            raise

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
        if CARD_IN_PICKLE in checkpoint:
            _refuse_queries(self._parsed_url_during_load)
            return _fill_trunks(self, checkpoint, load_model)
        _hold_against_training(self.model, checkpoint)
        return load_model(self, checkpoint)

    DetectionCheckpointer.load = _load
    DetectionCheckpointer._load_file, DetectionCheckpointer._load_model = _load_file, _load_model
    DetectionCheckpointer._scaleprior = True  # pyright: ignore[reportAttributeAccessIssue] (a mark of ours)


def _refuse_queries(address: ParseResult | None) -> None:
    """Detectron2 reads one query behind a file's name, which asks for what is always done with a card.

    Raises:
        UserError: any other.
    """
    others = sorted(set(parse_qs(address.query, keep_blank_values=True)) - {"matching_heuristics"}) if address else []
    if address and others:
        raise UserError(
            f"MODEL.WEIGHTS {address.geturl()} has the query {', '.join(others)}, which means nothing to Detectron2",
            hint=f"give {address._replace(query='').geturl()}",
        )


def _fill_trunks(checkpointer: DetectionCheckpointer, checkpoint: dict[str, Any], load_model: Any) -> Any:
    """Load a backbone with a card; returns what Detectron2's ``load_model`` found that does not fit.

    Raises:
        UserError: the model contradicts the card, or a trunk in it is not filled; see :func:`contract_mode`.
    """
    model, companions = checkpointer.model, list(checkpointer.checkpointables.values())
    card = Card.from_json(checkpoint[CARD_IN_PICKLE], source="the card in MODEL.WEIGHTS")
    tensors = checkpoint.pop("model")  # as Detectron2 does: what is left is what load() returns
    checkpointer._convert_ndarray_to_tensor(tensors)
    strict = is_strict(model)
    match = match_trunk(model, tensors, card, strict=strict)
    require_contract(model, card, match.places, companions, strict=strict)
    warn_of_assumed(card, logger)
    state = {name: tensors[source] for name, source in match.filled.items()}
    # Detectron2 takes this off once, where all begin with it, for files of DDP's; here the model is an average.
    if all(name.startswith("module.") for name in state):
        state = {f"module.{name}": tensor for name, tensor in state.items()}
    incompatible = load_model(checkpointer, {"model": state})
    assert not set(match.filled) & set(incompatible.missing_keys)
    for said in match.left:
        logger.warning("backbone %s does not fit completely: %s", card.name, said)
    fresh = [name for name in incompatible.missing_keys if not name.endswith(COUNTER)]
    count = f"{len(set(match.filled.values()))} of its {len(tensors)} tensors fill the trunk"
    if len(match.places) > 1:
        count = f"{count}s {', '.join(place.path for place in match.places)}"
    # Who evaluates loads a model and nothing else; who trains, its optimiser or its trainer beside it. The former has
    # to hear that heads are new; to the latter it is what a backbone is for.
    level = logging.INFO if companions or not fresh else logging.WARNING
    new = f"; new, untrained: {fresh_groups(fresh, match.places)}" if fresh else ""
    logger.log(level, "backbone %s: %s%s", card.name, count, new)
    incompatible.missing_keys.clear()  # said, by groups: Detectron2's warning would list them all
    return incompatible


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


class _Complete(DetectionCheckpointer):
    """Loads a whole detector, and refuses one that leaves a tensor of the model as it was."""

    def _load_model(self, checkpoint: dict[str, Any]) -> Any:
        if CARD_IN_PICKLE in checkpoint:
            raise UserError("these weights are a backbone, not a trained detector", hint="fine-tune it first")
        incompatible = super()._load_model(checkpoint)
        other = {name: f"{name} {theirs} for {ours}" for name, theirs, ours in incompatible.incorrect_shapes}
        # Detectron2 counts a tensor of another shape as missing, too.
        missing = [n for n in incompatible.missing_keys if n not in other and not n.endswith(COUNTER)]
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
