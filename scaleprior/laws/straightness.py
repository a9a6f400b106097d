"""Is a law log-linear? A test of the straight line against a bent one, and how often such data would find a bend.

The metric itself is regressed, not ln e: a log-linear law gains as much of the metric with every factor of ten.

K points: the measurements, or means of neighbouring ones on a dense ladder. x = log10 n, y the metric, w the weights.
A line has one intercept, or one for each seed where all seeds are measured at all sizes (what a seed shifts everywhere
is no noise of a bend); a bend has Q columns, x^2, and x^3 too where sizes are many. The bend is tested by

    F = (|y explained by the bend|^2 / Q) / (|residual of line and bend|^2 / dof),   dof = K - line - Q:

replicates, and what misses both, are the noise. Its quantile is exact for independent Gaussian noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Observations

__all__ = ["ALTERNATIVE", "Straightness", "straightness"]

ALTERNATIVE = (
    "a law of the same total change whose second half of the ladder (in log n) brings half of what the first does"
)
"""The bent law that ``Straightness.power`` is for."""

_LEVEL = 0.05
_CUBIC_FROM = 8  # sizes; with fewer, a second direction of bending costs more than the S shapes it finds
_BLOCKS = 12  # means of neighbours: the noise of a learning curve's next point is that of its last one, but for a bit
_INTERCEPTS_FROM = 4  # degrees of freedom that must be left; below, each one is worth more than the seeds' shifts
_ROUNDING = 1e-9  # of the largest value: residuals below are those of arithmetic
_DIGITS = 6  # behind the point; metrics that are written with more of them are as good as exact
_NOISES = 64  # quantiles of what the noise may be, over which the power is averaged


@dataclass(frozen=True)
class Straightness:
    """The verdict on the log-linear law.

    Attributes:
        contradicted: the test rejects the straight line at ``level``.
        p_value: of that test; nan where there are as few points as a bend has parameters, and nothing can be tested.
        power: how often such data reject the line where ``alternative`` is true: the chance at the estimated gain,
            averaged over what the noise may be; nan with the p-value.
        alternative: the bent law that the power is for.
        halves: gain per factor of ten in the first and in the second half of the ladder (in log n), of line and bend.
        middle: images between those halves.
        miss: how far the straight line is off, at most, from line and bend at a measured size, in the metric's unit.
        holds_between: (low, high) images of the longest stretch of at least 3 sizes within which a straight line is not
            contradicted; the whole ladder where it is not, None where there is no such stretch.
        dof: degrees of freedom of the noise.
        level: how often a straight law is contradicted by accident.
    """

    contradicted: bool
    p_value: float
    power: float
    alternative: str
    halves: tuple[float, float]
    middle: float
    miss: float
    holds_between: tuple[float, float] | None
    dof: int
    level: float = _LEVEL

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not defined as None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class _Points:
    """K points: x = log10 n, y, weights, index of the intercept, index of the rung (a size, or neighbouring ones).

    ``least`` is the least noise that they can have: the variance by which one of weight 1 was rounded.
    """

    x: Array
    y: Array
    w: Array
    intercept: np.ndarray
    rung: np.ndarray
    least: float

    def within(self, first: int, last: int) -> _Points:
        """Those of the rungs first to last."""
        inside = (self.rung >= first) & (self.rung <= last)
        x, y, w = self.x[inside], self.y[inside], self.w[inside]
        return _Points(x, y, w, self.intercept[inside], self.rung[inside], self.least)


@dataclass(frozen=True)
class _Split:
    """What of y is the line's, the bend's [Q] and nobody's, each in orthonormal coordinates of sqrt(w) y.

    Attributes:
        along: [Q, K] the bend's directions; ``along @ (sqrt(w) f)`` are the coordinates of any other curve f.
        bend: [Q] coordinates of y along them.
        residual: sum of squares of what neither explains, with ``dof`` degrees of freedom.
        change: of the straight line, per factor of ten.
        coefficients: of the powers 1 to Q + 1 of x - ``centre`` in line and bend together.
    """

    along: Array
    bend: Array
    residual: float
    dof: int
    change: float
    coefficients: Array
    centre: float

    def noise(self) -> float:
        """Estimated variance of a measurement of weight 1."""
        return self.residual / self.dof


def straightness(data: Observations) -> Straightness:
    """Test the log-linear law (equal change of the metric per factor of ten) against a bent one."""
    points = _points(data)
    split = _split(points)
    better = 1.0 if data.kind == "score" else -1.0
    ends = np.log10([data.n.min(), data.n.max()])
    centres = ends.mean() + np.array([-0.25, 0.25]) * np.ptp(ends)
    halves = [better * _slope(split, float(c - np.ptp(ends) / 4), float(c + np.ptp(ends) / 4)) for c in centres]
    p_value = power = math.nan
    if split.dof > 0:
        p_value = float(stats.f.sf((split.bend**2).mean() / split.noise(), split.bend.size, split.dof))
        power = _power(points, split)
    contradicted = p_value < _LEVEL
    return Straightness(
        contradicted=contradicted,
        p_value=p_value,
        power=power,
        alternative=ALTERNATIVE,
        halves=(halves[0], halves[1]),
        middle=float(10.0 ** ends.mean()),
        miss=float(np.abs(split.bend @ split.along / np.sqrt(points.w)).max()),
        holds_between=_longest(data, points, split) if contradicted else (float(data.n.min()), float(data.n.max())),
        dof=split.dof,
    )


def _rungs(data: Observations) -> np.ndarray:
    """[K] index of each measurement's rung: of its size, or of one of 12 blocks of neighbouring sizes."""
    sizes = data.sizes
    of_size = np.arange(sizes.size)
    if sizes.size > _BLOCKS:
        blocks = np.array_split(of_size, _BLOCKS)
        of_size = np.repeat(np.arange(_BLOCKS), [block.size for block in blocks])
    return of_size[np.searchsorted(sizes, data.n)]


def _points(data: Observations) -> _Points:
    """The measurements as points of the regression."""
    rung, x = _rungs(data), np.log10(data.n)
    seeds = len(data.group_labels)
    crossed = (
        seeds > 1
        and bool((data.group >= 0).all())
        and len(set(zip(data.n.tolist(), data.group.tolist()))) == seeds * data.sizes.size
    )
    points = _Points(
        x, data.metric, data.w, data.group if crossed else np.zeros_like(data.group), rung, _least(data.metric)
    )
    if data.sizes.size > _BLOCKS:
        points = _means(points)
    if crossed and _split(points).dof < _INTERCEPTS_FROM:
        return replace(points, intercept=np.zeros_like(points.intercept))
    return points


def _means(points: _Points) -> _Points:
    """A point for each rung and intercept; the means of points on a straight line lie on it."""
    intercepts = int(points.intercept.max()) + 1
    cell = points.rung * intercepts + points.intercept
    w, wx, wy = (
        np.bincount(cell, weights=v).astype(float) for v in (points.w, points.w * points.x, points.w * points.y)
    )
    intercept, rung = np.arange(w.size) % intercepts, np.arange(w.size) // intercepts
    return _Points(wx / w, wy / w, w, intercept, rung, points.least)


def _least(metric: Array) -> float:
    """Variance of what writing the metric with as few digits as it has took from it or added to it.

    Two runs of AP 29.2 differ by something: with one degree of freedom, a noise of 0 would contradict any line.
    """
    arithmetic = (_ROUNDING * float(np.abs(metric).max())) ** 2 + np.finfo(float).tiny
    for digits in range(_DIGITS + 1):
        step = 10.0**-digits
        if np.abs(metric - np.round(metric, digits)).max() < 1e-6 * step:
            return max(step**2 / 12.0, arithmetic)
    return arithmetic


def _split(points: _Points) -> _Split:
    root = np.sqrt(points.w)
    bends = 2 if np.unique(points.rung).size >= _CUBIC_FROM else 1
    centre = float(np.average(points.x, weights=points.w))
    powers = (points.x - centre)[:, None] ** np.arange(1, bends + 2)
    intercepts = (points.intercept[:, None] == np.unique(points.intercept)).astype(float)
    line = intercepts.shape[1] + 1
    q, r = np.linalg.qr(root[:, None] * np.hstack([intercepts, powers]))
    coordinates = q.T @ (root * points.y)
    rest = root * points.y - q @ coordinates
    dof = points.x.size - line - bends
    return _Split(
        along=q[:, line:].T,
        bend=coordinates[line:],
        residual=max(float((rest**2).sum()), max(dof, 1) * points.least),
        dof=dof,
        change=float(coordinates[line - 1] / r[line - 1, line - 1]),
        coefficients=np.asarray(np.linalg.solve(r, coordinates)[line - 1 :], dtype=float),
        centre=centre,
    )


def _slope(split: _Split, low: float, high: float) -> float:
    """Change per factor of ten of line and bend between two x."""
    powers = np.arange(1, split.coefficients.size + 1)
    ends = (np.array([[low], [high]]) - split.centre) ** powers @ split.coefficients
    return float((ends[1] - ends[0]) / (high - low))


def _power(points: _Points, split: _Split) -> float:
    """Chance that the bent law of ``ALTERNATIVE`` is contradicted, over what the noise may be.

    With s = 0 to 1 along the ladder that law is the parabola G (5 s - 2 s^2) / 3: G (2/3) in the first half and
    G (1/3) in the second. The noise's variance given its estimate is taken as estimate x dof / chi^2.
    """
    span = float(np.ptp(points.x))
    s = (points.x - points.x.min()) / span
    bent = np.sqrt(points.w) * split.change * span * (5.0 * s - 2.0 * s**2) / 3.0
    chi2 = stats.chi2.ppf((np.arange(_NOISES) + 0.5) / _NOISES, split.dof)
    noises = split.residual / chi2
    noncentral = float(((split.along @ bent) ** 2).sum()) / noises
    noncentral = np.clip(noncentral, 1e-9, 1e6)  # a power of the level, and of 1; scipy errs at 0
    critical = stats.f.isf(_LEVEL, split.bend.size, split.dof)
    return float(stats.ncf.sf(critical, split.bend.size, split.dof, noncentral).mean())


def _longest(data: Observations, points: _Points, whole: _Split) -> tuple[float, float] | None:
    """The longest stretch of rungs (in log n) within which a line is not contradicted, by the noise of all points."""
    rung = _rungs(data)
    rungs = int(rung.max()) + 1
    stretches = [
        (float(data.n[rung == i].min()), float(data.n[rung == j].max()), i, j)
        for i in range(rungs)
        for j in range(i + 2, rungs)
    ]
    for low, high, i, j in sorted(stretches, key=lambda s: (s[1] / s[0], s[0]), reverse=True):
        bend = _split(points.within(i, j)).bend
        if stats.f.sf((bend**2).mean() / whole.noise(), bend.size, whole.dof) >= _LEVEL:
            return low, high
    return None
