"""What evaluating a detector on one data set found."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from scaleprior.ap_names import AP_NAMES
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.errors import UserError
from scaleprior.files import is_number

__all__ = ["ClassAP", "DetectionResult", "results_to_dict"]

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")  # an id that was a number before it was a key of JSON
# JSON -> attribute
_OPTIONAL = {
    "segm": "masks",
    "images": "images",
    "detections": "detections",
    "seconds": "seconds",
    "metrics": "metrics",
}
_AUGMENTED = "TTA"


@dataclass(frozen=True)
class ClassAP:
    """COCO AP of one class, in [0, 100]; None where there is no object of it. Two classes may have one name."""

    name: str
    ap: float | None


@dataclass(frozen=True)
class DetectionResult:
    """Box AP on one set, in [0, 100]: COCO's, or on a set of another kind (VOC, LVIS) what goes by that name there.

    Attributes:
        ap, ap50, ap75: over IoU 0.50:0.95, at 0.50 and at 0.75. They exist wherever there is an object to find; nan
            where something else than boxes was evaluated (``has_boxes`` is False then).
        ap_small, ap_medium, ap_large: for objects below 32^2, below 96^2 and from 96^2 pixels; None where none is, and
            where the evaluation does not tell sizes apart.
        per_class: by the data's category ids, in their order. (By name, as read from what an earlier version wrote.)
        masks: the same numbers of masks, by COCO's names, where the detector has them.
        images: number of them; None where the engine does not say, as with the next two.
        detections: number of them.
        seconds: wall time of predicting and evaluating.
        metrics: all that the engine's evaluation gave, under its own names: task ("bbox", "segm", "sem_seg", ...) ->
            name -> number, None where that is undefined. None where the numbers above are all.
        augmented: the same set with test-time augmentation; None where the config asks for none.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float | None
    ap_medium: float | None
    ap_large: float | None
    per_class: Mapping[CocoId, ClassAP]
    masks: Mapping[str, float | None] | None = None
    images: int | None = None
    detections: int | None = None
    seconds: float | None = None
    metrics: Mapping[str, Mapping[str, float | None]] | None = None
    augmented: DetectionResult | None = None

    @classmethod
    def without_boxes(cls, *, metrics: Mapping[str, Mapping[str, float | None]]) -> DetectionResult:
        """The result of a set on which no box AP was measured."""
        return cls(math.nan, math.nan, math.nan, None, None, None, per_class={}, metrics=metrics)

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box AP."""
        return not math.isnan(self.ap)

    def named(self) -> dict[str, float | None]:
        """The six numbers by column name, in COCO's order; {} without boxes."""
        return {name: getattr(self, name) for name in AP_NAMES} if self.has_boxes else {}

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``results.json``: AP, AP50, AP75, APs, APm, APl, per_class, and what else is known."""
        words: dict[str, Any] = {AP_NAMES[name]: value for name, value in self.named().items()}
        if self.has_boxes:
            words["per_class"] = {str(number): {"name": c.name, "ap": c.ap} for number, c in self.per_class.items()}
        known = {word: getattr(self, name) for word, name in _OPTIONAL.items()}
        if self.augmented is not None:
            known[_AUGMENTED] = self.augmented.to_dict()
        return {**words, **{word: value for word, value in known.items() if value is not None}}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "result") -> DetectionResult:
        """Read what :meth:`to_dict` wrote; other keys are left aside.

        Raises:
            UserError: a number is missing or is none, or ``raw`` is no mapping; names ``where`` and the key.
        """
        if not isinstance(raw, Mapping):
            raise UserError(f"{where}: the detection is {raw!r}", hint="evaluate again")
        metrics = {} if raw.get("metrics") is None else raw["metrics"]
        if not isinstance(metrics, Mapping):
            raise UserError(f"{where}: metrics is {metrics!r}", hint="evaluate again")
        for task, figures in metrics.items():
            _check_figures(figures, f"{where}: metrics of {task}")
        for word in ("images", "detections", "seconds"):
            _check_figures({word: raw.get(word)}, where)
        _check_figures({} if raw.get("segm") is None else raw["segm"], f"{where}: segm")
        known = {name: raw[word] for word, name in _OPTIONAL.items() if word in raw}
        if raw.get(_AUGMENTED) is not None:
            known["augmented"] = cls.from_dict(raw[_AUGMENTED], where=f"{where}: {_AUGMENTED}")
        if metrics and not any(word in raw for word in AP_NAMES.values()):
            return replace(cls.without_boxes(metrics=metrics), **known)
        for name, word in AP_NAMES.items():
            value = raw.get(word, ...)
            if not (is_number(value) or (value is None and name not in ("ap", "ap50", "ap75"))):
                raise UserError(
                    f"{where}: {word} is {'missing' if value is ... else repr(value)}", hint="evaluate again"
                )
        per_class = _read_classes(raw.get("per_class", {}), f"{where}: per_class")
        return cls(**{name: raw[word] for name, word in AP_NAMES.items()}, per_class=per_class, **known)


def _read_classes(raw: Any, where: str) -> dict[CocoId, ClassAP]:
    """What ``per_class`` says: {id: {"name", "ap"}}, or {name: AP} of an earlier version."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}", hint="evaluate again")
    classes: dict[CocoId, ClassAP] = {}
    for key, said in raw.items():
        if not isinstance(said, Mapping):
            _check_figures({key: said}, where)
            classes[key] = ClassAP(key, said)
            continue
        name, ap = said.get("name"), said.get("ap")
        _check_figures({key: ap}, where)
        if not isinstance(name, str):
            raise UserError(f"{where}: the name of {key} is {name!r}", hint="evaluate again")
        classes[int(key) if _WHOLE.fullmatch(key) else key] = ClassAP(name, ap)
    return classes


def _check_figures(raw: Any, where: str) -> None:
    """Raises UserError for what is no mapping of names to numbers or None."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}", hint="evaluate again")
    for name, value in raw.items():
        if value is not None and not is_number(value):
            raise UserError(f"{where}: {name} is {value!r}", hint="evaluate again")


def results_to_dict(results: Mapping[str, DetectionResult]) -> dict[str, Any]:
    """What ``Engine.evaluate`` returned, as ``results.json`` and ``--json`` say it: flat for one set, by name for more.

    Every number has COCO's name, as in :meth:`DetectionResult.to_dict`, and its column's: ``AP`` and ``ap``. Scripts
    read the flat form; this is the one place that makes it.
    """
    words = {name: {**result.to_dict(), **result.named()} for name, result in results.items()}
    return next(iter(words.values())) if len(words) == 1 else words
