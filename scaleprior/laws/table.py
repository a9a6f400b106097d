"""Reads results.csv for the laws: which rows belong to which law, with errors that name file, line and column."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from scaleprior.errors import UserError

__all__ = ["Series", "Table", "read_table"]

_DEFAULT_GROUP = "arch"


@dataclass
class Series:
    """The rows of one law: images (> 0), metric as written, seed as written (None without a seed column)."""

    images: list[float] = field(default_factory=list)
    metric: list[float] = field(default_factory=list)
    seeds: list[str | None] = field(default_factory=list)


@dataclass(frozen=True)
class Table:
    """A results file by law.

    Attributes:
        series: name -> rows with images > 0, in the order of first appearance.
        from_scratch: name -> metrics of the rows with 0 images, which are no part of a law.
        group: the column that names the laws; "" if all rows are one law.
    """

    series: Mapping[str, Series]
    from_scratch: Mapping[str, list[float]]
    group: str


def _number(row: Mapping[str, str | None], column: str, path: Path, line: int) -> float:
    text = (row.get(column) or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        shown = f"{text!r} is not a number" if text else "the cell is empty"
        raise UserError(f"{path}, line {line}, column {column!r}: {shown}", hint="repair the cell or remove the row")
    return value


def read_table(
    path: str | Path, *, x: str = "images", y: str = "ap", group: str | None = None, seed: str = "seed"
) -> Table:
    """Read a CSV file with a header line.

    Args:
        path: the file.
        x, y: columns of images and of the metric; both must exist.
        group: column that names the laws; None: "arch" if present, else one law for all rows.
        seed: column of seeds; ignored where absent.

    Raises:
        UserError: the file is missing, unreadable, empty, or lacks a column; a cell is not a number, or images are
            negative; the message names file, line and column.
    """
    path = Path(path)
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = list(reader.fieldnames or [])
            rows = [(reader.line_num, row) for row in reader]
    except FileNotFoundError as e:
        raise UserError(f"results file not found: {path}", hint="check the path") from e
    except (OSError, UnicodeDecodeError, csv.Error) as e:
        raise UserError(f"results file {path} cannot be read: {e}", hint="give a CSV file in UTF-8") from e
    if not columns:
        raise UserError(f"{path} is empty", hint="its first line must name the columns")
    for column in (x, y, *([group] if group else [])):
        if column not in columns:
            raise UserError(
                f"{path}, line 1: no column {column!r}; it has {', '.join(columns)}", hint="name one of these"
            )
    if not rows:
        raise UserError(f"{path} has a header but no rows", hint="finish some cells of the study first")
    named = group or (_DEFAULT_GROUP if _DEFAULT_GROUP in columns else "")
    series: dict[str, Series] = {}
    from_scratch: dict[str, list[float]] = {}
    for line, row in rows:
        name = (row.get(named) or "").strip() if named else y
        images, metric = _number(row, x, path, line), _number(row, y, path, line)
        if images < 0:
            raise UserError(f"{path}, line {line}, column {x!r}: {images:g} images", hint="images cannot be negative")
        if images == 0:
            from_scratch.setdefault(name, []).append(metric)
            continue
        rows_of = series.setdefault(name, Series())
        rows_of.images.append(images)
        rows_of.metric.append(metric)
        rows_of.seeds.append((row.get(seed) or "").strip() or None if seed in columns else None)
    if not series:
        raise UserError(f"{path} has only from-scratch rows (0 images)", hint="a law needs pretrained runs")
    return Table(series, from_scratch, named)
