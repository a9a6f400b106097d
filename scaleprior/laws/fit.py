"""``fit_law``: from measurements to a law."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.candidates import fit_candidates, late_powers
from scaleprior.laws.forms.form import Form
from scaleprior.laws.forms.registry import CALIBRATED, get_form, known_forms, made_form
from scaleprior.laws.intervals import first_noise, group_variance, looks_smoothed, noise_estimate, refits
from scaleprior.laws.law import Law
from scaleprior.laws.observations import Observations, observe
from scaleprior.laws.select import select
from scaleprior.laws.words import cautions, explain

__all__ = ["FormChoice", "fit_law"]

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
    return replace(law, why=explain(law), notes=cautions(law))
