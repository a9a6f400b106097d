"""What a table says about a label of an image: present, absent, or not known.

Two forms. A row for each label, with a confidence beside it: 1 is present and 0 absent, unless a machine said so, which
has not looked (Open Images). A column for each label: 1 present, 0 absent, blank unknown, -1 uncertain (CheXpert).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.corpus.importers.doubts import Doubt
from scaleprior.corpus.importers.tables.columns import Columns
from scaleprior.corpus.importers.tables.options import TableOptions
from scaleprior.corpus.importers.tables.sql import text
from scaleprior.errors import UserError
from scaleprior.wording import either, flag, parameter, shown

__all__ = ["Signs", "judge_confidence", "judge_label_columns"]

_PRESENT = ("1", "1.0", "true", "yes", "t", "y")
_ABSENT = ("0", "0.0", "false", "no", "f", "n")
_UNCERTAIN = ("-1", "-1.0")
_NO_COLUMN = either("confidence_column=''", f"{flag('confidence_column')} ''")
_SIGN_OF = {"ignore": 0, "positive": 1, "negative": -1}


@dataclass(frozen=True)
class Signs:
    """How values become signs: 1 present, -1 absent, 0 unknown.

    Attributes:
        of: SQL of the sign of a SQL value; in a table without such values "1".
        counts: what was met, for the notes: (kind, count, example).
        doubts: see ``Doubt``.
    """

    of: dict[str, str]
    counts: tuple[tuple[str, int, str], ...] = ()
    doubts: tuple[Doubt, ...] = ()


def judge_confidence(connection: Any, columns: Columns, options: TableOptions, where: Path) -> Signs:
    """The sign of a row, by the columns ``confidence`` and ``source`` of the staged rows.

    Raises:
        UserError: a confidence that is no number in [0, 1], or one between them without ``min_confidence``.
    """
    if columns.confidence is None:
        if options.min_confidence is not None and not columns.several:
            raise UserError(
                f"{parameter('min_confidence')} needs a column of confidences, {where} has none",
                hint=f"choose it with {parameter('confidence_column')}",
            )
        return Signs({"": "1"})
    value = "TRY_CAST(confidence AS DOUBLE)"
    bad, fractions, low, blank, example, fraction = connection.execute(
        f"SELECT count(*) FILTER (wrong), count(*) FILTER (v > 0 AND v < 1), "
        f"count(*) FILTER (v > 0 AND v < {options.min_confidence or 0}), count(*) FILTER (confidence = ''), "
        "min(confidence) FILTER (wrong), "
        f"min(confidence) FILTER (v > 0 AND v < 1) FROM (SELECT confidence, {value} AS v, "
        f"confidence <> '' AND NOT coalesce(v BETWEEN 0 AND 1, false) AS wrong FROM staged)"
    ).fetchone()
    column = shown(columns.confidence)
    if bad:
        raise UserError(
            f"{where}: {bad:,} confidences in column {column} are no numbers from 0 to 1, such as {shown(example)}",
            hint=f"repair them, or give {_NO_COLUMN} to leave the column out",
        )
    if fractions and options.min_confidence is None:
        raise UserError(
            f"{where}: {fractions:,} confidences in column {column} are between 0 and 1, such as {fraction}",
            hint=f"say from which one on a label is present, such as {parameter('min_confidence', 0.5)}",
        )
    machine = "" if columns.source is None else " AND lower(trim(source)) <> 'machine'"
    sign = (
        f"CASE WHEN confidence = '' THEN 1 WHEN {value} = 0{machine} THEN -1 "
        f"WHEN {value} >= {options.min_confidence or 1} THEN 1 ELSE 0 END"
    )
    met = (
        ("labels below the confidence that is asked for (unknown)", low, ""),
        ("rows without a confidence (present)", blank, ""),
    )
    return Signs({"": sign}, tuple(counted for counted in met if counted[1]))


def judge_label_columns(connection: Any, columns: Columns, options: TableOptions, missing: str, where: Path) -> Signs:
    """The sign of each label's own column, of the staged rows.

    Args:
        missing: SQL list of what a cell says that says nothing.

    Raises:
        UserError: a value that is none of the known ones, or one between 0 and 1 without ``min_confidence``.
    """
    least = options.min_confidence
    uncertain, zeros, examples = 0, 0, ""
    signs = {}
    for k, column in enumerate(columns.labels):
        cell = f"label_{k}"
        value = f"lower({cell})"
        number = f"TRY_CAST({value} AS DOUBLE)"
        known = ", ".join(map(text, (*_PRESENT, *_ABSENT, *_UNCERTAIN)))
        other = f"{cell} NOT IN ({missing}) AND {value} NOT IN ({known})"
        absent, unsure, wrong, fractions, example = connection.execute(
            f"SELECT count(*) FILTER ({value} IN ({_listed(_ABSENT)})), "
            f"count(*) FILTER ({value} IN ({_listed(_UNCERTAIN)})), "
            f"count(*) FILTER ({other} AND NOT coalesce({number} BETWEEN 0 AND 1, false)), "
            f"count(*) FILTER ({other}), min({cell}) FILTER ({other}) FROM staged"
        ).fetchone()
        if wrong or (fractions and least is None):
            raise _unknown_value(where, column, example, fraction=not wrong)
        zeros, uncertain = zeros + absent, uncertain + unsure
        examples = examples or (column if unsure else "")
        signs[column] = (
            f"CASE WHEN {value} IN ({_listed(_PRESENT)}) OR {number} >= {least or 1} THEN 1 "
            f"WHEN {value} IN ({_listed(_ABSENT)}) THEN -1 "
            f"WHEN {value} IN ({_listed(_UNCERTAIN)}) THEN {_SIGN_OF[options.uncertain or 'ignore']} ELSE 0 END"
        )
    said = {None: "unknown", "ignore": "unknown", "positive": "present", "negative": "absent"}[options.uncertain]
    counts = ((f"uncertain labels, -1 ({said})", uncertain, examples),) if uncertain else ()
    return Signs(signs, counts, _minus_ones(columns, options, uncertain, zeros))


def _minus_ones(columns: Columns, options: TableOptions, uncertain: int, zeros: int) -> tuple[Doubt, ...]:
    """-1 where there is no 0 may be CelebA's way to say absent."""
    if not uncertain or zeros or options.uncertain is not None or columns.published:
        return ()
    negative, ignore = parameter("uncertain", "negative"), parameter("uncertain", "ignore")
    what = (
        f"the {len(columns.labels)} label columns hold {uncertain:,} times -1 and never 0: as it stands -1 is unknown"
    )
    return (Doubt(what, f"give {negative} if it means absent, {ignore} if unknown"),)


def _unknown_value(where: Path, column: str, example: str, *, fraction: bool) -> UserError:
    if fraction:
        return UserError(
            f"{where}: label column {shown(column)} holds {shown(example)}, between 0 and 1",
            hint=f"say from which value on a label is present, such as {parameter('min_confidence', 0.5)}",
        )
    return UserError(
        f"{where}: label column {shown(column)} holds {shown(example)}; where each label has a column of its own, "
        "cells are 1, 0, -1 or empty",
        hint=f"name other columns with {parameter('label_column')}",
    )


def _listed(words: tuple[str, ...]) -> str:
    return ", ".join(map(text, words))
