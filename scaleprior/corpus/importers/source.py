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
        kind: "folders", "tars", "files", "webdataset", "class tars", "tar of tars", "class folders in tars" or
            "huggingface".
        root: folder that the rows' shards and paths are relative to.
        label_space: what the labels mean.
        rows: starts a fresh stream of rows. Of a source that must be unpacked, an error that says so.
        total: rows to come, 0 when unknown.
        facts: what to record about the source beside its kind.
        doubts: what may not be meant as it would be read; found before any row is made.
        unpack: for images that cannot be read where they are: writes them into a folder, streams rows relative to it.
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
    unpack: Callable[[Path], Iterator[ImageRow]] | None = None
