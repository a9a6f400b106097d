"""Words for whoever starts from weights whose facts nobody stated."""

from __future__ import annotations

import logging

from scaleprior.backbones.card import Card

__all__ = ["assumed_words", "warn_of_assumed"]


def assumed_words(card: Card) -> str:
    """Which facts of the card are assumed, and from where; "" if none is."""
    if not card.assumed:
        return ""
    values = {name: getattr(card, name) for name in card.assumed}
    said = ", ".join(f"{name} {_short(value)}" for name, value in values.items())
    wheres = "; ".join(dict.fromkeys(card.facts[name].where for name in card.assumed))
    return f"assumed, not known, of backbone {card.name}: {said} ({wheres}); a wrong value costs AP in silence"


def warn_of_assumed(card: Card, logger: logging.Logger) -> None:
    """One line of a log at the start of whatever trains from these weights; none if all of their facts are known."""
    if card.assumed:
        logger.warning("%s", assumed_words(card))


def _short(value: object) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{number:g}" for number in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)
