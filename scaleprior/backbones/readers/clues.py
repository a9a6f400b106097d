"""What is known of a foreign file besides names and shapes, for a family to say which trunk it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.sources import stated_architectures, stated_norm
from scaleprior.backbones.readers.sources.openmmlab import openmmlab_facts
from scaleprior.backbones.trunks.family import Clues
from scaleprior.backbones.trunks.layout import Layout

__all__ = ["CARD_IN_PICKLE", "carried_card", "clues_of"]

CARD_IN_PICKLE = "scaleprior_card"
"""Key of the card's JSON in a ``.pkl`` exported here; Detectron2 passes over it."""


def carried_card(content: Content) -> Card | None:
    """The card in a ``.pkl`` that was exported here. Raises UserError: it is none."""
    beside = content.tree if content.kind == "pickle" and isinstance(content.tree, Mapping) else {}
    text = beside.get(CARD_IN_PICKLE)
    return Card.from_json(text, source=str(content.path)) if isinstance(text, str) else None


def clues_of(content: Content, options: ReadOptions) -> Callable[[Layout], Clues]:
    """The clues in a file, given the layout of its names."""
    carried = carried_card(content)
    norm = options.norm or stated_norm(stated_architectures(content.tree, content.path, options.timm_model))
    norm = norm or next((facts.norm for facts in openmmlab_facts(content.tree) if facts.norm), None)
    return lambda layout: Clues(str(content.path), layout, norm, options.depth, carried.arch if carried else None)
