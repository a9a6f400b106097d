"""What a pretraining run measured; torch-free, so that who only reads results needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import is_number

__all__ = ["LabelMetrics", "PretrainMetrics"]


@dataclass(frozen=True)
class LabelMetrics:
    """Figures of a multi-label classifier on a set of images.

    Attributes:
        images: number of them that could be read.
        map_labels: labels that some, but not all, of them have; those that an average precision can be had of. Where
            absent labels are recorded: that are known to be present in some and absent in others.
        map: mean average precision over these labels, in [0, 1]; None where there is none.
        precision_at_1: share, in [0, 1], of the images with a leaf label whose best-scored leaf is present; None where
            no image has one. Where absent labels are recorded: of the images with known leaves of both kinds, the best
            of the known.
        unreadable: images that could not be read.
        known: share, in [0, 1], of all pairs of image and label that are known; the others are left out of every
            figure. None: no absent labels are recorded, and what is not listed counts as absent.
    """

    images: int
    map_labels: int
    map: float | None = None
    precision_at_1: float | None = None
    unreadable: int = 0
    known: float | None = None

    def to_dict(self) -> dict[str, float | int]:
        """By name, as ``result.json`` says it; a figure over nothing is left out, and so is ``unreadable`` at 0."""
        figures = {name: value for name, value in asdict(self).items() if value is not None}
        return figures if self.unreadable else {k: v for k, v in figures.items() if k != "unreadable"}


@dataclass(frozen=True)
class PretrainMetrics:
    """The numbers of a finished run, over all processes and resumes.

    Attributes:
        loss: of the last step.
        steps: optimizer steps taken.
        images_seen: images trained on, once for every time.
        epochs: passes over the fraction.
        unreadable: images that could not be read, once for every time.
        seconds: of training.
        images_per_s: images trained on a second.
        held_out: figures on the held-out images; None where nothing is held out.
    """

    loss: float
    steps: int
    images_seen: int
    epochs: float
    unreadable: int
    seconds: float
    images_per_s: float
    held_out: LabelMetrics | None = None

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``result.json`` and ``--json``."""
        words = asdict(self)
        del words["held_out"]
        return words if self.held_out is None else {**words, "held_out": self.held_out.to_dict()}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "result") -> PretrainMetrics:
        """Read what :meth:`to_dict` wrote.

        Raises:
            UserError: a number is missing, unknown or none, or ``raw`` is no mapping; names ``where`` and the key.
        """
        figures = {name: value for name, value in _mapping(raw, "metrics", where).items() if name != "held_out"}
        held_out = _mapping({} if raw.get("held_out") is None else raw["held_out"], "held_out", where)
        for name, value in (*figures.items(), *held_out.items()):
            if not is_number(value):
                raise UserError(f"{where} is damaged: {name} is {value!r}", hint="remove it and run again")
        try:
            return cls(**figures, held_out=LabelMetrics(**held_out) if held_out else None)
        except TypeError as e:
            raise UserError(f"{where} is damaged: {e}", hint="remove it and run again") from e


def _mapping(raw: Any, what: str, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is damaged: {what} is {raw!r}", hint="remove it and run again")
    return raw
