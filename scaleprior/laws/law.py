"""A fitted law: what it predicts, how sure it is, and why it has the form it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from scaleprior.errors import UserError
from scaleprior.laws.candidates import DENSE, Candidate
from scaleprior.laws.forms.form import Array
from scaleprior.laws.intervals import above_zero
from scaleprior.laws.observations import Observations
from scaleprior.laws.select import Selection
from scaleprior.laws.straightness import Straightness, straightness

__all__ = ["Estimate", "Law"]

# Calibrated on the benchmark (docs/laws.md) with the forms of forms.registry.CALIBRATED, all of them together: the
# combination errs less than its members differ, and real curves stray from all forms by about a quarter of the change
# forecast. For other sets of forms the two are the same numbers, not measured ones.
_DISAGREEMENT = 0.3
_DRIFT = 0.25
_TRIM_FROM = 5  # forms; fewer leave too little behind
_REACH = 1e4  # a target further than this factor beyond the data is called out of reach


@dataclass(frozen=True)
class Estimate:
    """A number with its interval; ``float(estimate)`` is the number. Ends may be infinite.

    ``probability`` is that the number is above 0, or that a target is reached at all; nan where it is not known.
    """

    value: float
    low: float
    high: float
    probability: float = math.nan

    def __float__(self) -> float:
        return self.value

    def to_dict(self) -> dict[str, float | None]:
        """JSON-ready; infinite and undefined numbers as None."""
        return {k: (v if math.isfinite(v) else None) for k, v in vars(self).items()}


@dataclass(frozen=True)
class Law:
    """A combination of fitted forms (of one form, where only one was asked for). Made by ``fit_law``.

    ln e is the mean of the forms' ln e, trimmed where fractions are few; a form fitted with weights n^power counts at n
    below the largest fraction in that proportion. Three things make ln e uncertain: the noise in the points (spread of
    the refits), the forms' disagreement, and drift, what curves do beyond the data that no form foresees, taken in
    proportion to the rise forecast.

    Attributes:
        data: the measurements.
        candidates, selection: the fitted forms and their weights.
        refits: [C] of [R, P], each candidate's parameters refitted to noisy copies of the points.
        sigma: noise of ln e of one measurement of weight 1, with ``dof`` degrees of freedom.
        raw_sigma: noise of a new, raw measurement (larger than sigma where the points were smoothed).
        level_variance: variance of ln e common to all measurements of the same groups (few seeds).
        level: the nominal coverage of intervals.
        why: the selection in words.
        notes: what to beware of, each a sentence or two; ``words.shared_notes`` says those of several laws once.
    """

    data: Observations
    candidates: tuple[Candidate, ...]
    selection: Selection
    refits: tuple[Array, ...] = field(repr=False)
    sigma: float
    raw_sigma: float
    dof: float
    level_variance: float
    level: float = 0.9
    why: str = ""
    notes: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """ "score" or "error"."""
        return self.data.kind

    @property
    def n_ref(self) -> float:
        """Geometric mean of the measured numbers of images."""
        return float(np.exp(np.log(self.data.n).mean()))

    @property
    def form(self) -> str:
        """The name of the form, or "combination of A, B, ..."."""
        used = self.selection.used
        return used[0] if len(used) == 1 else f"combination of {', '.join(used)}"

    @property
    def monotone(self) -> bool:
        """Whether every form in use can only get better with more images."""
        return all(c.form.monotone for c in self.candidates if c.form.name in self.selection.used)

    @property
    def _ceiling(self) -> float:
        return 1.0 if self.data.bounded else np.inf

    @property
    def _trims(self) -> bool:
        """Whether the lowest and the highest curve at each n are left out of the mean.

        With few fractions one form now and then takes off from a single high point; the order statistics of curves
        that only fall also only fall, so trimming keeps the law monotone.
        """
        return self.data.sizes.size < DENSE and int(np.count_nonzero(self.selection.weights)) >= _TRIM_FROM

    def _weights(self, n: Array) -> Array:
        """Weights [C, K] of the candidates at n [K]; columns sum to 1."""
        below = np.minimum(0.0, np.log(n / self.data.n.max()))
        powers = np.array([c.power for c in self.candidates])
        weights = self.selection.weights[:, None] * np.exp(powers[:, None] * below)
        return weights / weights.sum(0)

    def _combine(self, curves: Array, weights: Array) -> Array:
        """The combination [..., K] of curves [C, ..., K] under weights [C, K]."""
        if self._trims:
            used = np.sort(curves[self.selection.weights > 0], axis=0)
            return used[1:-1].mean(0)
        return (weights.reshape(weights.shape[0], *[1] * (curves.ndim - 2), -1) * curves).sum(0)

    def form_curves(self, n: Array) -> Array:
        """ln e of each candidate at n [K]: [C, K]."""
        u = np.log(n / self.n_ref)
        return np.array([c.log_error(u, self._ceiling) for c in self.candidates])

    def log_error(self, n: Array) -> Array:
        """ln e of the law at n [K]."""
        return self._combine(self.form_curves(n), self._weights(n))

    def deviations(self, n: Array) -> tuple[Array, Array, Array]:
        """Mean of ln e at n [K] and what it may be off by, as rows whose squares add up to variances.

        Returns:
            mean [K]; rows [R + 1, K] due to the noise in the points; rows [C + 1, K] due to the forms. The products of
            columns of the rows are covariances between numbers of images.
        """
        u, weights = np.log(n / self.n_ref), self._weights(n)
        best = self.form_curves(n)
        refitted = np.array(
            [
                np.log(np.clip(c.form.error(theta, u), 1e-6, self._ceiling))
                for c, theta in zip(self.candidates, self.refits)
            ]
        )
        mean, moved = self._combine(best, weights), self._combine(refitted, weights)
        level = np.full((1, n.size), math.sqrt(self.level_variance))
        from_noise = np.concatenate([(moved - moved.mean(0)) / math.sqrt(len(moved)), level])
        drift = _DRIFT * self._forecast_rise(n, mean)
        from_forms = np.concatenate([_DISAGREEMENT * np.sqrt(weights) * (best - mean), drift[None]])
        return mean, from_noise, from_forms

    def _forecast_rise(self, n: Array, mean: Array) -> Array:
        """How far ln e is forecast to go beyond the nearest measured fraction, at n [K]."""
        ends = np.array([self.data.n.min(), self.data.n.max()])
        at_ends = self.log_error(ends)
        nearest = np.where(n > ends[1], at_ends[1], np.where(n < ends[0], at_ends[0], mean))
        return mean - nearest

    def reach(self, noise_variance: ArrayLike, forms_variance: ArrayLike) -> Array:
        """Half an interval: Student's quantile for what rests on the estimated noise, the normal one for the rest."""
        tail = 0.5 + self.level / 2.0
        t, normal = stats.t.ppf(tail, self.dof), stats.norm.ppf(tail)
        return np.sqrt(t**2 * np.asarray(noise_variance) + normal**2 * np.asarray(forms_variance))

    def predict(self, n: ArrayLike, *, noise: bool = True) -> tuple[Array, Array, Array]:
        """Mean and interval of the metric at n images.

        Args:
            n: images, > 0; any shape.
            noise: the interval is for one new measurement (True), or for the law itself (False).

        Returns:
            (mean, low, high) in the metric's unit, each of n's shape, within the metric's bounds.

        Raises:
            UserError: n is not positive and finite.
        """
        n = np.asarray(n, dtype=float)
        bad = ~(np.isfinite(n) & (n > 0))
        if bad.any():
            raise UserError(f"cannot predict at {n[bad].ravel()[0]:g} images", hint="give images > 0")
        flat = n.ravel()
        mean, upper = self._upper_error(flat, noise)
        lower = 2.0 * mean - upper
        if self.monotone:
            # A law that only falls cannot rise beyond the data: its upper end there is at most that at the last size.
            limit = self._upper_error(self.data.n[-1:], noise)[1]
            beyond = flat > self.data.n[-1]
            upper = np.where(beyond, np.maximum(np.minimum(upper, limit), mean), upper)
        value, one, other = (self._metric(v).reshape(n.shape) for v in (mean, lower, upper))
        return value, np.minimum(one, other), np.maximum(one, other)

    def _upper_error(self, n: Array, noise: bool) -> tuple[Array, Array]:
        mean, from_noise, from_forms = self.deviations(n)
        extra = self.raw_sigma**2 if noise else 0.0
        return mean, mean + self.reach((from_noise**2).sum(0) + extra, (from_forms**2).sum(0))

    def _metric(self, log_e: Array) -> Array:
        return self.data.to_metric(np.minimum(np.exp(log_e), self._ceiling))

    @property
    def per_decade(self) -> Estimate:
        """Gain of the metric per factor 10 of images over the last measured decade, with the law's interval.

        The metric's rise from n_max / 10 to n_max (from the smallest fraction, scaled to a decade, when the ladder
        spans less). Positive means better: a score's rise, an error's fall. What the *next* decade brings is
        ``gain(n_max, 10 * n_max)``.
        """
        top = float(self.data.n.max())
        low = max(top / 10.0, float(self.data.n.min()))
        gain, decades = self.gain(low, top), math.log10(top / low)
        return Estimate(gain.value / decades, gain.low / decades, gain.high / decades, gain.probability)

    def gain(self, start: float, end: float) -> Estimate:
        """How much better the metric is at ``end`` than at ``start`` images, with the law's interval (no noise)."""
        value, noise_variance, forms_variance = self.gain_parts(start, end)
        half = float(self.reach(noise_variance, forms_variance))
        return Estimate(value, value - half, value + half, above_zero(value, noise_variance, forms_variance, self.dof))

    def gain_parts(self, start: float, end: float) -> tuple[float, float, float]:
        """(gain, its variance due to noise, its variance due to the forms), linearised, in the metric's unit."""
        mean, from_noise, from_forms = self.deviations(np.array([start, end], dtype=float))
        slope = self.data.scale * np.exp(mean) * np.array([1.0, -1.0])
        return float(slope.sum()), float(((from_noise @ slope) ** 2).sum()), float(((from_forms @ slope) ** 2).sum())

    def images_for(self, target: float) -> Estimate:
        """Images at which the law reaches ``target``, with the range over which its interval (no noise) crosses it.

        Infinite where the law does not reach it within 10,000 times the largest fraction; the smallest fraction where
        it is there already.

        Raises:
            UserError: the target is outside the metric's range.
        """
        if not math.isfinite(target) or target < 0 or (self.data.bounded and target > self.data.scale):
            raise UserError(
                f"target {target:g} is outside the metric's range [0, {self.data.scale:g}]",
                hint="same unit as the data",
            )
        grid = np.geomspace(self.data.n.min(), self.data.n.max() * _REACH, 1201)
        mean, low, high = self.predict(grid, noise=False)
        better = (mean, high, low) if self.kind == "score" else (mean, low, high)
        sign = 1.0 if self.kind == "score" else -1.0
        return Estimate(*(_first_crossing(grid, sign * (curve - target)) for curve in better))

    @cached_property
    def straightness(self) -> Straightness:
        """Whether the data contradict the log-linear law, and how often such data would find out a bent one."""
        return straightness(self.data)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description: data, forms with parameters and weights, noise, gain per decade, the reasons."""
        forms = [
            {
                "form": candidate.form.name,
                "formula": candidate.form.formula,
                "weighting": f"n^{candidate.power:g}" if candidate.power else "equal",
                "weight": float(weight),
                "parameters": candidate.form.describe(candidate.theta, self.n_ref),
                "held_back_error": [float(v) for v in candidate.held_back],
                "misfit": candidate.misfit,
            }
            for candidate, weight in zip(self.candidates, self.selection.weights)
        ]
        return {
            "schema": 1,
            "kind": self.kind,
            "scale": self.data.scale,
            "form": self.form,
            "why": self.why,
            "notes": list(self.notes),
            "level": self.level,
            "noise": self.sigma,
            "noise_of_a_new_measurement": self.raw_sigma,
            "noise_dof": self.dof,
            "per_decade": self.per_decade.to_dict(),
            "straightness": self.straightness.to_dict(),
            "images": self.data.n.tolist(),
            "metric": self.data.metric.tolist(),
            "weights": self.data.w.tolist(),
            "forms": forms,
        }


def _first_crossing(grid: Array, above: Array) -> float:
    """The n at which ``above`` first reaches 0, by linear interpolation in ln n; inf if it does not."""
    reached = np.flatnonzero(above >= 0)
    if reached.size == 0:
        return math.inf
    i = int(reached[0])
    if i == 0:
        return float(grid[0])
    share = -above[i - 1] / (above[i] - above[i - 1])
    return float(grid[i - 1] * (grid[i] / grid[i - 1]) ** share)
