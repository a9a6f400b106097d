"""Checks and prepares what a law is fitted to: images, metric values, weights, groups."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.forms.form import Array
from scaleprior.wording import shown

__all__ = ["KINDS", "UNITS", "Observations", "Unit", "observe", "refuse_mixture"]

KINDS = ("score", "error")
UNITS = ("auto", "fraction", "percent", "loss")
_FLOOR = 5e-4  # a measured error of 0 is taken as this (AP 99.95): the forms work on its logarithm
# A law is drawn on a grid whose work grows with the cube of its decades; nine take 6 s of a core. LAION-5B has 5.85e9.
_FEWEST, _MOST, _WIDEST = 1e-6, 1e12, 1e9
_ALIKE = 1e-8  # numbers of images that differ by less of themselves differ by the rounding of a share times a total
_MIX_UP = 20.0  # a drop by this factor at more images is a mixture of units, not a measurement


@dataclass(frozen=True)
class Unit:
    """What a metric is: "score" or "error", metric = scale x fraction, and whether it cannot leave [0, scale]."""

    kind: str
    scale: float
    bounded: bool

    def to_metric(self, e: Array) -> Array:
        """The user's metric of an error e."""
        return self.scale * (1.0 - e if self.kind == "score" else e)


@dataclass(frozen=True)
class Observations:
    """What is fitted, sorted by images, exact duplicates merged.

    Attributes:
        n: [K] images, > 0.
        metric: [K] in the user's unit.
        e: [K] the error the forms describe: metric as a fraction for errors, 1 - fraction for scores, clipped below.
        w: [K] relative weights (inverse variances), mean 1.
        group: [K] index into ``group_labels``, -1 for none.
        group_labels: the groups' names.
        kind: "score" or "error".
        scale: metric = scale x fraction (100 for percent; the largest value for an unbounded loss).
        bounded: the metric cannot leave [0, scale].
        merged: rows that were exact duplicates and were merged into the weight of another.
    """

    n: Array
    metric: Array
    e: Array
    w: Array
    group: np.ndarray
    group_labels: tuple[Hashable, ...]
    kind: str
    scale: float
    bounded: bool
    merged: int

    @property
    def sizes(self) -> Array:
        """The distinct numbers of images, ascending."""
        return np.unique(self.n)

    @property
    def rank(self) -> tuple[list[float], ...]:
        """Puts ladders in an order of their own: no number of a joint fit depends on the one they were given in."""
        return self.n.tolist(), self.metric.tolist(), self.w.tolist(), self.group.tolist()

    @property
    def unit(self) -> Unit:
        """What the metric is."""
        return Unit(self.kind, self.scale, self.bounded)

    def to_metric(self, e: Array) -> Array:
        """The user's metric of an error e."""
        return self.unit.to_metric(e)


def _vector(values: ArrayLike, name: str) -> Array:
    try:
        array = np.asarray(values, dtype=float)
    except (TypeError, ValueError, OverflowError) as e:  # the latter of a whole number that no float holds
        raise UserError(f"{name} is not numeric: {shown(values)}", hint=f"give {name} as numbers") from e
    if array.ndim != 1:
        raise UserError(f"{name} has shape {array.shape}", hint="give one number per measurement, as a flat list")
    return array


def _unit_scale(images: Array, metric: Array, kind: str, unit: str) -> tuple[float, bool]:
    """(scale, bounded) of the metric's unit, or a named error for values that fit none."""
    top = float(metric.max())
    if unit == "auto":
        if top > 1.0:
            refuse_mixture(images, metric)
        unit = "fraction" if top <= 1.0 else ("percent" if kind == "score" else "loss")
    if unit == "loss":
        if kind == "score":
            raise UserError("unit 'loss' is for errors, this is a score", hint="use 'fraction' or 'percent'")
        return max(top, np.finfo(float).tiny), False
    scale = 100.0 if unit == "percent" else 1.0
    if top > scale:
        at = int(metric.argmax())
        limit = "1" if scale == 1.0 else "100"
        raise UserError(
            f"{kind} {metric[at]:g} at {images[at]:g} images is above {limit}, the most a {unit} can be",
            hint="give scores in [0, 1] or in [0, 100], all in the same unit",
        )
    return scale, True


def refuse_mixture(images: Array, metric: Array) -> None:
    """Raise if values of at most 1 stand at as many or more images as values 20 times larger: fractions and percent."""
    order = np.lexsort((-metric, images))  # of as many images the largest value first
    best = np.maximum.accumulate(metric[order])
    low = (metric[order] <= 1.0) & (metric[order] > 0) & (best > 1.0) & (best >= _MIX_UP * metric[order])
    if low.any():
        i = int(np.flatnonzero(low)[0])
        raise UserError(
            f"metric {metric[order][i]:g} at {images[order][i]:g} images beside {best[i]:g} at no more images "
            "looks like fractions mixed with percent",
            hint="give all values in [0, 1] or all in [0, 100], or name the unit if they are right",
        )


def observe(
    images: ArrayLike,
    metric: ArrayLike,
    *,
    kind: str = "score",
    weights: ArrayLike | None = None,
    groups: Sequence[Hashable] | None = None,
    unit: str = "auto",
) -> Observations:
    """Check the input of a fit and bring it into the forms' terms. Arguments as in :func:`scaleprior.laws.fit_law`."""
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
    if unit not in UNITS:
        raise UserError(f"unknown unit {unit!r}", hint=f"one of {', '.join(UNITS)}")
    n, y = _vector(images, "images"), _vector(metric, "metric")
    w = np.ones_like(n) if weights is None else _vector(weights, "weights")
    labels = [None] * n.size if groups is None else list(groups)
    if not n.size == y.size == w.size == len(labels):
        raise UserError(
            f"images, metric, weights and groups differ in length: {n.size}, {y.size}, {w.size}, {len(labels)}",
            hint="give one of each per measurement",
        )
    _check_values(n, y, w)
    n = _one_size(n)
    if np.unique(n).size < 3:
        raise UserError(
            f"{np.unique(n).size} distinct number(s) of images ({', '.join(f'{v:g}' for v in np.unique(n)[:2])})",
            hint="a law needs at least 3 fractions; 4 or 5 over a factor of 30 are a good ladder",
        )
    scale, bounded = _unit_scale(n, y, kind, unit)
    names = {label: i for i, label in enumerate(sorted({g for g in labels if g is not None}, key=repr))}
    group = np.array([-1 if g is None else names[g] for g in labels])
    rows = np.stack([n, y, group], axis=1)
    unique, inverse = np.unique(rows, axis=0, return_inverse=True)
    merged_w = np.bincount(inverse.ravel(), weights=w)
    fraction = unique[:, 1] / scale
    e = np.maximum(1.0 - fraction if kind == "score" else fraction, _FLOOR)
    return Observations(
        n=unique[:, 0],
        metric=unique[:, 1],
        e=e,
        w=merged_w / merged_w.mean(),
        group=unique[:, 2].astype(int),
        group_labels=tuple(names),
        kind=kind,
        scale=scale,
        bounded=bounded,
        merged=n.size - len(unique),
    )


def _one_size(n: Array) -> Array:
    """Numbers of images; of those that differ by rounding (300,000 and 0.3 x 1e6) the smallest stands for all."""
    sizes = np.unique(n)
    starts = np.append(True, np.diff(sizes) > _ALIKE * sizes[1:])
    return sizes[starts][np.cumsum(starts)[np.searchsorted(sizes, n)] - 1]


def _check_values(n: Array, y: Array, w: Array) -> None:
    """Named errors for values no fit can use; each names the value and its place."""
    if n.size == 0:
        raise UserError("no measurements to fit", hint="give at least 3 fractions")
    for name, array in (("images", n), ("metric", y), ("weights", w)):
        bad = np.flatnonzero(~np.isfinite(array))
        if bad.size:
            raise UserError(f"{name}[{bad[0]}] is {array[bad[0]]}", hint="leave out measurements that do not exist")
    if (n <= 0).any():
        i = int(np.flatnonzero(n <= 0)[0])
        raise UserError(
            f"images[{i}] is {n[i]:g}", hint="a law starts above 0 images; leave the from-scratch runs (0 images) out"
        )
    if n.min() < _FEWEST or n.max() > _MOST or n.max() / n.min() > _WIDEST:
        i = int(n.argmax() if n.max() > _MOST else n.argmin())
        beside = "" if n[i] < _FEWEST or n[i] > _MOST else f" beside {n.max():g}"
        raise UserError(
            f"images[{i}] is {n[i]:g}{beside}",
            hint=f"a law is drawn over {_FEWEST:g} to {_MOST:g} images, from few to a billion times as many",
        )
    if (y < 0).any():
        i = int(np.flatnonzero(y < 0)[0])
        raise UserError(f"metric[{i}] is {y[i]:g}, below 0", hint="scores and errors are not negative")
    if (w <= 0).any():
        i = int(np.flatnonzero(w <= 0)[0])
        raise UserError(f"weights[{i}] is {w[i]:g}", hint="weights are inverse variances, above 0")
