"""What a pretraining run measured; torch-free, so that who only reads results needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import is_number

__all__ = ["LabelMetrics", "Measured", "PretrainMetrics", "ProbeMetrics"]


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
class ProbeMetrics:
    """How much simple classifiers read from the features of the trunk, on images of a labelled set that they never saw.

    Attributes:
        images: that they learned from. val_images: that they are judged on.
        labels: that can be judged.
        knn_accuracy, linear_accuracy: shares, in [0, 1], of the images that get their label, of a set whose images have
            one label each.
        knn_map, linear_map: mean average precision over the labels, in [0, 1], of any other set.
        linear_l2: strength of the linear probe's penalty, which a part of ``images`` chose.
        unreadable: images that could not be read.
    """

    images: int
    val_images: int
    labels: int
    knn_accuracy: float | None = None
    knn_map: float | None = None
    linear_accuracy: float | None = None
    linear_map: float | None = None
    linear_l2: float | None = None
    unreadable: int = 0

    def to_dict(self) -> dict[str, float | int]:
        """By name; what was not asked for is left out, and so is ``unreadable`` at 0."""
        return {k: v for k, v in asdict(self).items() if v is not None and (v or k != "unreadable")}


@dataclass(frozen=True)
class Measured:
    """Figures of a model as it is.

    Attributes:
        held_out: on held-out images; None where there are none.
        probe: of its features; None where no set is given for it.
    """

    held_out: LabelMetrics | None = None
    probe: ProbeMetrics | None = None

    def to_dict(self) -> dict[str, float | int]:
        """By names like "held_out/map", under which figures go to files and boards."""
        groups = {"held_out": self.held_out, "probe": self.probe}
        return {
            f"{group}/{name}": value
            for group, figures in groups.items()
            if figures is not None
            for name, value in figures.to_dict().items()
        }


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
        probe: of simple classifiers on the trunk's features; None where no set is given for them.
        waited: share, in [0, 1], of ``seconds`` in which the steps waited for their images; None where a run of an
            earlier version did not look. Of several processes, in every step the one that waited longest counts. On a
            GPU it is the host's time: the device may have been busy meanwhile.
        slowest_rank: of several processes the one that waited longest in all; None of one.
    """

    loss: float
    steps: int
    images_seen: int
    epochs: float
    unreadable: int
    seconds: float
    images_per_s: float
    held_out: LabelMetrics | None = None
    probe: ProbeMetrics | None = None
    waited: float | None = None
    slowest_rank: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``result.json`` and ``--json``."""
        words = {name: value for name, value in asdict(self).items() if value is not None}
        groups = {"held_out": self.held_out, "probe": self.probe}
        return {**words, **{name: group.to_dict() for name, group in groups.items() if group is not None}}

    @property
    def measured(self) -> Measured:
        """The figures that the model was measured by at the end."""
        return Measured(self.held_out, self.probe)

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "result") -> PretrainMetrics:
        """Read what :meth:`to_dict` wrote.

        Raises:
            UserError: a number is missing, unknown or none, or ``raw`` is no mapping; names ``where`` and the key.
        """
        kinds = {"held_out": LabelMetrics, "probe": ProbeMetrics}
        figures = {name: value for name, value in _mapping(raw, "metrics", where).items() if name not in kinds}
        groups = {name: _mapping(raw.get(name) or {}, name, where) for name in kinds}
        for name, value in (pair for group in (figures, *groups.values()) for pair in group.items()):
            if not is_number(value):
                raise UserError(f"{where} is damaged: {name} is {value!r}", hint="remove it and run again")
        try:
            measured = {name: kinds[name](**group) for name, group in groups.items() if group}
            return cls(**figures, **measured)
        except TypeError as e:
            raise UserError(f"{where} is damaged: {e}", hint="remove it and run again") from e


def _mapping(raw: Any, what: str, where: str) -> Mapping[str, Any]:
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is damaged: {what} is {raw!r}", hint="remove it and run again")
    return raw
