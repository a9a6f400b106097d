"""Every place that is asked for facts, best first."""

from __future__ import annotations

from pathlib import Path

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.sources.detectors import detector_facts
from scaleprior.backbones.readers.sources.timm_configs import folder_facts, timm_facts
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.zoo.identify import identified

__all__ = ["known_facts"]


def known_facts(content: Content, path: Path, options: ReadOptions, carried: Card | None) -> list[KnownFacts]:
    """Everything that travels with the tensors or that the user names, best first."""
    known = []
    if carried is not None:
        known.append(
            KnownFacts("the card in the file", carried.pixel_mean, carried.pixel_std, carried.channel_order,
                  carried.stride_in_1x1)
        )  # fmt: skip
    if options.timm_model is not None:
        from scaleprior.backbones.readers.timm_names import published

        known.append(timm_facts(published(options.timm_model), f"timm's {options.timm_model}"))
    for found in (detector_facts(content.metadata, str(path)), folder_facts(path)):
        if found is not None:
            known.append(found)
    said = (options.pixel_mean, options.pixel_std, options.channel_order, options.stride_in_1x1)
    if carried is None and None in said and (publisher := identified(path)) is not None:
        known.append(publisher)
    return known
