"""Which rows of a results file are points of one law: those that differ in their images and seeds and in nothing else.

A column splits a law if it is known to identify a comparison. One that is not known never does: hashes, names of
backbones and notes differ from rung to rung by nature.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from scaleprior.ap_names import AP_NAMES
from scaleprior.wording import either, flag

__all__ = [
    "COMPARABLE",
    "IDENTITY",
    "UNKNOWN",
    "Group",
    "Row",
    "Series",
    "grouped",
    "is_comparable",
    "listed",
    "plain_number",
    "value_of",
]

UNKNOWN = "unknown"
"""What an empty cell of an identity column says: a value of its own."""
COMPARABLE = "comparable"
"""Column that says ``no`` of rungs that are no points of a law by their images alone."""
_OF_PRETRAINING = ("corpus", "recipe")
IDENTITY = (
    "arch", "arm", "dataset", "detector", "engine", "max_iter", "batch_size", "base_lr", "freeze_at", "norm",
    "trained_on", COMPARABLE, *_OF_PRETRAINING, "settings", "detector_settings",
    "test_settings",
)  # fmt: skip
"""Columns that identify a comparison, those that say most first; the hashes, which name nothing, are last."""
_NOT_COMPARABLE = re.compile(r"not?\b", re.IGNORECASE)
_NUMBERS = ("max_iter", "batch_size", "base_lr", "freeze_at")  # 90000 and pandas' 90000.0 are one value
# Columns that differ from run to run without meaning another comparison.
_OF_A_RUN = ("backbone", "tensors_sha256", "version", "commit", "run", "images_seen", *AP_NAMES)


@dataclass(frozen=True)
class Row:
    """A run: its cells as written, without blanks around them, and what the law needs of them.

    Attributes:
        images: of pretraining; 0 is from scratch.
        seed: as written; None without a seed column.
        line: of the file.
    """

    cells: Mapping[str, str]
    images: float
    metric: float
    seed: str | None
    line: int = 0


@dataclass
class Series:
    """The rows of one law.

    Attributes:
        images: above 0.
        metric, seeds: as written; a seed is None without a seed column.
        identity: identity column -> what these rows say in it: one value, but for columns that were drawn across.
        lines: of the file, where the rows stand.
        comparable: the rungs are points of a law by their images alone.
    """

    images: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    seeds: list[str | None] = field(default_factory=list)
    identity: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    lines: list[int] = field(default_factory=list)
    comparable: bool = True


@dataclass(frozen=True)
class Group:
    """The rows with the same values in the group columns, as one law or, where they differ, several.

    Attributes:
        series: name of the law -> its rows.
        from_scratch: name -> the rows with 0 images.
        differ: column -> its values, of all that split the group.
        notes: what else is to be said of the rows.
    """

    name: str
    series: Mapping[str, Series]
    from_scratch: Mapping[str, Sequence[Row]]
    differ: Mapping[str, tuple[str, ...]]
    notes: tuple[str, ...]


def grouped(rows: Sequence[Row], group: Sequence[str], columns: Sequence[str], across: Sequence[str]) -> list[Group]:
    """The rows by the values of ``group``, each split by every identity column that has several values in it.

    Args:
        group: columns that name the laws; empty: all rows are one group.
        columns: identity columns of the file that may split.
        across: identity columns that may not.
    """
    by_values: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_values.setdefault(tuple(value_of(row, c) for c in group), []).append(row)
    splitting = [c for c in columns if c not in group and c not in across]
    return [
        _group(_group_name(group, values), members, group, splitting, across) for values, members in by_values.items()
    ]


def value_of(row: Row, column: str) -> str:
    """What a row says in an identity column; :data:`UNKNOWN` where the cell is empty."""
    value = row.cells.get(column, "") or UNKNOWN
    return plain_number(value) if column in _NUMBERS else value


def plain_number(text: str) -> str:
    """A number in one spelling, 0 also for pandas' 0.0; any other text as it is."""
    with contextlib.suppress(ValueError, OverflowError):
        number = float(text)
        return str(int(number)) if number.is_integer() else str(number)
    return text


def is_comparable(row: Row) -> bool:
    """Whether nobody says that the row is no point of a law by its images alone."""
    return _NOT_COMPARABLE.match(row.cells.get(COMPARABLE, "")) is None


def listed(values: Iterable[str]) -> str:
    """At most five values in words."""
    values = list(values)
    rest = f" and {len(values) - 5} more" if len(values) > 5 else ""
    return ", ".join(values[:5]) + rest


def _group_name(group: Sequence[str], values: Sequence[str]) -> str:
    if not group:
        return ""
    first = values[0] if values[0] != UNKNOWN else f"{group[0]} {UNKNOWN}"
    return ", ".join([first, *(f"{c} {v}" for c, v in zip(group[1:], values[1:]))])


def _group(
    name: str, rows: Sequence[Row], group: Sequence[str], splitting: Sequence[str], across: Sequence[str]
) -> Group:
    rungs, scratch = [row for row in rows if row.images > 0], [row for row in rows if row.images == 0]
    naming = _naming(rungs, splitting)
    parts = _parts(name, rungs, naming)
    identity = [*group, *splitting, *across]
    # A run from scratch has no ladder.
    of_scratch = [c for c in splitting if c not in (COMPARABLE, *_OF_PRETRAINING)]
    naming_scratch = dict.fromkeys([c for c in naming if c in of_scratch] + _naming(scratch, of_scratch))
    return Group(
        name,
        {part: _series(members, identity) for part, members in parts.items()},
        _parts(name, scratch, [*naming_scratch]),
        {c: _values(rungs, c) for c in splitting if len({_key(row, [c]) for row in rungs}) > 1},
        tuple(
            note
            for part, members in parts.items()
            for note in (
                _drawn_across(part, members, across),
                _ladder(part, members),
                _repeats(part, members, group, identity),
            )
            if note
        ),
    )


def _series(rows: Sequence[Row], identity: Sequence[str]) -> Series:
    return Series(
        [row.images for row in rows],
        [row.metric for row in rows],
        [row.seed for row in rows],
        {c: _values(rows, c) for c in identity},
        [row.line for row in rows],
        all(map(is_comparable, rows)),
    )


def _key(row: Row, columns: Sequence[str]) -> tuple[str, ...]:
    """What sets a row apart from others; rungs that are not comparable are one ladder, whatever they learned from."""
    comparable = is_comparable(row)
    return tuple(
        ("" if comparable else "no")
        if c == COMPARABLE
        else value_of(row, c)
        if comparable or c not in _OF_PRETRAINING
        else ""
        for c in columns
    )


def _naming(rows: Sequence[Row], columns: Sequence[str]) -> list[str]:
    """The columns that it takes to tell the parts apart: one that only repeats what earlier ones tell is left out."""
    chosen: list[str] = []
    for column in columns:
        if len({_key(row, [*chosen, column]) for row in rows}) > len({_key(row, chosen) for row in rows}):
            chosen.append(column)
    return chosen


def _parts(name: str, rows: Sequence[Row], naming: Sequence[str]) -> dict[str, list[Row]]:
    by_key: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        by_key.setdefault(_key(row, naming), []).append(row)
    parts = {}
    for key, part in by_key.items():
        said = dict(zip(naming, key))
        if not is_comparable(part[0]) and {COMPARABLE, *_OF_PRETRAINING} & set(naming):
            said = {c: v for c, v in said.items() if c not in _OF_PRETRAINING} | {COMPARABLE: "no"}
        words = (f"{column} {value}" for column, value in said.items() if value)
        parts[", ".join([*([name] if name else []), *words])] = part
    return parts


def _values(rows: Sequence[Row], column: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value_of(row, column) for row in rows))


def _drawn_across(name: str, rows: Sequence[Row], across: Sequence[str]) -> str:
    several = [f"{c} ({listed(values)})" for c in across if len(values := _values(rows, c)) > 1]
    return f"{name or 'The law'} is drawn across {', '.join(several)}, as asked" if several else ""


def _ladder(name: str, rows: Sequence[Row]) -> str:
    """What is said of a law of rungs that are not comparable."""
    if all(map(is_comparable, rows)):
        return ""
    several = [f"{c} ({listed(values)})" for c in _OF_PRETRAINING if len(values := _values(rows, c)) > 1]
    differ = f" and differ in {', '.join(several)}" if several else ""
    return f"Rungs of {name or 'the law'} are not comparable by their images alone{differ}: a picture, not a slope"


def _repeats(name: str, rows: Sequence[Row], group: Sequence[str], identity: Sequence[str]) -> str:
    """What is said of rows that differ in a column that nobody declared as an axis of a comparison does; "" of none.

    Rows of the same images and seed differ in it, or every value of it stands at several numbers of images.
    """
    by_run: dict[tuple[float, str], list[Row]] = {}
    for row in rows:
        if row.seed is not None:
            by_run.setdefault((row.images, row.seed), []).append(row)
    repeated = [twins for twins in by_run.values() if len(twins) > 1]
    columns = [
        c
        for c in dict.fromkeys(c for row in rows for c in row.cells)
        if c not in (*_OF_A_RUN, *identity) and "seed" not in c.casefold()
    ]
    differing = [c for c in columns if any(len(_values(twins, c)) > 1 for twins in repeated) or _crosses(rows, c)]
    if not differing:
        return ""
    what = ", ".join(f"{c} ({listed(_values(rows, c))})" for c in differing)
    words = f"Rows of {name or 'the law'} differ in {what}, which splits no law"
    columns_in_words = ",".join([*group, *differing])
    asked = either(f"group={columns_in_words!r}", f"{flag('group')} {shlex.quote(columns_in_words)}")
    return f"{words}: {asked} makes laws of it"


def _crosses(rows: Sequence[Row], column: str) -> bool:
    """Whether a column has several values, each at two numbers of images or more; seeds are no axis."""
    if all(plain_number(row.cells.get(column, "")) == (row.seed or "") for row in rows):
        return False
    rungs: dict[str, set[float]] = {}
    for row in rows:
        rungs.setdefault(value_of(row, column), set()).add(row.images)
    return 2 <= len(rungs) <= len(rows) / 2 and all(len(images) > 1 for images in rungs.values())
