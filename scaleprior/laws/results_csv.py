"""Reads the cells of a results file as programs and spreadsheets write it: delimiters, empty lines, spellings."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path

from scaleprior.ap_names import AP_NAMES
from scaleprior.errors import UserError
from scaleprior.laws.choosing import Cells
from scaleprior.laws.grouping import IDENTITY
from scaleprior.laws.spelling import decimal, meant, nearest
from scaleprior.parsing import read_csv
from scaleprior.spreadsheets import unguarded
from scaleprior.wording import either, flag, in_short, shown

__all__ = ["column_called", "no_column", "number_in", "read_cells"]

_KNOWN = ("arch", "images", "seed", *AP_NAMES, *IDENTITY)
_OPTIONS = {"seed": "seed_column"}  # of the command line, where --seed is another thing
_MOST_EMPTY = 1_000_000  # cells that rows leave out at their end
_LISTED = 100  # columns that a message names


def read_cells(path: Path) -> tuple[list[str], list[tuple[int, Cells]]]:
    """The columns, and (line, cells without blanks around them) of each row that is not empty.

    Columns are split where the header's first line is: at commas, semicolons or tabs, or where a line ``sep=;`` above
    it says. A column that is one of ours but for capitals, blanks and hyphens ("Max Iter") is called as ours is: it
    must split laws as ours does.

    Raises:
        UserError: the file is missing, empty or no CSV file in UTF-8; two columns of one name; a row with more cells
            than columns, which has its values in other columns than it means.
    """
    rows = read_csv(path, what="results file")
    columns = _columns(next(rows, (0, []))[1], path)
    lines = [
        (line, cells)
        for line, row in rows
        if (cells := [unguarded(cell.strip()).strip() for cell in row]) and any(cells)
    ]
    if not columns:
        raise UserError(f"{path} is empty", hint="its first line must name the columns")
    written = sum(sum(map(len, cells)) + len(cells) for _, cells in lines)
    if len(lines) * len(columns) > written + _MOST_EMPTY:
        raise UserError(
            f"{path} has {len(lines):,} rows for {len(columns):,} columns, and most of the cells are not there",
            hint="give a CSV file whose rows have a cell for each column",
        )
    return columns, [(line, _named(cells, columns, path, line)) for line, cells in lines]


def column_called(name: str, columns: Collection[str]) -> str:
    """The column that a name means: itself, one of ours in another spelling, or the only one of the same letters."""
    ours = _ours(name)
    return ours if name not in columns and ours in columns else meant(name, columns) or name


def no_column(name: str, columns: Sequence[str], path: Path, *, named_by: str) -> UserError:
    """The error for a column that the file does not have.

    Args:
        named_by: the parameter of ``read_table``.
    """
    hint = "name one of these"
    if len(columns) == 1 and not columns[0].isidentifier():
        hint = "separate the columns by commas, semicolons or tabs"
    elif (near := nearest(name, columns)) is not None:
        shell = f"{flag(_OPTIONS.get(named_by, named_by))} {shlex.quote(near)}"
        hint = f"is {either(f'{named_by}={near!r}', shell)} meant?"
    some = [in_short(column) for column in columns[:_LISTED]] + ["..."] * (len(columns) > _LISTED)
    return UserError(f"{path}, line 1: no column {shown(name)}; it has {', '.join(some)}", hint=hint)


def number_in(cells: Cells, column: str, path: Path, line: int, *, decimal_comma: bool = True) -> float:
    """The number in a cell.

    Args:
        decimal_comma: take 38,25 for 38.25, as spreadsheets write it in half of the world; of whole numbers a comma
            may as well part thousands.

    Raises:
        UserError: it holds none; names file, line and column.
    """
    text = cells[column]
    value = decimal(text, comma=decimal_comma)
    if value is None:
        said = f"{shown(text)} is not a number" if text else "the cell is empty"
        plain = "write digits and a decimal point only, such as 38.25 or 10000000"
        hint = plain if any(map(str.isdigit, text)) else "repair the cell or remove the row"
        raise UserError(f"{path}, line {line}, column {shown(column)}: {said}", hint=hint)
    return value


def _ours(name: str) -> str:
    plain = re.sub(r"[\s-]+", "_", name.strip().casefold())
    return plain if plain in _KNOWN else name


def _columns(header: Sequence[str], path: Path) -> list[str]:
    names = [name.strip() for name in header]
    present = set(names)
    columns = [name if (ours := _ours(name)) in present else ours for name in names]
    for name, times in Counter(columns).items():
        if name and times > 1:
            raise UserError(f"{path}, line 1: {times} columns are called {shown(name)}", hint="rename one")
    return columns if any(columns) else []


def _named(cells: list[str], columns: Sequence[str], path: Path, line: int) -> Cells:
    if any(cells[len(columns) :]):
        raise UserError(
            f"{path}, line {line}: {len(cells)} cells for {len(columns)} columns",
            hint="put a text or a number that holds the delimiter in quotes",
        )
    padded = [*cells, *[""] * (len(columns) - len(cells))]
    return {column: cell for column, cell in zip(columns, padded) if column}
