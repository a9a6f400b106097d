"""What a check finds: everything that would stop a run, said at once, by kind with counts and first examples."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from scaleprior.errors import ScalePriorError, UserError
from scaleprior.wording import Wording, counted

__all__ = ["CheckReport", "Finding", "said_already"]

logger = logging.getLogger(__name__)

_EXAMPLES = 5  # kept of each kind; the count is always complete
_SHOWN = 3  # of those, on the terminal

_said: set[str] = set()  # as warnings, by the check before a run, until the run itself comes to the same


@dataclass(frozen=True)
class Finding:
    """One kind of thing that is wrong in one place, and how often.

    Attributes:
        kind: a name for programs, such as ``image_size``.
        what: a sentence that names the place, and the count where there is one: "a.json has 3 boxes of no size".
        count: how many there are.
        examples: the first of them, in words.
        hint: what to do.
        stops: a run would stop at it; otherwise it is worth knowing.
    """

    kind: str
    what: str
    count: int = 1
    examples: tuple[str, ...] = ()
    hint: str = ""
    stops: bool = True

    @classmethod
    def of(cls, kind: str, where: object, things: str, offenders: Sequence[str], **options: Any) -> Finding:
        """``where`` has so many ``things``, and here are the first.

        Args:
            options: ``hint``, ``stops``.
        """
        what = f"{where} has {counted(len(offenders), things)}"
        return cls(kind, what, len(offenders), tuple(offenders[:_EXAMPLES]), **options)

    @property
    def sentence(self) -> str:
        """In one line, without the hint."""
        return f"{self.what}, first: {self.examples[0]}" if self.examples else self.what

    def lines(self) -> list[str]:
        """For the terminal, in the command line's words."""
        more = self.count - len(self.examples[:_SHOWN])
        shown = [*self.examples[:_SHOWN], *([f"... and {more} more"] if self.examples and more else [])]
        return [_in_flags(line) for line in (self.what, *shown, *([self.hint] if self.hint else []))]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "kind": self.kind,
            "stops": self.stops,
            "what": _in_flags(self.what),
            "count": self.count,
            "examples": [_in_flags(example) for example in self.examples],
            "hint": _in_flags(self.hint),
        }


@dataclass
class CheckReport:
    """What was looked at, and what is wrong with it.

    Attributes:
        facts: what was looked at, in words by name: ``{"train": "118,287 images, 80 classes, ..."}``.
        findings: in the order in which they were found.
        statistics: figures of what was looked at, JSON-ready, by the same names as the facts where there are any;
            ``sentences`` say the main ones in words.
    """

    facts: dict[str, str] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Nothing was found that would stop a run."""
        return not any(finding.stops for finding in self.findings)

    def of(self, *kinds: str) -> list[Finding]:
        """What was found of these kinds."""
        return [finding for finding in self.findings if finding.kind in kinds]

    def add(self, *findings: Finding) -> None:
        """Take what a part of the check found; the same thing said twice is one."""
        self.findings += [finding for finding in dict.fromkeys(findings) if finding not in self.findings]

    def take(self, other: CheckReport, *, prefix: str = "") -> None:
        """Add another report's facts, with ``prefix`` before their names, and its findings."""
        self.facts.update({prefix + name: fact for name, fact in other.facts.items()})
        self.statistics.update({prefix + name: figures for name, figures in other.statistics.items()})
        self.add(*other.findings)

    @contextlib.contextmanager
    def collecting(self, kind: str, *, stops: bool = True, prefix: str = "") -> Iterator[None]:
        """Within the block an error of ours ends the block and becomes a finding."""
        try:
            yield
        except ScalePriorError as e:
            self.add(Finding(kind, prefix + e.wording.marked, stops=stops))

    def refuse(self) -> None:
        """Raise if anything would stop a run; otherwise log what is worth knowing.

        Raises:
            UserError: names everything that would, one thing a line.
        """
        stopping = [finding for finding in self.findings if finding.stops]
        if len(stopping) == 1:
            raise UserError(stopping[0].sentence, hint=stopping[0].hint)
        said = [finding.sentence + (f"; {finding.hint}" if finding.hint else "") for finding in self.findings]
        if stopping:
            lines = [line for line, finding in zip(said, self.findings) if finding.stops]
            raise UserError(f"{len(lines)} things would stop this run, nothing was started", lines=lines)
        for line in said:
            logger.warning("%s", Wording(line))
        _said.update(finding.sentence for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``ok``, ``facts``, ``findings`` and ``statistics``."""
        facts: Mapping[str, str] = self.facts
        findings = [finding.to_dict() for finding in self.findings]
        return {"ok": self.ok, "facts": dict(facts), "findings": findings, "statistics": dict(self.statistics)}


def said_already(sentence: str) -> bool:
    """Whether the check before this run said so; once, so that the next run's warning is one again."""
    known = sentence in _said
    _said.discard(sentence)
    return known


def _in_flags(text: str) -> str:
    return Wording(text).flags
