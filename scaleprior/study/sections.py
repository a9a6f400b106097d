"""The sections of a study spec, read and checked; ``reading.py`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["BackboneSection", "CocoSet", "CorpusSection", "DetectionSection", "ExecutorChoice", "StageSection"]


@dataclass(frozen=True)
class CorpusSection:
    """Where the pretraining images come from: exactly one of ``world``, ``source`` and ``index``.

    Attributes:
        world: parameters of the synthetic world (``images``, ``image_size``, ``seed`` and the world's own).
        source: a folder of class folders, or of tar files with a CSV of labels.
        index: an index folder that ``scaleprior corpus build`` made.
        build: for ``source``: labels, label_column, hierarchy, separator, ..., as ``Corpus.build`` takes them.
    """

    world: Mapping[str, Any] | None
    source: Path | None
    index: Path | None
    build: Mapping[str, Any]


@dataclass(frozen=True)
class CocoSet:
    """One COCO-format JSON and its images: a folder, a tar, or a pattern that names several tars."""

    json: Path
    images: str


@dataclass(frozen=True)
class DetectionSection:
    """The detection set: from the corpus's own synthetic world (counts and canvas), or two COCO-format sets."""

    world: Mapping[str, int] | None
    train: CocoSet | None
    val: CocoSet | None


@dataclass(frozen=True)
class StageSection:
    """A config file and ``KEY VALUE ...`` overrides for one stage."""

    config: str
    overrides: tuple[str, ...]


@dataclass(frozen=True)
class BackboneSection:
    """A backbone that exists already.

    Attributes:
        weights: a canonical file or a foreign one, ``scaleprior://NAME`` or ``timm:NAME``.
        images: pretraining images; None takes the card's.
        supervision: what told right from wrong; None takes the catalogue's.
    """

    weights: str
    images: int | None = None
    supervision: str | None = None


@dataclass(frozen=True)
class ExecutorChoice:
    """Which executor runs the cells.

    Attributes:
        options: of that executor alone.
    """

    name: str = "local"
    options: Mapping[str, Any] = field(default_factory=dict)
