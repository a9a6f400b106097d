"""What is to be said of the rows of a results file: copies, rungs that are no points of a law, laws that were split."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from pathlib import Path

from scaleprior.errors import UserError
from scaleprior.laws.choosing import in_words
from scaleprior.laws.grouping import COMPARABLE, UNKNOWN, Group, Row, listed, value_of
from scaleprior.laws.spelling import nearest
from scaleprior.parsing import read_json
from scaleprior.wording import counted, either, flag, parameter

__all__ = ["NOT_COMPARABLE", "of_copies", "of_incomparable", "of_seeds_elsewhere", "of_split", "of_study"]

_RESULTS, _STUDY = "results.csv", "study.json"  # of a study's folder
NOT_COMPARABLE = "NOT comparable"
"""What it says of neighbours on a ladder that differ in more than their images."""
_ALIKE = "all rungs have one supervision"  # what it says where all is well


def of_copies(copies: Sequence[int]) -> list[str]:
    """What is said of lines that were left out as copies."""
    if not copies:
        return []
    where = f"line{'s' * (len(copies) > 1)} {listed(map(str, copies))}"
    return [f"{counted(len(copies), 'rows')} ({where}) left out, the same as an earlier one in every cell"]


def of_seeds_elsewhere(seed: str, columns: Sequence[str]) -> list[str]:
    """What is said where seeds may stand in a column that nobody named."""
    near = None if seed in columns else nearest(seed, columns)
    if near is None:
        return []
    asked = either(f"seed={near!r}", f"{flag('seed_column')} {shlex.quote(near)}")
    return [f"No column {seed!r}: each row counts as a run of its own; {asked} makes seeds of column {near!r}"]


def of_split(group: Group) -> list[str]:
    """What is said of a group that is several laws."""
    if not group.differ:
        return []
    what = ", ".join(f"{c} ({listed(values)})" for c, values in group.differ.items())
    words = f"{group.name or 'The file'} is {len(group.series)} laws: its rows differ in {what}"
    unknown = [c for c, values in group.differ.items() if UNKNOWN in values]
    if unknown:
        words += f"; if the unknown ones are known to be alike, {parameter('across', ','.join(unknown))} draws one law"
    return [words]


def of_incomparable(left: Sequence[Row], group: Sequence[str]) -> list[str]:
    """What is said of rows that were left out as marked not comparable."""
    if not left:
        return []
    names = dict.fromkeys(", ".join(value_of(row, c) for c in group) for row in left)
    of = f" of {'; '.join(names)}" if group else ""
    sizes = listed(f"{n:,.0f}" for n in sorted({row.images for row in left}))
    words = f"{counted(len(left), 'rows')}{of} left out, marked comparable no ({sizes} images)"
    return [f"{words}: {in_words(COMPARABLE, 'no')} draws them"]


def of_study(path: Path, architectures: Collection[str]) -> dict[str, str]:
    """Architecture -> what the study that a file is of says of a ladder that is not like others; its rows do not."""
    try:
        facts = read_json(path.with_name(_STUDY))["facts"] if path.name == _RESULTS else {}
        said = {arch: facts.get(f"comparable {arch}", "") for arch in sorted(architectures)}
    except (UserError, KeyError, TypeError, AttributeError):  # no study, or a damaged one: not what is read here
        return {}
    texts = {arch: words for arch, words in said.items() if isinstance(words, str) and words}
    return {arch: words for arch, words in texts.items() if not words.startswith(_ALIKE)}
