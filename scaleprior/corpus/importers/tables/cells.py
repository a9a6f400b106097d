"""What a cell of labels holds: one label, several with a separator between them, or the text of a list.

What separates them is told from all distinct cells. A ";" does, wherever there is one. Anything else may be part of a
name ("dog, domestic dog"), so a table that looks as if it were meant to be split is asked about, and not split:

- "|" or a tab: at any cell that has one, for names have none;
- ",": when it stands without a blank behind it, when more than half of the parts occur in two distinct cells or more,
  or as for a blank;
- a blank: when all parts are numbers; when more than half of the parts also occur alone; or when splitting would leave
  at most half as many labels as there are distinct cells.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.tables.sql import text
from scaleprior.errors import UserError
from scaleprior.wording import either, flag, parameter, shown

__all__ = ["Evidence", "Split", "detect_split", "doubtful"]

_DEFAULT = ";"
_OTHERS = ("|", "\t", ",", " ")
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST = r"(?s)\s*\[.*\]\s*"
_NUMBER = r"-?[0-9]+(\.0+)?"


@dataclass(frozen=True)
class Split:
    """How cells become labels.

    Attributes:
        separator: text between labels, " " for any blanks, "" for none.
        lists: cells are the text of lists, as pandas, JSON or numpy write them.
    """

    separator: str = ""
    lists: bool = False

    def sql(self, cell: str) -> str:
        """SQL for the parts, a list of texts, of the SQL text ``cell``."""
        if self.lists:
            inner = f"regexp_replace({cell}, '^\\s*\\[|\\]\\s*$', '', 'g')"
            quoted = f"regexp_extract_all({inner}, {text(_QUOTED)})"
            names = f"[regexp_replace(q[2:-2], '\\\\(.)', '\\1', 'g') FOR q IN {quoted}]"
            plain = f"regexp_split_to_array(trim({inner}), '[,\\s]+')"
            as_json = f"CAST(CAST({cell} AS JSON) AS VARCHAR[])"
            return f"CASE WHEN json_valid({cell}) THEN {as_json} WHEN len({quoted}) > 0 THEN {names} ELSE {plain} END"
        if self.separator == " ":
            return f"regexp_split_to_array(trim({cell}), '\\s+')"
        return f"string_split({cell}, {text(self.separator)})" if self.separator else f"[{cell}]"


@dataclass(frozen=True)
class Evidence:
    """Counts over the distinct cells of a column, and over the parts that a separator would give.

    Attributes:
        cells: distinct cells. composite: those that hold the separator.
        parts: distinct parts of the composite cells. alone: those that are a cell, too.
        shared: those that occur in two distinct cells or more. numbers: those that are whole numbers.
        tight: composite cells with something other than a blank behind a separator.
        example: a composite cell.
    """

    cells: int
    composite: int
    parts: int
    alone: int
    shared: int
    numbers: int
    tight: int
    example: str

    @property
    def labels(self) -> int:
        """Labels after splitting."""
        return self.cells - self.composite + self.parts - self.alone


def doubtful(separator: str, found: Evidence) -> bool:
    """Whether cells that hold ``separator`` look as if they were meant to be split; the rule is the module's text."""
    if not found.composite:
        return False
    if separator in ("|", "\t"):
        return True
    if separator == "," and (found.tight or 2 * found.shared > found.parts):
        return True
    return found.numbers == found.parts or 2 * found.alone > found.parts or 2 * found.labels <= found.cells


def detect_split(connection: Any, cells: str, column: str) -> tuple[Split, tuple[Doubt, ...]]:
    """How the cells of a column are to be read, and what is doubtful about it.

    Args:
        connection: where ``cells`` can be queried.
        cells: SQL of the distinct cells that are not missing, as ``cell``.
        column: what to call it in messages.

    Raises:
        UserError: cells are vectors of 0 and 1, of which nothing says what their places mean.
    """
    total, lists, semicolons = connection.execute(
        f"SELECT count(*), count(*) FILTER (regexp_full_match(cell, {text(_LIST)})), "
        f"count(*) FILTER (contains(cell, {text(_DEFAULT)})) FROM ({cells})"
    ).fetchone()
    if total and lists == total:
        _refuse_vectors(connection, cells, column)
        return Split(lists=True), ()
    if lists:
        return Split(), (_some_lists(connection, cells, column, lists, total),)
    split = Split(_DEFAULT if semicolons else "")
    distinct = f"SELECT DISTINCT trim(unnest({split.sql('cell')})) AS cell FROM ({cells})"
    for separator in _OTHERS:
        found = _evidence(connection, f"SELECT cell FROM ({distinct}) WHERE cell <> ''", separator)
        if doubtful(separator, found):
            return split, (_doubt(column, separator, split.separator, found),)
    return split, ()


def _some_lists(connection: Any, cells: str, column: str, lists: int, total: int) -> Doubt:
    """Texts of lists beside others: names in brackets, or a program that wrote the lists of one label without them."""
    example = connection.execute(
        f"SELECT min(cell) FROM ({cells}) WHERE regexp_full_match(cell, {text(_LIST)})"
    ).fetchone()
    return Doubt(
        f"{column}: {lists:,} of {total:,} distinct cells are texts of lists, such as {shown(example[0])}, the others "
        "are not; each cell would be one label",
        "write all of them as lists",
    )


def _evidence(connection: Any, cells: str, separator: str) -> Evidence:
    holds = f"contains(trim(cell), {text(separator)})"
    parts = Split(separator).sql("cell")
    row = connection.execute(
        f"WITH cells AS MATERIALIZED ({cells}), composite AS (SELECT cell FROM cells WHERE {holds}), "
        f"cut AS (SELECT cell, unnest({parts}) AS part FROM composite), "
        "pairs AS (SELECT DISTINCT cell, trim(part) AS part FROM cut WHERE trim(part) <> ''), "
        "parts AS (SELECT part, count(*) AS uses FROM pairs GROUP BY part), "
        "judged AS (SELECT part, uses, part IN (SELECT cell FROM cells) AS alone FROM parts) "
        "SELECT (SELECT count(*) FROM cells), (SELECT count(*) FROM composite), count(*), count(*) FILTER (alone), "
        f"count(*) FILTER (uses + alone::INT > 1), count(*) FILTER (regexp_full_match(part, {text(_NUMBER)})), "
        f"(SELECT count(*) FROM composite WHERE regexp_matches(trim(cell), '[' || {text(separator)} || ']\\S')), "
        "(SELECT min(cell) FROM composite) FROM judged"
    ).fetchone()
    return Evidence(*row[:7], example=row[7] or "")


def _doubt(column: str, separator: str, present: str, found: Evidence) -> Doubt:
    reading = f"split at {present!r} alone" if present else "as it stands"
    return Doubt(
        f"{column}: {found.composite:,} of {found.cells:,} distinct labels hold {separator!r}, such as "
        f"{shown(found.example)}: {reading} there are {found.cells:,} labels, split at {separator!r} there are "
        f"{found.labels:,}",
        f"give {_option(separator)} to split them, {_option(present)} to keep them",
    )


def _option(separator: str) -> str:
    return either(f"separator={separator!r}", f"{flag('separator')} {_quoted(separator)}")


def _quoted(separator: str) -> str:
    return "$'\\t'" if separator == "\t" else shlex.quote(separator)


def _refuse_vectors(connection: Any, cells: str, column: str) -> None:
    """``[1 0 1]`` with all cells of one length: places without names."""
    parts, bits = Split(lists=True).sql("cell"), ", ".join(map(text, ("0", "1", "0.", "1.", "0.0", "1.0")))
    shortest, longest, vectors, example = connection.execute(
        f"SELECT min(len(p)), max(len(p)), bool_and(len([x FOR x IN p IF x NOT IN ({bits})]) = 0), min(cell) "
        f"FROM (SELECT cell, {parts} AS p FROM ({cells}))"
    ).fetchone()
    if vectors and shortest == longest and longest > 2:
        raise UserError(
            f"{column}: cells such as {shown(example)} are rows of 0 and 1, and nothing says which "
            "labels their places mean",
            hint=f"give each label a column of its own, and name these with {parameter('label_column')}",
        )
