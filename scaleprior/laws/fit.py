"""``fit_law``: from measurements to a law; ``fit_table``: from a results file to its laws."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.candidates import fit_candidates, late_powers
from scaleprior.laws.choosing import in_words
from scaleprior.laws.forms.form import Form
from scaleprior.laws.forms.registry import CALIBRATED, get_form, known_forms, made_form
from scaleprior.laws.grouping import listed
from scaleprior.laws.intervals import first_noise, group_variance, looks_smoothed, noise_estimate, refits
from scaleprior.laws.law import Law
from scaleprior.laws.observations import Observations, observe
from scaleprior.laws.select import select
from scaleprior.laws.table import Table
from scaleprior.laws.words import explain
from scaleprior.wording import parameter

__all__ = ["fit_law", "fit_table"]

_RAW_TO_SMOOTHED = 2.0  # raw test values of the benchmark scatter by this factor more than its smoothed training values


FormChoice = str | Form | type[Form]
"""A form: by name, itself, or its class."""


def _chosen_forms(forms: FormChoice | Sequence[FormChoice], data: Observations) -> list[Form]:
    if isinstance(forms, str) and forms == "auto":
        return [form for form in CALIBRATED if data.bounded or not form.bounded_only]
    chosen: dict[str, Form] = {}
    for given in [forms] if isinstance(forms, (str, Form, type)) or not isinstance(forms, Iterable) else forms:
        form = get_form(given) if isinstance(given, str) else made_form(given)
        if form.bounded_only and not data.bounded:
            raise UserError(
                f"form {form.name!r} needs a bounded metric, this is an unbounded loss", hint="use another form"
            )
        if chosen.setdefault(form.name, form) is not form and type(chosen[form.name]) is not type(form):
            raise UserError(f"two forms are called {form.name!r}", hint="rename one of them")
    if not chosen:
        raise UserError("no forms to fit", hint=f"'auto' or any of {', '.join(known_forms())}")
    return list(chosen.values())


def fit_law(
    images: ArrayLike,
    metric: ArrayLike,
    *,
    kind: str = "score",
    weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> Law:
    """Fit the law that links a metric to the number of pretraining images.

    Args:
        images: images per measurement, > 0; at least 3 distinct values. From-scratch runs (0) are not part of a law.
        metric: the measured values: scores or errors in [0, 1] or in [0, 100], or (errors) an unbounded loss.
        kind: "score" (more is better, AP) or "error" (less is better).
        weights: relative inverse variances; None for equal.
        groups: what measurements share, usually the seed; None for independent measurements.
        forms: "auto" for the calibrated ones, or one or several of ``known_forms()``; a form itself or its class may
            stand for its name.
        seed: of the noise in refits; the same seed gives the same law.
        unit: "auto" (all values <= 1 are fractions; above, scores are percent and errors a loss), "fraction",
            "percent" or "loss".
        level: nominal coverage of the intervals, in (0, 1).

    Raises:
        UserError: input that no law can be fitted to; the message names the value.
    """
    if not 0.0 < level < 1.0:
        raise UserError(f"level {level} is not inside (0, 1)", hint="0.9 is usual")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed is {seed!r}", hint="give a whole number of at least 0")
    data = observe(images, metric, kind=kind, weights=weights, groups=groups, unit=unit)
    chosen = _chosen_forms(forms, data)
    u, z, w = np.log(data.n) - np.log(data.n).mean(), np.log(data.e), data.w
    first = first_noise(u, z, w)
    candidates = fit_candidates(chosen, u, z, w, sigma=first, powers=late_powers(u, w))
    selection = select(candidates, first)
    sigma, dof = noise_estimate(candidates, selection.weights, u, z, w)
    law = Law(
        data=data,
        candidates=tuple(candidates),
        selection=selection,
        refits=tuple(refits(candidates, u, z, w, sigma=sigma, seed=seed)),
        sigma=sigma,
        raw_sigma=sigma,
        dof=dof,
        level_variance=0.0,
        level=level,
    )
    fitted = law.log_error(data.n)
    smoothed = looks_smoothed(u, z, fitted, sigma)
    law = replace(
        law,
        raw_sigma=sigma * (_RAW_TO_SMOOTHED if smoothed else 1.0),
        level_variance=group_variance(z - fitted, data.group, w),
    )
    return replace(law, why=explain(law))


def fit_table(
    table: Table,
    *,
    kind: str = "score",
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> dict[str, Law]:
    """Fit a law to each of the table's series that has enough rungs; ``table.too_few`` says why others have none.

    Args:
        table: of ``read_table``.
        kind, forms, seed, unit, level: as for :func:`fit_law`.

    Raises:
        UserError: a series that no law can be fitted to, or none with enough rungs; says what splits the rows.
    """
    too_few = table.too_few if len(table.series) > 1 else {}  # fit_law says it of a single one
    if too_few and len(too_few) == len(table.series):
        raise _none_left(table)
    laws = {}
    for name, rows in table.series.items():
        if name in too_few:
            continue
        try:
            laws[name] = fit_law(
                *(rows.images, rows.metric),
                kind=kind,
                groups=rows.seeds,
                forms=forms,
                seed=seed,
                unit=unit,
                level=level,
            )
        except UserError as e:
            where = f"{', '.join(table.group) or 'all rows'} {name}"
            raise UserError(f"{table.source}, {where}: {e.wording.marked}") from e
    return laws


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
