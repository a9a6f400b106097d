"""A published study: what a study's folder says, without weights, data and places, fit for a repository::

    results.csv       a row each cell that is done
    published.json    the study's facts, and of each cell how it was made and what that cost
    cards/NAME.json   the card of each backbone
    report.md         with curve.png

What was measured stands in ``results.csv`` alone, and everything that a report says follows from these two files. So
whoever has them has the report, to the byte.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from scaleprior.ap_names import AP_NAMES
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.laws.results_csv import number_in, read_cells
from scaleprior.parsing import is_regular, read_json
from scaleprior.study.cell import Cell, CellData
from scaleprior.study.fields import Fields
from scaleprior.study.result import CellResult, read_result
from scaleprior.study.sections import StageSection
from scaleprior.study.view import CellStatus, StudyView

__all__ = ["PUBLISHED_FILE", "RESULTS_FILE", "is_published", "read_published", "write_published"]

PUBLISHED_FILE, RESULTS_FILE = "published.json", "results.csv"
_SCHEMA = 1
_HINT = "publish the study again"
_DIGITS = 1  # of seconds, as the report shows them


def is_published(path: Path) -> bool:
    """Whether ``path`` is the folder of a published study, or its ``results.csv``."""
    return is_regular(_folder(path) / PUBLISHED_FILE)


def write_published(view: StudyView, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write ``published.json``, in which no path of this machine is left of the cells.

    Args:
        facts: in the place of the view's own.
    """
    cells = []
    for status in view.cells:
        entry: dict[str, Any] = {"cell": _without_places(status.cell).to_dict()}
        if (result := status.result) is not None:
            entry |= {"seconds": _rounded(result.seconds), "cpu_seconds": _rounded(result.cpu_seconds)}
            entry |= {"versions": dict(result.versions), "cells_at_once": _rounded(result.cells_at_once, 3)}
            if result.pretrain is not None:
                entry["pretrain"] = result.pretrain.to_dict()
        cells.append(entry)
    raw = {"schema": _SCHEMA, "name": view.name, "engine": view.engine, "facts": dict(facts), "cells": cells}
    write_json(folder / PUBLISHED_FILE, raw)


def read_published(path: Path) -> StudyView:
    """The study as it was when it was published; cells without a row of ``results.csv`` have no result.

    Args:
        path: the folder, or its ``results.csv``.

    Raises:
        UserError: one of the files is missing or damaged, or the two do not belong together.
    """
    folder = _folder(path)
    record = folder / PUBLISHED_FILE
    raw = read_json(record, what="published study")
    if not isinstance(raw, dict) or raw.get("schema") != _SCHEMA:
        schema = raw.get("schema") if isinstance(raw, dict) else None
        raise UserError(f"{record} has schema {schema}, this version reads {_SCHEMA}", hint="take its ScalePrior")
    rows = _rows(folder / RESULTS_FILE)
    own = Fields(raw, where=str(record), hint=_HINT)
    entries = [_entry(entry, f"{record}: cell {n}") for n, entry in enumerate(own.items("cells"), 1)]
    name, engine, facts = own.text("name"), own.text("engine"), own.facts("facts")
    seen = Counter(cell.key for cell, _ in entries)
    if twice := [key for key, count in seen.items() if count > 1]:
        raise own.damaged(f"it has cell {twice[0]} twice")
    stray = sorted(set(rows) - {cell.key for cell, _ in entries})
    if stray:
        raise UserError(
            f"{folder / RESULTS_FILE}, line {rows[stray[0]][0]}: {record.name} has no cell {stray[0]}",
            hint="take both files of one publication",
        )
    cells = tuple(_status(cell, entry, rows.get(cell.key), folder) for cell, entry in entries)
    return StudyView(folder, name, engine, cells, facts)


def _entry(raw: Any, where: str) -> tuple[Cell, Fields]:
    entry = Fields(raw, where=where, hint=_HINT)
    return Cell.from_dict(entry.raw.get("cell"), where=where, hint=_HINT), entry


def _folder(path: Path) -> Path:
    return path.parent if path.name == RESULTS_FILE else path


def _rounded(numbers: Mapping[str, float], digits: int = _DIGITS) -> dict[str, float]:
    return {name: round(value, digits) for name, value in numbers.items()}


def _without_places(cell: Cell) -> Cell:
    data = CellData("", (cell.data.train[0], "", ""), (cell.data.val[0], "", ""))
    stage = None if cell.pretrain is None else _named(cell.pretrain)
    return replace(cell, data=data, weights=Path(cell.weights).name, pretrain=stage, finetune=_named(cell.finetune))


def _named(stage: StageSection) -> StageSection:
    """With files outside ScalePrior's configs by their names alone."""
    names = [Path(file).name if Path(file).is_absolute() else file for file in (stage.config, *stage.pieces)]
    return StageSection(names[0], stage.overrides, tuple(names[1:]))


_Row = tuple[int, Mapping[str, str]]


def _rows(path: Path) -> dict[str, _Row]:
    """Of each cell's key its line of ``results.csv``."""
    columns, lines = read_cells(path)
    needed = ("arch", "images", "seed", "cell", *AP_NAMES)
    missing = [column for column in needed if column not in columns]
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r}", hint="take the file as `study publish` wrote it")
    rows: dict[str, _Row] = {}
    for line, cells in lines:
        key = cells["cell"]
        if key in rows:
            raise UserError(f"{path}, line {line}: cell {key} again, after line {rows[key][0]}", hint="keep one")
        rows[key] = line, cells
    return rows


def _status(cell: Cell, entry: Fields, row: _Row | None, folder: Path) -> CellStatus:
    if row is None:
        return CellStatus(cell, folder, "pending")
    line, said = row
    path = folder / RESULTS_FILE
    for column, value in (("arch", cell.arch), ("images", str(cell.images)), ("seed", str(cell.seed))):
        if said[column] != value:
            raise UserError(
                f"{path}, line {line}: {column} of cell {cell.key} is {said[column]}, in {PUBLISHED_FILE} {value}",
                hint="take both files of one publication",
            )
    return CellStatus(cell, folder, "done", result=_result(cell, entry, said, path, line))


def _result(cell: Cell, entry: Fields, said: Mapping[str, str], path: Path, line: int) -> CellResult:
    detection = {word: _ap(said, column, path, line) for column, word in AP_NAMES.items()}
    learned = entry.inner("pretrain").raw if "pretrain" in entry.raw else None
    return read_result(entry, detection, learned, cell=cell.key)


def _ap(said: Mapping[str, str], column: str, path: Path, line: int) -> float | None:
    """In [0, 100]; None, of the sizes alone, where no object has that size."""
    if not said[column] and column.startswith("ap_"):
        return None
    value = number_in(dict(said), column, path, line, decimal_comma=False)
    if not 0 <= value <= 100:
        raise UserError(f"{path}, line {line}, column {column!r}: {value:g} is no AP", hint="AP is in [0, 100]")
    return value
