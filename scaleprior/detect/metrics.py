"""What evaluating a detector on one data set found."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from scaleprior.ap_names import AP_NAMES, AR_NAMES
from scaleprior.detect.calibration import Calibration
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.errors import UserError
from scaleprior.files import is_number

__all__ = ["ClassAP", "DetectionResult", "results_to_dict"]

_WHOLE = re.compile(r"0|-?[1-9][0-9]*")  # an id that was a number before it was a key of JSON
_AUGMENTED = "TTA"


@dataclass(frozen=True)
class ClassAP:
    """COCO AP and AR of one class, in [0, 100]; None where there is no object of it, or none of that size.

    Two classes may have one name. An engine that measures AP alone leaves the others None.
    """

    name: str
    ap: float | None
    ap50: float | None = None
    ap75: float | None = None
    ap_small: float | None = None
    ap_medium: float | None = None
    ap_large: float | None = None
    ar100: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """By attribute; name and AP alone where the others are unknown or there is no object."""
        further = {name: getattr(self, name) for name in _FURTHER}
        known = any(value is not None for value in further.values())
        return {"name": self.name, "ap": self.ap, **(further if known else {})}


_FURTHER = tuple(field.name for field in fields(ClassAP) if field.name not in ("name", "ap"))


@dataclass(frozen=True)
class DetectionResult:
    """Box AP on one set, in [0, 100]: COCO's, or on a set of another kind (VOC, LVIS) what goes by that name there.

    Attributes:
        ap, ap50, ap75: over IoU 0.50:0.95, at 0.50 and at 0.75. They exist wherever there is an object to find; nan
            where something else than boxes was evaluated (``has_boxes`` is False then).
        ap_small, ap_medium, ap_large: for objects below 32^2, below 96^2 and from 96^2 pixels; None where none is, and
            where the evaluation does not tell sizes apart.
        per_class: by the data's category ids, in their order. (By name, as read from what an earlier version wrote.)
        masks, masks_per_class, masks_calibration: the same of masks, where the detector has them; ``masks`` holds AP
            and AR by COCO's names.
        images: number of them; None where the engine does not say, as with the next two.
        detections: number of them.
        seconds: wall time of predicting and evaluating.
        metrics: all that the engine's evaluation gave, under its own names: task ("bbox", "segm", "sem_seg", ...) ->
            name -> number, None where that is undefined. None where the numbers above are all.
        ar1, ar10, ar100: recall over IoU 0.50:0.95, with so many detections of a class in an image at most.
        ar_small, ar_medium, ar_large: of 100, by size.
        calibration: of the scores, by matches at IoU 0.5; None where the engine does not say or scores are outside
            [0, 1].
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
    ar1: float | None = None
    ar10: float | None = None
    ar100: float | None = None
    ar_small: float | None = None
    ar_medium: float | None = None
    ar_large: float | None = None
    calibration: Calibration | None = None
    masks_per_class: Mapping[CocoId, ClassAP] | None = None
    masks_calibration: Calibration | None = None

    @classmethod
    def without_boxes(cls, *, metrics: Mapping[str, Mapping[str, float | None]]) -> DetectionResult:
        """The result of a set on which no box AP was measured."""
        return cls(math.nan, math.nan, math.nan, None, None, None, per_class={}, metrics=metrics)

    @property
    def has_boxes(self) -> bool:
        """Whether there is a box AP."""
        return not math.isnan(self.ap)

    def named(self) -> dict[str, float | None]:
        """The six numbers of AP by column name, in COCO's order; {} without boxes."""
        return {name: getattr(self, name) for name in AP_NAMES} if self.has_boxes else {}

    def recalls(self) -> dict[str, float | None]:
        """The six numbers of AR by attribute, in COCO's order; {} where the engine does not say."""
        found = {name: getattr(self, name) for name in AR_NAMES}
        return found if any(value is not None for value in found.values()) else {}

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``results.json``: AP, AP50, ..., AR1, ..., per_class, and what else is known."""
        words: dict[str, Any] = {AP_NAMES[name]: value for name, value in self.named().items()}
        words |= {AR_NAMES[name]: value for name, value in self.recalls().items()}
        if self.has_boxes:
            words["per_class"] = _classes_to_dict(self.per_class)
        known = {word: (getattr(self, part.attribute), part) for word, part in _PARTS.items()}
        words |= {word: part.write(value) for word, (value, part) in known.items() if value is not None}
        if self.augmented is not None:
            words[_AUGMENTED] = self.augmented.to_dict()
        return words

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "result") -> DetectionResult:
        """Read what :meth:`to_dict` wrote; other keys are left aside.

        Raises:
            UserError: a number is missing or is none, or ``raw`` is no mapping; names ``where`` and the key.
        """
        if not isinstance(raw, Mapping):
            raise UserError(f"{where}: the detection is {raw!r}", hint="evaluate again")
        given = {word: raw[word] for word in _PARTS if raw.get(word) is not None}
        known = {_PARTS[word].attribute: _PARTS[word].read(value, f"{where}: {word}") for word, value in given.items()}
        recalls = {word: raw.get(word) for word in AR_NAMES.values()}
        known |= {name: _number(recalls[word], f"{where}: {word}") for name, word in AR_NAMES.items()}
        if raw.get(_AUGMENTED) is not None:
            known["augmented"] = cls.from_dict(raw[_AUGMENTED], where=f"{where}: {_AUGMENTED}")
        if known.get("metrics") and not any(word in raw for word in AP_NAMES.values()):
            return replace(cls.without_boxes(metrics={}), **known)
        for name, word in AP_NAMES.items():
            value = raw.get(word, ...)
            if not (is_number(value) or (value is None and name not in ("ap", "ap50", "ap75"))):
                raise UserError(
                    f"{where}: {word} is {'missing' if value is ... else repr(value)}", hint="evaluate again"
                )
        per_class = _read_classes(raw.get("per_class", {}), f"{where}: per_class")
        return cls(**{name: raw[word] for name, word in AP_NAMES.items()}, per_class=per_class, **known)


def _read_classes(raw: Any, where: str) -> dict[CocoId, ClassAP]:
    """What ``per_class`` says: {id: {"name", "ap", ...}}, or {name: AP} of an earlier version."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}", hint="evaluate again")
    classes: dict[CocoId, ClassAP] = {}
    for key, said in raw.items():
        if not isinstance(said, Mapping):
            _figures({key: said}, where)
            classes[key] = ClassAP(key, said)
            continue
        name, ap = said.get("name"), said.get("ap")
        further = {figure: said.get(figure) for figure in _FURTHER}
        _figures({key: ap}, where)
        _figures(further, f"{where}: {key}")
        if not isinstance(name, str):
            raise UserError(f"{where}: the name of {key} is {name!r}", hint="evaluate again")
        classes[int(key) if _WHOLE.fullmatch(key) else key] = ClassAP(name, ap, **further)
    return classes


def _classes_to_dict(classes: Mapping[CocoId, ClassAP]) -> dict[str, dict[str, Any]]:
    return {str(number): each.to_dict() for number, each in classes.items()}


def _number(value: Any, where: str) -> Any:
    """``value`` itself; raises UserError for what is neither a number nor None."""
    if value is not None and not is_number(value):
        raise UserError(f"{where} is {value!r}", hint="evaluate again")
    return value


def _figures(raw: Any, where: str) -> Mapping[str, float | None]:
    """``raw`` itself; raises UserError for what is no mapping of names to numbers or None."""
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}", hint="evaluate again")
    for name, value in raw.items():
        _number(value, f"{where}: {name}")
    return raw


def _tasks(raw: Any, where: str) -> Mapping[str, Mapping[str, float | None]]:
    if not isinstance(raw, Mapping):
        raise UserError(f"{where} is {raw!r}", hint="evaluate again")
    for task, figures in raw.items():
        _figures(figures, f"{where} of {task}")
    return raw


@dataclass(frozen=True)
class _Part:
    """An attribute that not every result has, and how it stands in JSON.

    Attributes:
        write: its value -> JSON.
        read: JSON, and where it stands -> the value; raises UserError.
    """

    attribute: str
    write: Callable[[Any], Any]
    read: Callable[[Any, str], Any]


def _as_it_is(value: Any) -> Any:
    return value


_PARTS = {
    "segm": _Part("masks", _as_it_is, _figures),
    "segm_per_class": _Part("masks_per_class", _classes_to_dict, _read_classes),
    "calibration": _Part("calibration", Calibration.to_dict, Calibration.from_dict),
    "segm_calibration": _Part("masks_calibration", Calibration.to_dict, Calibration.from_dict),
    "images": _Part("images", _as_it_is, _number),
    "detections": _Part("detections", _as_it_is, _number),
    "seconds": _Part("seconds", _as_it_is, _number),
    "metrics": _Part("metrics", _as_it_is, _tasks),
}


def results_to_dict(results: Mapping[str, DetectionResult]) -> dict[str, Any]:
    """What ``Engine.evaluate`` returned, as ``results.json`` and ``--json`` say it: flat for one set, by name for more.

    Every number has COCO's name, as in :meth:`DetectionResult.to_dict`, and its column's: ``AP`` and ``ap``. Scripts
    read the flat form; this is the one place that makes it.
    """
    words = {name: {**result.to_dict(), **result.named(), **result.recalls()} for name, result in results.items()}
    return next(iter(words.values())) if len(words) == 1 else words
