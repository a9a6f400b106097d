"""``fit_table``: from a results file to the laws of its ladders."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from scaleprior.errors import UserError
from scaleprior.laws.choosing import in_words
from scaleprior.laws.fit import FormChoice, check_draws
from scaleprior.laws.grouping import Series, listed
from scaleprior.laws.observations import Observations, observe, refuse_mixture
from scaleprior.laws.several import Laws, fit_observed
from scaleprior.laws.spelling import meant, nearest
from scaleprior.laws.table import Table
from scaleprior.laws.units import AUTO, PERCENT, check_unit
from scaleprior.wording import Wording, parameter

__all__ = ["fit_table", "series_called"]


def fit_table(
    table: Table,
    *,
    names: Collection[str] | None = None,
    kind: str = "score",
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> Laws:
    """Fit a law to each of the table's series; one that none can be fitted to costs the others nothing.

    All are fitted together, as :func:`scaleprior.laws.fit_laws` does it, also where ``names`` are some of them: a law
    is the same whichever are asked for. Those of another data set are fitted by themselves, and a series whose rungs
    are not comparable alone.

    Args:
        table: of ``read_table``.
        names: the series to return, each of which must have a law; None for all that can have one.
        kind, forms, seed, level: as for :func:`fit_law`.
        unit: as for :func:`fit_law`; "auto" takes a metric called AP or AR for percent where a value of the file is
            above 1 or the file is one of this package's, and asks otherwise.

    Returns:
        The laws, with what was left out and why.

    Raises:
        UserError: no series can have a law, or one of ``names`` cannot; says why, and what splits the rows. The metric
            is called AP and may be fractions or percent.
    """
    asked = None if names is None else [series_called(table, name) for name in names]
    if kind == "score":
        values = {name: series.metric for name, series in table.series.items()}
        checked = unit == AUTO and table.unit == PERCENT
        unit = check_unit(unit, table.unit, table.metric, values, table.source)
    else:
        checked = False
    check_draws(seed, level)
    too_few = table.too_few if len(table.series) > 1 else {}  # observe says it of a single one
    if too_few and len(too_few) == len(table.series):
        raise _none_left(table)
    observed, failed = _observed(table, [name for name in table.series if name not in too_few], kind, unit, checked)
    wanted = asked if asked is not None else [*observed, *failed]
    kinds = {name: rows.identity.get("dataset") if rows.comparable else name for name, rows in table.series.items()}
    laws = Laws({}, {})
    if not failed.keys() & set(asked or ()):
        laws = fit_observed(observed, kinds=kinds, forms=forms, seed=seed, level=level)
        failed |= laws.left_out
    found = {name: laws[name] for name in wanted if name in laws}
    missing = {name: failed[name] for name in wanted if name in failed}
    if missing and (asked is not None or not found):
        raise _refusal(table, missing)
    left_out = {} if asked is not None else {**too_few, **missing}
    return Laws(
        found,
        {name: Wording(left_out[name]) for name in table.series if name in left_out},
        [names for names in laws.together if found.keys() & set(names)],
    )


def _observed(
    table: Table, names: Iterable[str], kind: str, unit: str, checked: bool
) -> tuple[dict[str, Observations], dict[str, Wording]]:
    """The measurements of the series that can have a law, and what is wrong with the others."""
    observed: dict[str, Observations] = {}
    failed: dict[str, Wording] = {}
    for name in names:
        rows = table.series[name]
        try:
            if checked:
                _refuse_fractions(rows, table)
            observed[name] = observe(rows.images, rows.metric, kind=kind, groups=rows.seeds, unit=unit)
        except UserError as e:
            failed[name] = e.wording
    return observed, failed


def series_called(table: Table, name: str) -> str:
    """The name of the series that is meant and can have a law; one that differs in capitals and punctuation is it, too.

    Raises:
        UserError: there is none, or it has too few rungs, or the name is that of several; lists those there are.
    """
    known = [one for one in table.series if one not in table.too_few]
    if (found := meant(name, known)) is not None:
        return found
    if (short := meant(name, table.too_few)) is not None:
        raise UserError(f"{table.source}: {short} has {table.too_few[short]}", hint=f"there are {_quoted(known)}")
    if (several := meant(name, table.differ)) is not None:
        raise UserError(
            f"{table.source}: {several} is several laws, which differ in {', '.join(table.differ[several])}",
            hint=f"name one of {_quoted(known)}, or choose rows with {parameter('where')}",
        )
    near = nearest(name, known)
    hint = f"is {shlex.quote(near)} meant? there are {_quoted(known)}" if near else f"there are {_quoted(known)}"
    raise UserError(f"{table.source} has no law {name!r}", hint=hint)


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(map(shlex.quote, names)) or "no law"


def _refuse_fractions(rows: Series, table: Table) -> None:
    """Refuse fractions among percent: within a series, or as a whole series beside others of the file."""
    alone = max(rows.metric) > 1.0
    beside = [rows] if alone else list(table.series.values())
    refuse_mixture(
        np.array([n for series in beside for n in series.images]),
        np.array([value for series in beside for value in series.metric]),
    )


def _refusal(table: Table, failed: Mapping[str, Wording]) -> UserError:
    """The error for series without a law: the first of them, named but where all have the same to say."""
    name, why = next(iter(failed.items()))
    if len(failed) > 1 and len(set(failed.values())) == 1:
        return UserError(why.marked)  # of the forms or the unit that was asked for, not of the rows
    return UserError(f"{table.source}, {', '.join(table.group) or 'all rows'} {name}: {why.marked}")


def _none_left(table: Table) -> UserError:
    """The error that says what splits the rows, and the words that choose among them or draw one law of them."""
    short = "; ".join(f"{name}: {why}" for name, why in table.too_few.items())
    if not table.differ:
        return UserError(f"{table.source} has too few rungs for a law: {short}", hint="finish more cells of the ladder")
    splits = [
        f"{name} in {', '.join(f'{c} ({listed(values)})' for c, values in columns.items())}"
        for name, columns in table.differ.items()
    ]
    columns = {c: values for of_group in table.differ.values() for c, values in of_group.items()}
    column, values = next(iter(columns.items()))
    return UserError(
        f"{table.source}: rows differ in what no law may mix, and no part is left with enough rungs. Differ: "
        f"{'; '.join(splits)}. Parts: {short}",
        hint=f"choose rows with {in_words(column, values[0])}, or, where the difference is known not to matter, draw "
        f"one law with {parameter('across', ','.join(columns))}",
    )
