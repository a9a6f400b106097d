"""What is wrong with a detection set: refused at the first kind, left out and counted, or collected for a report."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from scaleprior.checking import said_already
from scaleprior.errors import UserError
from scaleprior.wording import counted, in_short, parameter, shown

__all__ = [
    "DROP_BAD", "DropBad", "Findings", "Numbered", "Offender", "Problem", "Severity", "Unchecked", "drop_hint",
    "offender", "place",
]  # fmt: skip

logger = logging.getLogger(__name__)

DropBad = Literal["none", "annotations", "images"]
"""What of a set is left out where annotations cannot be used: nothing (an error), those, or their images."""

DROP_BAD: tuple[DropBad, ...] = ("none", "annotations", "images")

Severity = Literal["error", "dropped", "warning", "note"]
"""``error``: the set is refused. ``dropped``: left out. ``warning``, ``note``: used as it is."""

Unchecked = Mapping[str, Any]
"""An object of a file of which nothing is known yet."""
Numbered = tuple[int, Unchecked]
"""One of a list, and where it stands there, from 0."""
Offender = tuple[str, Mapping[str, Any]]
"""Something that is wrong: in words, and its place as in :attr:`Problem.places`."""


@dataclass(frozen=True)
class Problem:
    """One kind of thing that is wrong with a file, and every place where it is.

    Attributes:
        kind: a name for programs, such as ``box_size``.
        severity: what became of it.
        what: in words, behind a number: "boxes of zero or negative size".
        first: the first of them, in words.
        places: of all, in the file's order; JSON-ready. ``part`` (images, annotations or categories) and ``index``,
            from 0, say where it stands; then what the entry says of ``id``, ``image_id``, ``file_name``,
            ``category_id``, ``name`` and ``bbox``.
        source: the file.
        hint: what to do.
    """

    kind: str
    severity: Severity
    what: str
    first: str
    places: Sequence[Mapping[str, Any]]
    source: str
    hint: str

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.places)

    @property
    def sentence(self) -> str:
        """How many there are, and the first; of which file, ``str`` says before it."""
        left_out = ", left out" if self.severity == "dropped" else ""
        return f"{counted(self.count, self.what)}{left_out}, first: {self.first}"

    def __str__(self) -> str:
        return f"{self.source} has {self.sentence}"


class Findings:
    """Takes what the checks of one file find, each kind once.

    Args:
        source: the file, for messages.
        into: collects the problems, and nothing is raised. None = errors are raised, and the rest is logged.

    Attributes:
        problems: all that were found.
    """

    def __init__(self, source: str, *, into: list[Problem] | None = None) -> None:
        self.source = source
        self.problems: list[Problem] = []
        self._into = into

    @property
    def collecting(self) -> bool:
        """Whether errors are collected, so that what cannot be used has to be left out instead."""
        return self._into is not None

    def add(
        self, severity: Severity, kind: str, what: str, offenders: Sequence[Offender], *, hint: str = "repair the file"
    ) -> None:
        """Report one kind; no offenders, no problem.

        Raises:
            UserError: it is an error, and nobody collects.
        """
        if not offenders:
            return
        problem = Problem(kind, severity, what, offenders[0][0], [place for _, place in offenders], self.source, hint)
        self.problems.append(problem)
        if self._into is not None:
            self._into.append(problem)
        elif severity == "error":
            raise UserError(str(problem), hint=hint)
        else:
            known = severity == "note" or said_already(str(replace(problem, source=os.path.abspath(self.source))))
            logger.log(logging.INFO if known else logging.WARNING, "%s%s", problem, hint and f"; {hint}")


def drop_hint() -> str:
    """What to do about annotations that cannot be used."""
    way = parameter("drop_bad", "annotations")
    return f"repair the file, or leave them out by {way} or the key SCALEPRIOR.DROP_BAD"


def place(part: str, index: int, entry: Unchecked) -> dict[str, Any]:
    """Where an entry stands, as :attr:`Problem.places` has it."""
    keys = ("id", "image_id", "file_name", "category_id", "name", "bbox")
    return {"part": part, "index": index, **{key: _strict(entry[key]) for key in keys if key in entry}}


def offender(index: int, entry: Unchecked, key: str) -> Offender:
    """An annotation with what is wrong about it, the value of ``key``."""
    which = f"annotation {in_short(entry['id'])}" if entry.get("id") is not None else f"annotations[{index}]"
    return f"{key} {shown(entry.get(key))} in {which}"[:160], place("annotations", index, entry)


def _strict(value: Any) -> Any:
    """A value as strict JSON has it, no deeper than a box: NaN, infinity and what lies deeper are texts."""
    return [_flat(item) for item in value] if isinstance(value, list) else _flat(value)


def _flat(value: Any) -> Any:
    plain = value is None or isinstance(value, (str, int)) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else shown(value)
