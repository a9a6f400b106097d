"""What reading a backbone gives: its tensors, its card, and what became of everything else in the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.draft import Draft
from scaleprior.backbones.trunks.published import FACT_KINDS, Origin

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

__all__ = ["Found", "Inspection", "Reading", "Report", "some"]

_SAID = {
    "user": "from the user",
    "file": "from the file",
    "publisher": "from its publisher",
    "assumed": "ASSUMED",
}


@dataclass
class Report:
    """What became of every tensor of a file.

    Attributes:
        kind, layout: of the file and of its names.
        place: where the trunk's names stand, "module.encoder_q. in state_dict"; "" = nothing is in front of them.
        matched: canonical names that were filled.
        missing: canonical names that the file lacks (filled with fresh weights if that was allowed).
        unexpected: the file's names that have no place.
        misshaped: "name: its shape instead of the expected one".
        dropped: reason -> the file's names left out on purpose (classifier, head, projector, counter,
            optimiser, detector, another trunk, beside the trunk, ...).
        facts: fact -> who says it, and where.
        notes: what a reader should hear, in sentences.
    """

    kind: str
    layout: str
    place: str = ""
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    misshaped: list[str] = field(default_factory=list)
    dropped: dict[str, list[str]] = field(default_factory=dict)
    facts: dict[str, Origin] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; matched names as a count, since they are the whole architecture."""
        facts = {name: origin.to_dict() for name, origin in self.facts.items()}
        return {**self.__dict__, "matched": len(self.matched), "facts": facts}

    def lines(self) -> list[str]:
        """For people."""
        place = f" of {self.place}" if self.place else ""
        text = [f"read as {self.layout}{place}, {self.kind} file: {len(self.matched)} tensors matched"]
        for reason, names in self.dropped.items():
            text.append(f"left out, {reason}: {len(names)} ({some(names)})")
        for label in ("missing", "unexpected", "misshaped"):
            names = getattr(self, label)
            text.append(f"{label}: {len(names)}{f' ({some(names)})' if names else ''}")
        origins: dict[Origin, list[str]] = {}
        for name, origin in self.facts.items():
            origins.setdefault(origin, []).append(name)
        best_first = sorted(origins, key=lambda origin: FACT_KINDS.index(origin.kind))
        text += [f"{', '.join(origins[origin])}: {_SAID[origin.kind]}, {origin.where}" for origin in best_first]
        return text + self.notes


@dataclass(frozen=True)
class Reading:
    """A backbone in memory: canonical tensors (float32, CPU), card, report."""

    tensors: dict[str, Tensor]
    card: Card
    report: Report


@dataclass(frozen=True)
class Inspection:
    """What :class:`Reading` has of a file some of whose facts may be unknown: enough to look at it, not to use it."""

    tensors: dict[str, Tensor]
    draft: Draft
    report: Report


@dataclass(frozen=True)
class Found:
    """A backbone in a file: views whose numbers nobody has looked at yet (tensors, if the file is one of ours)."""

    path: Path
    tensors: Mapping[str, np.ndarray | Tensor]
    draft: Draft
    report: Report

    @property
    def card(self) -> Card:
        """Raises UnknownFactsError: a fact that a detector needs is unknown."""
        return self.draft.card()


def some(names: Sequence[str]) -> str:
    """The first of them, for messages."""
    return f"{', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
