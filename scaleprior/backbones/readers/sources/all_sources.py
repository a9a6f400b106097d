"""Every place that is asked for facts, best first."""

from __future__ import annotations

from pathlib import Path

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.sources.architecture import timm_norm_eps
from scaleprior.backbones.readers.sources.buffers import buffer_facts, hyper_parameter_facts
from scaleprior.backbones.readers.sources.detectors import detector_facts
from scaleprior.backbones.readers.sources.hugging_face import open_clip_facts, transformers_facts
from scaleprior.backbones.readers.sources.modules import module_facts
from scaleprior.backbones.readers.sources.openmmlab import openmmlab_facts
from scaleprior.backbones.readers.sources.timm_args import ARGS, timm_args, timm_args_facts
from scaleprior.backbones.readers.sources.timm_configs import folder_facts
from scaleprior.backbones.readers.sources.timm_models import model_facts
from scaleprior.backbones.readers.sources.values import json_beside
from scaleprior.backbones.trunks.published import CARD_FACTS, KnownFacts, Origin

__all__ = ["IN_CARD", "known_facts"]

IN_CARD = Origin("file", "the card in the file")
"""Of facts in a card from before cards said where theirs come from."""


def known_facts(content: Content, path: Path, options: ReadOptions, carried: Card | None) -> list[KnownFacts]:
    """Everything that travels with the tensors or that the user names; of each kind, best first.

    Raises:
        UserError: what travels with them cannot be, or describes a network with the names of another.
    """
    tree, known = content.tree, [] if carried is None else _carried_facts(carried)
    if options.timm_model is not None:
        known.append(model_facts(options.timm_model, f"timm's {options.timm_model}", "user"))
    known += [found for found in (detector_facts(content.metadata, str(path)), folder_facts(path)) if found is not None]
    config = json_beside(path, "config.json")
    if isinstance(config.get("pretrained_cfg"), dict):
        known += _of_network(config.get("architecture"), str(path.parent / "config.json"))
    known += timm_args_facts(tree)
    if (args := timm_args(tree)) is not None and args["bn_eps"] is None:
        known += _of_network(args["model"], f"timm's network of the model in the {ARGS}")
    known += [*module_facts(tree), *openmmlab_facts(tree), *buffer_facts(tree), *hyper_parameter_facts(tree)]
    known += transformers_facts(path) + open_clip_facts(path)
    return known


def _carried_facts(card: Card) -> list[KnownFacts]:
    """Facts of a card that travelled with the tensors, each from whoever the card says it is from."""
    facts = {name: getattr(card, name) for name in CARD_FACTS if name != "norm"}
    origins = {name: card.facts.get(name, IN_CARD) for name in facts}
    return [KnownFacts(origins[name].where, kind=origins[name].kind, **{name: value}) for name, value in facts.items()]


def _of_network(name: object, words: str) -> list[KnownFacts]:
    """What timm's network of that name itself says: the eps of its norms."""
    eps = timm_norm_eps(name) if isinstance(name, str) else None
    return [] if eps is None else [KnownFacts(words, norm_eps=eps)]
