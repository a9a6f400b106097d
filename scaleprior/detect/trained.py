"""What a trained detector says about itself: in the header of ``model.safetensors``, in ``model_final.pth``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from scaleprior.backbones.card import Card
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.errors import UserError
from scaleprior.provenance import CreatedBy
from scaleprior.training.extension import Extension, read_history
from scaleprior.wording import one_line, shown

__all__ = ["TrainedDetector"]


@dataclass(frozen=True)
class TrainedDetector:
    """What the weights of a detector need, and what made them; the same for every engine.

    Attributes:
        class_names: of class 0, 1, ...
        category_ids: the data's ids of class 0, 1, ...; None where the engine does not bind a model to them.
        config: the keys that the weights depend on, with their values in JSON's types.
        card: the backbone's; None from scratch, and where the start was a detector.
        seed, max_iter: of the training run.
        fingerprint: hash of all that determined the training run, with its history.
        created_by: version and commit of ScalePrior.
        tuning: what else identifies the run in a comparison (``detect.identity.tuning_of``); empty in older files.
        extended: the schedules that the run was begun under, where it was gone on with under a longer one.
        start: of a run that began with a whole detector: "detector", its name, and "sha256" of its file; else empty.
    """

    class_names: tuple[str, ...]
    category_ids: tuple[CocoId, ...] | None
    config: Mapping[str, Any]
    card: Card | None
    seed: int
    max_iter: int
    fingerprint: str
    created_by: CreatedBy
    tuning: Mapping[str, Any] = field(default_factory=dict)
    extended: tuple[Extension, ...] = ()
    start: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready, in the words that either engine's files have held since before they shared a record."""
        facts: dict[str, Any] = {
            "config": dict(self.config),
            "card": None if self.card is None else self.card.to_dict(),
            "seed": self.seed,
            "max_iter": self.max_iter,
            "fingerprint": self.fingerprint,
            "created_by": self.created_by,
            **({"tuning": dict(self.tuning)} if self.tuning else {}),
        }
        if self.extended:
            facts["extended"] = [each.to_dict() for each in self.extended]
        if self.start:
            facts["start"] = dict(self.start)
        if self.category_ids is None:
            return {**facts, "classes": list(self.class_names)}
        return {"class_names": list(self.class_names), "category_ids": list(self.category_ids), **facts}

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str) -> TrainedDetector:
        """Read what :meth:`to_dict` wrote; other keys are left aside.

        Raises:
            UserError: something is missing or of another type, or the card is none; names ``where``.
        """
        if not isinstance(raw, Mapping):
            raise _damaged(where, f"it says {shown(raw)} of itself")
        ids = raw.get("category_ids")
        _check(raw, "classes" if ids is None else "class_names", where)
        try:
            return cls(
                class_names=tuple(raw["classes"] if ids is None else raw["class_names"]),
                category_ids=None if ids is None else tuple(ids),
                config=raw["config"],
                card=None if raw["card"] is None else Card.from_dict(raw["card"], source=where),
                seed=raw["seed"],
                max_iter=raw["max_iter"],
                fingerprint=raw["fingerprint"],
                created_by=raw["created_by"],
                tuning=raw.get("tuning", {}),
                extended=read_history(raw, where=where),
                start=raw.get("start", {}),
            )
        except UserError:
            raise
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as e:
            raise _damaged(where, one_line(e)) from e


# What must be there -> what it must be; of lists, what their items must be.
_TYPES: dict[str, type] = {"config": Mapping, "seed": int, "max_iter": int, "fingerprint": str, "created_by": Mapping}
_OPTIONAL: dict[str, type] = {"tuning": Mapping, "start": Mapping, "extended": list}


def _check(raw: Mapping[str, Any], classes: str, where: str) -> None:
    """Refuse values of other types than readers of the record rely on."""
    missing = next((key for key in (classes, "card", *_TYPES) if key not in raw), None)
    if missing is not None:
        raise _damaged(where, f"{missing!r} is missing")
    for key, kind in {**_TYPES, **{key: kind for key, kind in _OPTIONAL.items() if key in raw}}.items():
        if not isinstance(raw[key], kind) or isinstance(raw[key], bool):
            raise _damaged(where, f"{key} is {shown(raw[key])}")
    for key, kinds in ((classes, (str,)), ("category_ids", (int, str))):
        items = raw.get(key)
        if (key == classes or items is not None) and not (
            isinstance(items, (list, tuple)) and all(type(item) in kinds for item in items)
        ):
            raise _damaged(where, f"{key} is {shown(items)}")
    if not all(isinstance(raw["created_by"].get(key), str) for key in ("version", "commit")):
        raise _damaged(where, f"created_by is {shown(raw['created_by'])}")


def _damaged(where: str, why: str) -> UserError:
    return UserError(f"model {where} cannot be read: {why}", hint="the file is damaged; get it again")
