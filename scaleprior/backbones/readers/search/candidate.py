"""What a search in a file ends with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from scaleprior.backbones.trunks.family import TrunkFamily
from scaleprior.backbones.trunks.layout import Layout

__all__ = ["Candidate"]


@dataclass
class Candidate:
    """A trunk as it stands in a file.

    Attributes:
        family, layout: whose names they are.
        tensors: the layout's names -> arrays or tensors over the file; whoever renames them empties it.
        left_out: reason -> names in the file of what is no part of it.
        place: where it stands, "module.encoder_q. in state_dict"; "" where nothing stands in front of its names.
        tree: the top of the file's tree, for an error.
        notes: what a reader should hear, in sentences.
    """

    family: TrunkFamily
    layout: Layout
    tensors: dict[str, Any]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    place: str = ""
    tree: str = ""
    notes: list[str] = field(default_factory=list)
