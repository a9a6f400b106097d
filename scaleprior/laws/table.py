"""Reads results.csv for the laws: which rows belong to which law, with errors that name file, line and column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.laws import remarks
from scaleprior.laws.choosing import Cells, Chosen, choose
from scaleprior.laws.grouping import (
    COMPARABLE,
    IDENTITY,
    Group,
    Row,
    Series,
    grouped,
    is_comparable,
    listed,
    plain_number,
)
from scaleprior.laws.results_csv import column_called, no_column, number_in, read_cells
from scaleprior.laws.units import AUTO, unit_of_column
from scaleprior.wording import Wording, counted, parameter

__all__ = ["MIN_RUNGS", "LeftOut", "Series", "Table", "differences", "read_table"]

MIN_RUNGS = 3
"""Different numbers of images that a law needs."""
_DEFAULT_GROUP, _DEFAULT_SEED = "arch", "seed"


@dataclass(frozen=True)
class LeftOut:
    """Rows of a results file that are in no law.

    Attributes:
        reason: "not asked for", "copy", "not comparable", "from scratch" or "too few rungs".
        law: whose they would be; "" of rows that were left out before they were told apart.
        lines: of the file.
    """

    reason: str
    law: str
    lines: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"reason": self.reason, "law": self.law, "rows": len(self.lines), "lines": list(self.lines)}


@dataclass(frozen=True)
class Table:
    """A results file by law.

    Attributes:
        series: name -> rows with images > 0, in the order of first appearance.
        from_scratch: name -> metrics of the rows with 0 images, which are no part of a law.
        group: the columns that name the laws; empty if all rows are one law.
        differ: name of a group that is several laws -> column that splits it -> its values.
        notes: what was split, left out or drawn across, in words.
        source: the file.
        metric: the column of the metric.
        unit: what its name and its neighbours tell of its unit (:func:`scaleprior.laws.units.unit_of_column`).
        left_out: the rows that are in no series, and why.
    """

    series: Mapping[str, Series]
    from_scratch: Mapping[str, list[float]]
    group: tuple[str, ...] = ()
    differ: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    notes: tuple[Wording, ...] = ()
    source: str = ""
    metric: str = ""
    unit: str = AUTO
    left_out: tuple[LeftOut, ...] = ()

    @property
    def too_few(self) -> dict[str, str]:
        """Name -> why, of the series that no law can be fitted to: those with fewer than :data:`MIN_RUNGS` rungs."""
        found = {}
        for name, series in self.series.items():
            rungs = sorted(set(series.images))
            if len(rungs) < MIN_RUNGS:
                sizes = " and ".join(f"{n:,.0f}" for n in rungs)
                found[name] = f"{counted(len(rungs), 'rungs')} ({sizes} images), a law needs {MIN_RUNGS}"
        return found


def read_table(
    path: str | Path,
    *,
    x: str = "images",
    y: str = "ap",
    group: str | Sequence[str] | None = None,
    seed: str = "seed",
    where: Chosen | None = None,
    across: str | Sequence[str] = (),
) -> Table:
    """Read a CSV file with a header line.

    Rows that differ in what identifies a comparison (``scaleprior.laws.grouping.IDENTITY``: detector, schedule, data
    set, engine, recipes, ...) are points of different laws, named by what differs; an empty cell there is a value of
    its own, "unknown". Rungs with ``comparable`` "no" are left out, unless ``where`` asks for them.

    Args:
        path: the file.
        x, y: columns of images and of the metric; both must exist.
        group: columns that name the laws, several with commas or as a list; None: "arch" if present, else one law for
            all rows.
        seed: column of seeds; "seed" may be absent, any other must be there.
        where: column -> value or values: the rows to read. "unknown" means empty cells.
        across: columns of ``IDENTITY`` whose values are points of one law all the same.

    A column or a value is also known by its letters and digits alone (``Max Iter`` is max_iter) where that leaves one.

    Raises:
        UserError: the file is missing, unreadable, empty, or lacks a column or the rows asked for; a cell is not a
            number, or images are negative; the message names file, line and column.
    """
    path = Path(path)
    columns, lines = read_cells(path)
    x, y, seed = (column_called(name, columns) for name in (x, y, seed))
    where = _where(where or {}, columns)
    drawn_across = _names(across, columns)
    named = _group_columns(group, columns, drawn_across)
    _check_columns(path, columns, x=[x], y=[y], group=named, across=drawn_across, seed=[seed])
    if not lines:
        raise UserError(f"{path} has a header but no rows", hint="finish some cells of the study first")
    splitting = [c for c in IDENTITY if c in columns and c not in (x, y, seed)]
    _check_across(drawn_across, named, splitting)
    chosen = choose(lines, where, columns, str(path))
    once, copies = _once(chosen, seed)
    all_rows = [_row(cells, x, y, seed, path, line) for line, cells in once]
    asked = COMPARABLE not in splitting or COMPARABLE in (*named, *drawn_across, *where)
    rows, incomparable = _without_incomparable(all_rows, asked=asked)
    of_ladder = remarks.of_incomparable(incomparable, named)
    _check_rungs(rows, of_ladder, path)
    groups = grouped(rows, named, splitting, drawn_across)
    notes = [*of_ladder, *remarks.of_copies(copies), *remarks.of_seeds_elsewhere(seed, columns)]
    notes += [note for one in groups for note in (*remarks.of_split(one), *one.notes)]
    of_study = remarks.of_study(path, {row.cells.get(_DEFAULT_GROUP, "") for row in rows})
    notes += [f"{arch}, as its study says: {words}" for arch, words in of_study.items()]
    for series in (series for one in groups for series in one.series.values()):
        if any(remarks.NOT_COMPARABLE in of_study.get(arch, "") for arch in series.identity.get(_DEFAULT_GROUP, ())):
            series.comparable = False
    kept = {line for line, _ in chosen}
    unasked = [line for line, _ in lines if line not in kept]
    left_out = {"not asked for": unasked, "copy": copies, "not comparable": [row.line for row in incomparable]}
    return _table(path, y, unit_of_column(y, columns, lines), named, groups, notes, left_out)


def differences(a: Series, b: Series) -> dict[str, tuple[str, str]]:
    """Identity column -> what the rows of ``a`` and of ``b`` say in it, where that is not the same."""
    columns = [c for c in dict.fromkeys((*a.identity, *b.identity)) if a.identity.get(c) != b.identity.get(c)]
    return {c: (listed(a.identity.get(c, ())), listed(b.identity.get(c, ()))) for c in columns}


def _where(where: Chosen, columns: Sequence[str]) -> Chosen:
    found: dict[str, Any] = {}
    for name, values in where.items():
        if (column := column_called(name, columns)) in found:
            raise UserError(
                f"{parameter('where')} names column {column!r} twice, once as {name!r}", hint="name it once"
            )
        found[column] = values
    return found


def _names(names: str | Sequence[str], columns: Sequence[str]) -> tuple[str, ...]:
    parts = names.split(",") if isinstance(names, str) else names
    return tuple(dict.fromkeys(column_called(part.strip(), columns) for part in parts if part.strip()))


def _group_columns(group: str | Sequence[str] | None, columns: Sequence[str], across: Sequence[str]) -> tuple[str, ...]:
    if not group:
        return (_DEFAULT_GROUP,) if _DEFAULT_GROUP in columns and _DEFAULT_GROUP not in across else ()
    if not (named := _names(group, columns)):
        raise UserError(f"{parameter('group')} is {group!r}, which names no column", hint="such as arch,detector")
    return named


def _check_columns(path: Path, columns: Sequence[str], **asked: Sequence[str]) -> None:
    """Refuse columns that the file does not have, by the parameters of :func:`read_table` that name them."""
    for name, wanted in asked.items():
        for column in wanted:
            if column not in columns and (name, column) != ("seed", _DEFAULT_SEED):
                raise no_column(column, columns, path, named_by=name)


def _check_rungs(rows: Sequence[Row], incomparable: Sequence[str], path: Path) -> None:
    """Refuse a file without a rung for a law; ``incomparable`` is what is said of those that were left out."""
    if any(row.images > 0 for row in rows):
        return
    if incomparable:
        raise UserError(
            f"{path} has only rungs that are not comparable: {incomparable[0]}",
            hint="or add backbones of one corpus and recipe",
        )
    raise UserError(f"{path} has only from-scratch rows (0 images)", hint="a law needs pretrained runs")


def _table(
    path: Path,
    metric: str,
    unit: str,
    named: tuple[str, ...],
    groups: Sequence[Group],
    notes: Sequence[str],
    left_out: Mapping[str, Sequence[int]],
) -> Table:
    """The table of these groups; one law for all rows is called by its metric."""
    scratch = {name or metric: members for one in groups for name, members in one.from_scratch.items()}
    of_scratch = (LeftOut("from scratch", name, tuple(row.line for row in rows)) for name, rows in scratch.items())
    return Table(
        series={name or metric: series for one in groups for name, series in one.series.items()},
        from_scratch={name: [row.metric for row in rows] for name, rows in scratch.items()},
        group=named,
        differ={one.name or metric: one.differ for one in groups if one.differ},
        notes=tuple(map(Wording, notes)),
        source=str(path),
        metric=metric,
        unit=unit,
        left_out=(*(LeftOut(why, "", tuple(lines)) for why, lines in left_out.items() if lines), *of_scratch),
    )


def _once(lines: list[tuple[int, Cells]], seed: str) -> tuple[list[tuple[int, Cells]], list[int]]:
    """The rows without copies, and the lines of those: two runs of one seed do not agree in every cell."""
    seen: set[tuple[str, ...]] = set()
    kept, copies = [], []
    for line, cells in lines:
        content = tuple(cells.values())
        if cells.get(seed) and content in seen:
            copies.append(line)
        else:
            seen.add(content)
            kept.append((line, cells))
    return kept, copies


def _row(cells: Cells, x: str, y: str, seed: str, path: Path, line: int) -> Row:
    images, metric = number_in(cells, x, path, line, decimal_comma=False), number_in(cells, y, path, line)
    if images < 0:
        raise UserError(f"{path}, line {line}, column {x!r}: {images:g} images", hint="images cannot be negative")
    return Row(
        {c: v for c, v in cells.items() if c not in (x, y)},
        images,
        metric,
        plain_number(cells.get(seed, "")) or None,
        line,
    )


def _check_across(across: Sequence[str], group: Sequence[str], splitting: Sequence[str]) -> None:
    for column in across:
        if column in group:
            raise UserError(f"{parameter('across')} and {parameter('group')} name {column}", hint="keep one")
        if column not in splitting:
            raise UserError(
                f"{parameter('across')} is {column!r}, which splits no law",
                hint=f"of this file {', '.join(splitting)} do",
            )


def _without_incomparable(rows: list[Row], *, asked: bool) -> tuple[list[Row], list[Row]]:
    """The rows that are points of a law, and the others."""
    left = [] if asked else [row for row in rows if row.images > 0 and not is_comparable(row)]
    return rows if asked else [row for row in rows if row.images == 0 or is_comparable(row)], left
