"""The sections of a study spec, read and checked; ``reading.py`` makes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

__all__ = [
    "WORLD_NUMBERS",
    "ArmSection",
    "BackboneSection",
    "CocoSet",
    "CorpusSection",
    "DetectionSection",
    "ExecutorChoice",
    "StageSection",
]

WORLD_NUMBERS = ("seed", "images", "image_size")
"""Of ``corpus.world``: how much of a world is drawn, and from which seed; all else are fields of ``WorldSpec``."""


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
    """The detection set: from the corpus's own synthetic world (counts, canvas, masks), or two COCO-format sets."""

    world: Mapping[str, int] | None
    train: CocoSet | None
    val: CocoSet | None


@dataclass(frozen=True)
class StageSection:
    """A config file and ``KEY VALUE ...`` overrides for one stage.

    Attributes:
        pieces: files laid over ``config`` in their order, below ``overrides``.
    """

    config: str
    overrides: tuple[str, ...]
    pieces: tuple[str, ...] = ()


@dataclass(frozen=True)
class ArmSection:
    """One way to fine-tune, beside the others of the study.

    Attributes:
        pieces: files laid over the config of fine-tuning, in their order.
        overrides: ``KEY VALUE ...``, over all else that the spec says.
        only: ``scratch`` or ``pretrained``, the cells that it has; "" for both.
        architectures: those that it has; None for all.
    """

    pieces: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    only: Literal["", "scratch", "pretrained"] = ""
    architectures: tuple[str, ...] | None = None

    def takes(self, arch: str, images: int) -> bool:
        """Whether it has the cells of this architecture from so many pretraining images (0: from scratch)."""
        kind = "pretrained" if images else "scratch"
        return self.only in ("", kind) and (self.architectures is None or arch in self.architectures)


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
