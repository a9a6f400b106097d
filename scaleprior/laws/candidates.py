"""Fits every (form, weighting) on all points and on the points below each hold-out, in one batch per form.

K points sorted by u = ln(n / n_ref); z = ln error; W weightings; O hold-outs (the largest points left out).
A candidate is one form under one weighting n^power: power 0 trusts all points alike, larger powers the late ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleprior.errors import UserError
from scaleprior.laws.forms.form import Array, Form
from scaleprior.laws.solver import solve

__all__ = ["DENSE", "Candidate", "fit_candidates", "holdout_edges", "late_powers", "late_weights"]

DENSE = 12  # sizes from which a ladder is dense: hold-outs are octaves, not single sizes
_MIN_EFFECTIVE_POINTS = 8.0  # a late weighting that leans on fewer points than this follows their noise


@dataclass(frozen=True)
class Candidate:
    """One fitted form.

    Attributes:
        form: the form.
        power: points are weighted by n^power.
        theta: [P] parameters on all points.
        held_back: [O] root mean square errors of ln error on the held-back points, per hold-out.
        misfit: weighted root mean square residual of ln error on the points it was fitted to.
    """

    form: Form
    power: float
    theta: Array
    held_back: Array
    misfit: float

    def log_error(self, u: Array, ceiling: float = np.inf) -> Array:
        """ln e at u [K], with e cut to [1e-6, ceiling]."""
        return np.log(np.clip(self.form.error(self.theta, u), 1e-6, ceiling))


def holdout_edges(u: Array) -> list[float]:
    """Largest u that stays in training, per hold-out; at least 3 distinct sizes stay.

    Dense ladders stop half an octave, one, one and a half and two octaves below the top, and are judged on the octave
    that follows; sparse ones leave out the largest size and the largest two, and are judged on those.
    """
    sizes = np.unique(u)
    edges = []
    if sizes.size >= DENSE:
        edges = [sizes[-1] - octaves * np.log(2.0) for octaves in (0.5, 1.0, 1.5, 2.0)]
        edges = [edge for edge in edges if (sizes <= edge).sum() >= 6 and (sizes > edge).any()]
    if not edges:
        edges = [float(sizes[-1 - held]) for held in (1, 2) if sizes.size - held >= 3]
    return edges


def late_powers(u: Array, w: Array, powers: Sequence[float] = (0.0, 4.0)) -> list[float]:
    """Those weightings n^power that still rest on enough points; 0 always."""
    kept = []
    for power in powers:
        late = w * np.exp(power * (u - u.max()))
        if power == 0 or late.sum() ** 2 / (late**2).sum() >= _MIN_EFFECTIVE_POINTS:
            kept.append(power)
    return kept


def late_weights(u: Array, w: Array, power: float, mask: NDArray[np.bool_] | None = None) -> Array:
    """w n^power on the points of ``mask`` (all by default), 0 elsewhere, summing to the number of points in it."""
    mask = np.ones(u.size, bool) if mask is None else mask
    late = np.where(mask, w * np.exp(power * (u - u[mask].max())), 0.0)
    return late * mask.sum() / late.sum()


def fit_candidates(
    forms: Sequence[Form], u: Array, z: Array, w: Array, *, sigma: float, powers: Sequence[float]
) -> list[Candidate]:
    """Fit each form under each weighting.

    Args:
        u, z, w: [K] ln(n / n_ref), ln error and weights (mean 1).
        sigma: noise of z for a point of weight 1.
        powers: the weightings.

    Returns:
        One candidate per (form, power), in that order.

    Raises:
        UserError: a form has no finite values at the points.
    """
    edges = holdout_edges(u)
    inside = np.array([np.ones(u.size, bool), *[u <= edge + 1e-9 for edge in edges]])  # [1 + O, K]
    octave = np.log(2.0) + 1e-6 if np.unique(u).size >= DENSE else np.inf
    beyond = [w * ((u > edge + 1e-9) & (u <= edge + octave)) for edge in edges]
    found = []
    for form in forms:
        weights = np.array([late_weights(u, w, power, mask) for power in powers for mask in inside])  # [W (1 + O), K]
        starts = form.starts(u, np.exp(z))
        problems, count = len(weights), len(starts)
        theta, cost = solve(form, np.tile(starts, (problems, 1)), u, z, np.repeat(weights, count, 0), sigma=sigma)
        best = np.where(np.isfinite(cost), cost, np.inf).reshape(problems, count).argmin(1)
        theta = theta.reshape(problems, count, -1)[np.arange(problems), best].reshape(len(powers), len(inside), -1)
        predicted = np.log(np.clip(form.error(theta, u), 1e-6, None))  # [W, 1 + O, K]
        if not np.isfinite(predicted).all():
            raise UserError(
                f"form {form.name!r} has no finite error at some of the measured images",
                hint="its error(theta, u) must be finite for every u, or its starts where it is",
            )
        square = (predicted - z) ** 2
        for i, power in enumerate(powers):
            held = [np.sqrt(np.average(square[i, o + 1], weights=judged)) for o, judged in enumerate(beyond)]
            misfit = float(np.sqrt(np.average(square[i, 0], weights=weights[i * len(inside)])))
            found.append(Candidate(form, power, theta[i, 0], np.array(held), misfit))
    return found
