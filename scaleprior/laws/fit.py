"""``fit_law``: from measurements to a law."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.candidates import fit_candidates, late_powers
from scaleprior.laws.combination import Combination
from scaleprior.laws.forms.form import Form
from scaleprior.laws.forms.registry import CALIBRATED, get_form, known_forms, made_form
from scaleprior.laws.law import Law
from scaleprior.laws.noise import first_noise, group_variance, looks_smoothed, shared_noise
from scaleprior.laws.observations import Observations, observe
from scaleprior.laws.posterior import posterior
from scaleprior.laws.process import condition
from scaleprior.laws.select import select
from scaleprior.laws.words import cautions, explain

__all__ = ["FormChoice", "check_draws", "combine", "fit_combined", "fit_law", "fit_together"]

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
        seed: of the draws; the same seed gives the same law.
        unit: "auto" (all values <= 1 are fractions; above, scores are percent and errors a loss), "fraction",
            "percent" or "loss".
        level: nominal coverage of the intervals, in (0, 1).

    Raises:
        UserError: input that no law can be fitted to; the message names the value.
    """
    data = observe(images, metric, kind=kind, weights=weights, groups=groups, unit=unit)
    return fit_together({"": data}, forms=forms, seed=seed, level=level)[""]


def fit_together(
    ladders: Mapping[str, Observations],
    *,
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    level: float = 0.9,
) -> dict[str, Law]:
    """Fit the laws of several ladders of one metric at once.

    How curves bend and how runs scatter is taken from all of them, and their shapes are alike as far as the data say
    so; levels are their own. So each law's interval is narrower than it would be alone, and differences of two laws
    are those of joint draws.

    Args:
        ladders: name -> measurements, of one kind.
        forms, seed, level: as for :func:`fit_law`.

    Raises:
        UserError: a seed or a level that is none; forms that do not fit the metric.
    """
    check_draws(seed, level)
    return fit_combined({name: combine(data, forms) for name, data in ladders.items()}, seed=seed, level=level)


def check_draws(seed: int, level: float) -> None:
    """Refuse a seed or a level of intervals that is none."""
    if not 0.0 < level < 1.0:
        raise UserError(f"level {level} is not inside (0, 1)", hint="0.9 is usual")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise UserError(f"seed is {seed!r}", hint="give a whole number of at least 0")


def combine(data: Observations, forms: FormChoice | Sequence[FormChoice] = "auto") -> Combination:
    """Fit the forms to one ladder.

    Raises:
        UserError: forms that do not fit the metric.
    """
    u, z, w = np.log(data.n) - np.log(data.n).mean(), np.log(data.e), data.w
    noise = first_noise(u, z, w)
    candidates = fit_candidates(_chosen_forms(forms, data), u, z, w, sigma=noise, powers=late_powers(u, w))
    return Combination(data, tuple(candidates), select(candidates, noise))


def fit_combined(ladders: Mapping[str, Combination], *, seed: int, level: float) -> dict[str, Law]:
    """The laws of ladders whose forms are fitted: one process for all of them, whatever their order."""
    names = sorted(ladders, key=lambda name: (ladders[name].data.rank, str(name)))
    combined = [ladders[name] for name in names]
    process = condition([c.data for c in combined], correlation=shared_noise([c.data for c in combined]))
    shifts = []
    for i, one in enumerate(combined):
        fitted = process.mean(np.log10(one.data.n) - process.origin)[i]
        shifts.append(group_variance(np.log(one.data.e) - fitted, one.data.group, one.data.w))
    laws = {}
    for name, one, curves, shift in zip(names, combined, posterior(process, combined, shifts, int(seed)), shifts):
        u, z = np.log(one.data.n), np.log(one.data.e)
        smoothed = looks_smoothed(u, z, curves.centre_at(one.data.n), process.noise)
        law = Law(
            forms=one,
            curves=curves,
            sigma=process.noise,
            raw_sigma=process.noise * (_RAW_TO_SMOOTHED if smoothed else 1.0),
            level_variance=shift,
            level=level,
            seed=int(seed),
            process=process,
        )
        laws[name] = replace(law, why=explain(law), notes=cautions(law))
    return {name: laws[name] for name in ladders}
