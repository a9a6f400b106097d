"""How sure a law is: noise of a measurement, spread of refits, groups. docs/laws.md gives the measured coverage.

K points, u = ln(n / n_ref), z = ln error, w weights of mean 1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from scaleprior.laws.candidates import Candidate, late_weights
from scaleprior.laws.forms.form import Array
from scaleprior.laws.solver import solve

__all__ = ["above_zero", "first_noise", "group_variance", "looks_smoothed", "noise_estimate", "refits"]

# The noise before any residual is seen, as a share of the range of ln e but no less than 0.4 points of a small AP, and
# how many residuals that guess is worth: with 3 or 4 points the residuals alone would often claim next to none.
_NOISE_SHARE = 0.015
_NOISE_FLOOR = 0.004
_NOISE_DOF = 1.0
_REPLICATES = 64  # in antithetic pairs: a standard deviation from 32 pairs is good to about 12 %
_PRIOR_SHAKE = 0.5  # how much of a prior's own width a refit may move it: what the data cannot tell must vary, too
_SMOOTHED_MIN_RISES = 4.0  # with at least this many expected, next to none is no accident: exp(-4) = 2 %


def _prior_noise(z: Array) -> float:
    return max(_NOISE_SHARE * float(np.ptp(z)), _NOISE_FLOOR)


def first_noise(u: Array, z: Array, w: Array) -> float:
    """Noise of ln e before a form is fitted: residuals of a cubic in ln n (a parabola below 8 sizes)."""
    sizes = np.unique(u).size
    degree = 3 if sizes >= 8 else min(2, sizes - 1)
    design = np.vander(u, degree + 1)
    root = np.sqrt(w)
    coefficients = np.linalg.lstsq(design * root[:, None], z * root, rcond=None)[0]
    square = float((w * (z - design @ coefficients) ** 2).sum())
    spent = max(z.size - degree - 1, 0) + _NOISE_DOF
    return float(np.sqrt((square + _NOISE_DOF * _prior_noise(z) ** 2) / spent))


def noise_estimate(
    candidates: Sequence[Candidate], weights: Array, u: Array, z: Array, w: Array
) -> tuple[float, float]:
    """(sigma, degrees of freedom) of ln e: from the candidate that explains the points best, all points weighing alike.

    Not from the combination: where the forms disagree its residuals hold their misfit, which is no noise. And from
    candidates in use (``weights`` [C] above 0), unless all of those lean on the late points.
    """
    alike = [(c, v) for c, v in zip(candidates, weights) if c.power == 0]
    prior = _NOISE_DOF * _prior_noise(z) ** 2
    variances = [
        (float((w * (z - c.log_error(u)) ** 2).sum()) + prior) / (max(z.size - c.theta.size, 0) + _NOISE_DOF)
        for c in [c for c, v in alike if v > 0] or [c for c, _ in alike]
    ]
    return float(np.sqrt(min(variances))), max(z.size - 3, 0) + _NOISE_DOF


def looks_smoothed(u: Array, z: Array, fitted: Array, sigma: float) -> bool:
    """Whether the values were averaged or are a running best: far fewer rises of the error than the noise would make.

    Args:
        fitted: the law's ln e at the points; sorted by u like all else.
    """
    steps = np.diff(fitted)[np.diff(u) > 0]
    rises = (np.diff(z) > 0)[np.diff(u) > 0].sum()
    expected = float(special.ndtr(steps / (sigma * np.sqrt(2.0))).sum())
    return expected >= _SMOOTHED_MIN_RISES and rises <= 0.25 * expected


def refits(candidates: Sequence[Candidate], u: Array, z: Array, w: Array, *, sigma: float, seed: int) -> list[Array]:
    """Parameters [R, P] per candidate refitted to noisy copies of its points with shaken priors.

    Replicate r has the same noise in every candidate, so that combining candidates replicate by replicate gives the
    combination's own spread.
    """
    rng = np.random.default_rng(seed)
    half = rng.normal(size=(_REPLICATES // 2, u.size))
    noise = np.concatenate([half, -half]) * sigma / np.sqrt(w)
    found = []
    for candidate in candidates:
        form = candidate.form
        shake = rng.normal(size=(_REPLICATES // 2, candidate.theta.size))
        mean, scale = form.prior()
        shake = np.concatenate([shake, -shake]) * _PRIOR_SHAKE * scale
        theta, _ = solve(
            form,
            np.tile(candidate.theta, (_REPLICATES, 1)),
            u,
            z + noise,
            late_weights(u, w, candidate.power),
            sigma=sigma,
            iterations=10,
            prior_mean=mean + shake,
        )
        found.append(theta)
    return found


def group_variance(residual: Array, group: np.ndarray, w: Array) -> float:
    """Variance of the law's level that comes from having few groups (seeds): between-group variance / groups.

    One-way analysis of variance of the residuals of ln e; 0 without at least two groups of two measurements.
    """
    labels, counts = np.unique(group[group >= 0], return_counts=True)
    labels = labels[counts >= 2]
    if labels.size < 2:
        return 0.0
    inside = np.isin(group, labels)
    means = np.array([np.average(residual[group == g], weights=w[group == g]) for g in labels])
    sizes = np.array([(group == g).sum() for g in labels])
    centred = residual[inside] - means[np.searchsorted(labels, group[inside])]
    within = float((w[inside] * centred**2).sum() / max(inside.sum() - labels.size, 1))
    between = float(means.var(ddof=1)) - within / float(sizes.mean())
    return max(between, 0.0) / labels.size


def above_zero(value: float, noise_variance: float, forms_variance: float, dof: float) -> float:
    """Probability that a number is above 0: the one with which its interval, of whatever level, has an end there.

    Args:
        value: the estimate.
        noise_variance, forms_variance, dof: of its interval, as in ``Law.reach``.
    """

    def beyond(z: float) -> float:
        t = special.stdtrit(dof, special.ndtr(z))
        return t**2 * noise_variance + z**2 * forms_variance - value**2

    certain = 8.0  # standard deviations; 1 minus the probability of more is rounding
    z = certain if value else 0.0
    if beyond(certain) > 0.0:
        z = float(optimize.root_scalar(beyond, bracket=(0.0, certain)).root)
    return float(special.ndtr(math.copysign(z, value)))
