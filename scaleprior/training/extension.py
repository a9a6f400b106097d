"""Going on with a run under a longer schedule: asked for, recorded, and never taken for a run of that schedule.

Up to the step at which it was extended a run learned at the rates of the former schedule, so its weights are not those
of a run that had the longer one from the start. Its fingerprint is therefore made of the schedule's and of its history.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["Extension", "Schedule", "extended_fingerprint", "read_history"]

_LENGTH = "SOLVER.MAX_ITER"
_KEYS = (_LENGTH, "SOLVER.STEPS")


@dataclass(frozen=True)
class Extension:
    """A schedule that a run left for a longer one.

    Attributes:
        fingerprint: of the run as it was until then.
        steps: that were done then, counted from the start of training.
        schedule: the former keys, by dotted names, in JSON's types.
    """

    fingerprint: str
    steps: int
    schedule: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"fingerprint": self.fingerprint, "steps": self.steps, "schedule": dict(self.schedule)}


def read_history(raw: Mapping[str, Any], *, where: str) -> tuple[Extension, ...]:
    """The entry "extended" of ``run.json``, or of what a detector says of its training; empty where there is none.

    Raises:
        UserError: it is damaged; names ``where``.
    """
    try:
        return tuple(Extension(e["fingerprint"], e["steps"], e["schedule"]) for e in raw.get("extended", ()))
    except (KeyError, TypeError) as e:
        raise UserError(f"{where} cannot be read: the history of the run: {e!r}", hint="the file is damaged") from e


def extended_fingerprint(fingerprint: str, history: Sequence[Extension]) -> str:
    """The identity of a run that came to a schedule by ``history``; ``fingerprint`` itself where there is none."""
    if not history:
        return fingerprint
    text = json.dumps([fingerprint, [each.to_dict() for each in history]], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


class Schedule:
    """The keys of a run's length, and what the run's fingerprint would be under others.

    Args:
        keys: by dotted names; those that are no schedule's are passed over.
        fingerprint: of the run with other values of these keys, without a history.
    """

    def __init__(self, keys: Mapping[str, Any], fingerprint: Callable[[Mapping[str, Any]], str]) -> None:
        self.keys: dict[str, Any] = json.loads(json.dumps({key: keys[key] for key in _KEYS}))
        self._fingerprint = fingerprint

    def former(self, out: Path, before: Mapping[str, Any], history: Sequence[Extension]) -> dict[str, Any] | None:
        """The schedule of the run in ``out`` if it differs from this one in nothing else: its hash says so.

        Args:
            before: its ``run.json``. Those of earlier versions hold no schedule; the config that was saved does.
        """
        keys = before.get("schedule") or _saved_schedule(out / "config.yaml")
        if not isinstance(keys, dict) or set(keys) != set(_KEYS) or keys == self.keys:
            return None
        same = extended_fingerprint(self._fingerprint(keys), history) == before.get("fingerprint")
        return keys if same else None

    def check_longer(self, former: Mapping[str, Any], out: Path, *, extend: bool) -> None:
        """Raise UserError unless ``extend`` asks for this schedule, and it is longer than the former."""
        now, then = (" ".join(f"{key} {keys[key]}" for key in _KEYS) for keys in (self.keys, former))
        if self.keys[_LENGTH] <= former[_LENGTH]:
            raise UserError(
                f"{out} holds this run with {then}; now it is {now}, which is no longer one",
                hint="resume with what it was started with, or choose another output folder",
            )
        if not extend:
            raise UserError(
                f"{out} holds this run with {then}; now it is {now}",
                hint=f"{parameter('extend', True)} goes on under the longer schedule and records it; "
                "what comes of it differs from a run that had it from the start",
            )


def _saved_schedule(config: Path) -> dict[str, Any] | None:
    try:
        solver = yaml.safe_load(config.read_text(encoding="utf-8"))["SOLVER"]
        return {key: solver[key.removeprefix("SOLVER.")] for key in _KEYS}
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
        return None
