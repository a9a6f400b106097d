"""How measurements scatter: before a form is fitted, where they were smoothed, and what their seeds have in common.

K points, u = ln(n / n_ref), z = ln error, w weights of mean 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from scipy import special

from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Observations

__all__ = ["LEAST_NOISE", "first_noise", "group_variance", "looks_smoothed", "odd_one", "scatter", "shared_noise"]

# The noise before any residual is seen, as a share of the range of ln e but no less than 0.4 points of a small AP, and
# how many residuals that guess is worth: with 3 or 4 points the residuals alone would often claim next to none.
_NOISE_SHARE = 0.015
_NOISE_FLOOR = 0.004
_NOISE_DOF = 1.0
_FEWEST_PAIRS, _PAIRS_OF_A_GUESS = 2, 4
LEAST_NOISE = 0.0015
"""The least noise of ln e that a measurement is taken to have: at AP 35, the 0.1 that APs are often rounded to."""
_ODD = 0.01  # how often ladders of one noise are told apart by accident
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


def looks_smoothed(u: Array, z: Array, fitted: Array, sigma: float) -> bool:
    """Whether the values were averaged or are a running best: far fewer rises of the error than the noise would make.

    Args:
        fitted: the law's ln e at the points; sorted by u like all else.
    """
    steps = np.diff(fitted)[np.diff(u) > 0]
    rises = (np.diff(z) > 0)[np.diff(u) > 0].sum()
    expected = float(special.ndtr(steps / (sigma * np.sqrt(2.0))).sum())
    return expected >= _SMOOTHED_MIN_RISES and rises <= 0.25 * expected


def group_variance(residual: Array, group: np.ndarray, w: Array) -> float:
    """Variance of the law's level that comes from having few groups (seeds): between-group variance / groups.

    One-way analysis of variance of the residuals of ln e, shrunk towards 0: half of the time that two or three groups
    have nothing in common, what is left of their means is above what their noise explains. 0 without at least two
    groups of two measurements.
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
    known = (labels.size - 1) / (labels.size + 1)
    return known * max(between, 0.0) / labels.size


def shared_noise(ladders: Sequence[Observations]) -> float:
    """Correlation of the noise of two ladders' runs that have the same images and seed, in [0, 0.9].

    Of deviations from each fraction's mean over the seeds that both ladders have there; shrunk toward independence,
    since a correlation of a handful of deviations is itself a guess. 0 without two seeds in common at two fractions.
    """
    product, squares, spare = 0.0, np.zeros(2), 0
    for first, second in combinations(ladders, 2):
        one, other = _by_run(first), _by_run(second)
        common = sorted(set(one) & set(other), key=str)
        for n in dict.fromkeys(n for n, _ in common):
            pairs = np.array([(one[key], other[key]) for key in common if key[0] == n])
            apart = pairs - pairs.mean(0)
            product += float(apart.prod(1).sum())
            squares += (apart**2).sum(0)
            spare += len(pairs) - 1
    if spare < _FEWEST_PAIRS or squares.min() <= 0.0:
        return 0.0
    return float(np.clip(product / np.sqrt(squares.prod()) * spare / (spare + _PAIRS_OF_A_GUESS), 0.0, 0.9))


def scatter(data: Observations) -> tuple[float, int]:
    """Weighted sum of squares of ln e within the fractions of a ladder, and its degrees of freedom."""
    z, sizes = np.log(data.e), data.sizes
    place = np.searchsorted(sizes, data.n)
    means = np.bincount(place, data.w * z) / np.bincount(place, data.w)
    return float((data.w * (z - means[place]) ** 2).sum()), data.n.size - sizes.size


def odd_one(ladders: Sequence[Observations]) -> tuple[int, float] | None:
    """The ladder whose runs scatter unlike those of all others, and how many times as far; None of none.

    F tests of each against the others, at level 1 % for all of them: one noise is taken for ladders that are fitted
    together, and one that is 5 times off would leave a quiet ladder's interval twice too wide.
    """
    # runs that agree to every digit written scatter by less than those digits, not by nothing
    found = [(max(s, d * LEAST_NOISE**2), d) for s, d in map(scatter, ladders)]
    square, spare = sum(s for s, _ in found), sum(d for _, d in found)
    least, odd = _ODD / len(ladders), None
    for i, (own, of_own) in enumerate(found):
        rest, of_rest = square - own, spare - of_own
        if of_own and of_rest:
            ratio = own / of_own / (rest / of_rest)
            p = 2.0 * min(special.fdtr(of_own, of_rest, ratio), special.fdtrc(of_own, of_rest, ratio))
            if p < least:
                least, odd = p, (i, float(np.sqrt(ratio)))
    return odd


def _by_run(data: Observations) -> dict[tuple[float, object], float]:
    """ln e by (images, seed)."""
    return {(float(n), data.group_labels[g]): float(z) for n, g, z in zip(data.n, data.group, np.log(data.e)) if g >= 0}
