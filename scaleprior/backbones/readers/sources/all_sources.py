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
from scaleprior.backbones.readers.sources.openmmlab import openmmlab_facts
from scaleprior.backbones.readers.sources.timm_args import ARGS, timm_args, timm_args_facts
from scaleprior.backbones.readers.sources.timm_configs import folder_facts, timm_facts
from scaleprior.backbones.readers.sources.values import json_beside
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.zoo.identify import identified

__all__ = ["known_facts"]


def known_facts(content: Content, path: Path, options: ReadOptions, carried: Card | None) -> list[KnownFacts]:
    """Everything that travels with the tensors or that the user names, best first.

    Raises:
        UserError: what travels with them cannot be, or describes a network with the names of another.
    """
    tree, known = content.tree, []
    if carried is not None:
        known.append(
            KnownFacts("the card in the file", carried.pixel_mean, carried.pixel_std, carried.channel_order,
                  carried.stride_in_1x1, norm_eps=carried.norm_eps)
        )  # fmt: skip
    if options.timm_model is not None:
        from scaleprior.backbones.readers.timm_names import published

        words = f"timm's {options.timm_model}"
        known += [timm_facts(published(options.timm_model), words), *_of_network(options.timm_model, words)]
    known += [found for found in (detector_facts(content.metadata, str(path)), folder_facts(path)) if found is not None]
    config = json_beside(path, "config.json")
    if isinstance(config.get("pretrained_cfg"), dict):
        known += _of_network(config.get("architecture"), str(path.parent / "config.json"))
    known += timm_args_facts(tree)
    if (args := timm_args(tree)) is not None:
        known += _of_network(args["model"], f"timm's network of the model in the {ARGS}")
    known += [*openmmlab_facts(tree), *buffer_facts(tree), *hyper_parameter_facts(tree)]
    known += transformers_facts(path) + open_clip_facts(path)
    said = (options.pixel_mean, options.pixel_std, options.channel_order, options.stride_in_1x1)
    if carried is None and None in said and (publisher := identified(path)) is not None:
        known.append(publisher)
    return known


def _of_network(name: object, words: str) -> list[KnownFacts]:
    """What timm's network of that name itself says: the eps of its norms."""
    eps = timm_norm_eps(name) if isinstance(name, str) else None
    return [] if eps is None else [KnownFacts(words, norm_eps=eps)]
