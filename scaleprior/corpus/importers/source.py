"""What an importer hands to the index builder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.label_space import LabelSpace
from scaleprior.corpus.notes import Notes

if TYPE_CHECKING:
    from scaleprior.corpus.index import ImageRow

__all__ = ["Source"]


@dataclass(frozen=True)
class Source:
    """Images with labels, ready to stream.

    Attributes:
        kind: "folders", "tars" or "files".
        root: folder that the rows' shards and paths are relative to.
        label_space: what the labels mean.
        rows: starts a fresh stream of rows.
        total: rows to come, 0 when unknown.
        facts: what to record about the source beside its kind.
        doubts: what may not be meant as it would be read; found before any row is made.
        notes: what a stream of rows met beside the images; complete when it has ended.
    """

    kind: str
    root: Path
    label_space: LabelSpace
    rows: Callable[[], Iterator[ImageRow]]
    total: int = 0
    facts: dict[str, str] = field(default_factory=dict)
    doubts: tuple[Doubt, ...] = ()
    notes: Notes = field(default_factory=Notes)
