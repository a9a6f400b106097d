"""What a file says of itself: a card whose facts may not all be known yet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from scaleprior.backbones.card import UNKNOWN, Card
from scaleprior.backbones.readers.facts import UnknownFactsError

__all__ = ["Draft"]

_PLACES: dict[str, Any] = {"pixel_mean": (0, 0, 0), "pixel_std": (1, 1, 1), "channel_order": "RGB"}
"""What stands where :meth:`Draft.to_dict` says "unknown", so that a card checks the rest; no reader sees it."""


@dataclass(frozen=True)
class Draft:
    """A card in the making.

    Attributes:
        fields: of the card, without what is missing.
        missing: facts that a detector needs and nobody says.
        where: the file.
    """

    fields: Mapping[str, Any]
    missing: tuple[str, ...]
    where: str

    @classmethod
    def of(cls, card: Card, where: str) -> Draft:
        """Of a card that is whole, as all are."""
        return cls({f.name: getattr(card, f.name) for f in fields(card) if f.name != "schema"}, (), where)

    def card(self) -> Card:
        """Raises UnknownFactsError: something is missing."""
        if self.missing:
            raise UnknownFactsError(self.missing, self.where)
        return Card(**self.fields)

    def to_dict(self) -> dict[str, Any]:
        """As ``Card.to_dict``; what is missing is "unknown"."""
        places = {name: value for name, value in _PLACES.items() if name in self.missing}
        value = Card(**{**places, **self.fields}).to_dict()
        value |= dict.fromkeys(self.missing, UNKNOWN)
        if "stride_in_1x1" in self.missing:
            value["arch"] = {**value["arch"], "stride_in_1x1": UNKNOWN}
        return value
