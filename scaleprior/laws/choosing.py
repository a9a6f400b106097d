"""Chooses rows of a results file by what stands in their cells: ``where``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from scaleprior.errors import UserError
from scaleprior.laws.grouping import UNKNOWN, listed
from scaleprior.laws.spelling import decimal, meant, nearest
from scaleprior.wording import either, flag

__all__ = ["Cells", "Chosen", "choose", "in_words"]

Cells = Mapping[str, str]
"""A row: column -> cell without blanks around it."""
Chosen = Mapping[str, "str | float | Sequence[str | float]"]
"""Column -> the value, or the values, that are asked for."""


def choose(
    lines: Sequence[tuple[int, Cells]], where: Chosen, columns: Sequence[str], source: str
) -> list[tuple[int, Cells]]:
    """The rows that have one of the values asked for in every column.

    Args:
        lines: (line of the file, cells).
        where: a text may hold several values, with commas between; one that is itself the value of a cell is taken
            whole. Numbers are compared as numbers, texts but for capitals, blanks and punctuation where that leaves one
            value only; "unknown" is an empty cell.

    Raises:
        UserError: no such column; a value that no row has, with those that there are; no row has all.
    """
    chosen = list(lines)
    for column, wanted in where.items():
        if column not in columns:
            raise UserError(
                f"{source}, line 1: no column {column!r} to choose by; it has {listed(columns)}",
                hint=f"is {near!r} meant?" if (near := nearest(column, columns)) else "name one of these",
            )
        present = list(dict.fromkeys(cells[column] or UNKNOWN for _, cells in lines))
        asked: set[str] = set()
        for value in _values(wanted, present):
            same = {value} & set(present) or {other for other in present if _is_same_number(value, other)}
            if not same and (alike := meant(value, present)) is not None:
                same = {alike}
            if not same:
                near = nearest(value, present)
                hint = f"is {near!r} meant? there are {listed(present)}" if near else f"there are {listed(present)}"
                raise UserError(f"no row of {source} has {column} {value!r}", hint=hint)
            asked |= same
        chosen = [(line, cells) for line, cells in chosen if (cells[column] or UNKNOWN) in asked]
    if not chosen:
        words = " and ".join(f"{column} {listed(_values(wanted, ()))}" for column, wanted in where.items())
        raise UserError(f"no row of {source} has {words}", hint="ask for less at once")
    return chosen


def in_words(column: str, value: str) -> str:
    """How rows with a value are asked for, as Python and as the command line say it."""
    return either(f"where={{{column!r}: {value!r}}}", f"{flag('where')} {shlex.quote(f'{column}={value}')}")


def _values(wanted: str | float | Sequence[str | float], present: Sequence[str]) -> list[str]:
    if isinstance(wanted, str):
        return [wanted] if wanted in present else [part.strip() for part in wanted.split(",")]
    return list(map(str, wanted)) if isinstance(wanted, Sequence) else [str(wanted)]


def _is_same_number(one: str, other: str) -> bool:
    return (value := decimal(one)) is not None and value == decimal(other)
