"""What can be asked of joint draws of curves: forecasts, gains, the images for a target, with intervals."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Unit
from scaleprior.laws.posterior import REACH, Curves
from scaleprior.laws.process import Process

__all__ = ["Answers", "Estimate"]


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


class Answers(ABC):
    """Every interval is the central one of the draws, and every probability their share, of the number asked for.

    Attributes:
        curves: the draws.
        sigma: noise of ln e of one measurement of weight 1.
        raw_sigma: noise of a new, raw measurement.
        level: the nominal coverage of intervals.
        seed: of the draws.
        process: what laws that were fitted together have in common; their draws are joint.
    """

    curves: Curves
    sigma: float
    raw_sigma: float
    level: float
    seed: int
    process: Process

    @property
    @abstractmethod
    def unit(self) -> Unit:
        """What the metric is."""

    @property
    @abstractmethod
    def first(self) -> float:
        """The smallest number of images that was measured."""

    @property
    @abstractmethod
    def last(self) -> float:
        """The largest number of images that was measured."""

    @property
    def kind(self) -> str:
        """ "score" or "error"."""
        return self.unit.kind

    def log_error(self, n: Array) -> Array:
        """ln e of the law at n [K]."""
        return self.curves.centre_at(n)

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
        n = _images(n, "predict")
        drawn = self.curves.at(n.ravel())
        if noise:
            scatter = np.random.default_rng(self.seed).normal(size=len(drawn)) * (self.raw_sigma / self.sigma)
            drawn = np.minimum(drawn + (scatter * self.curves.noise)[:, None], math.log(self.curves.ceiling))
        value = self.unit.to_metric(np.exp(self.log_error(n.ravel())))
        low, high = self._central(self.unit.to_metric(np.exp(drawn)))
        # the centre of draws is not their median: of a narrow, lopsided interval it may lie outside by a hair
        low, high = np.minimum(low, value), np.maximum(high, value)
        return value.reshape(n.shape), low.reshape(n.shape), high.reshape(n.shape)

    def _central(self, drawn: Array) -> tuple[Array, Array]:
        """Ends of the central interval of draws [S, ...]."""
        tail = 0.5 - self.level / 2.0
        low, high = np.quantile(drawn, [tail, 1.0 - tail], axis=0)
        return low, high

    def estimate(self, value: float, drawn: Array) -> Estimate:
        """A number with the central interval of its draws [S], and the probability that it is above 0."""
        low, high = self._central(drawn)
        above = float(np.mean(drawn > 0) + 0.5 * np.mean(drawn == 0))
        return Estimate(value, min(float(low), value), max(float(high), value), above)

    @property
    def per_decade(self) -> Estimate:
        """Gain of the metric per factor 10 of images over the last measured decade, with the law's interval.

        The metric's rise from n_max / 10 to n_max (from the smallest fraction, scaled to a decade, when the ladder
        spans less). Positive means better: a score's rise, an error's fall. What the *next* decade brings is
        ``gain(n_max, 10 * n_max)``.
        """
        top = self.last
        low = max(top / 10.0, self.first)
        gain, decades = self.gain(low, top), math.log10(top / low)
        return Estimate(gain.value / decades, gain.low / decades, gain.high / decades, gain.probability)

    def gain(self, start: float, end: float) -> Estimate:
        """How much better the metric is at ``end`` than at ``start`` images, with the law's interval (no noise).

        Raises:
            UserError: a number of images that is not positive and finite.
        """
        return self.estimate(*self.gain_draws(start, end))

    def gain_draws(self, start: float, end: float) -> tuple[float, Array]:
        """The gain from ``start`` to ``end`` images and its draws [S], in the metric's unit."""
        n = _images([start, end], "tell a gain")
        centre, drawn = np.exp(self.log_error(n)), np.exp(self.curves.at(n))
        return self.unit.scale * float(centre[0] - centre[1]), self.unit.scale * (drawn[:, 0] - drawn[:, 1])

    def images_for(self, target: float) -> Estimate:
        """Images at which the law reaches ``target``, with the range over which its interval (no noise) crosses it.

        Infinite where the law does not reach it within 10,000 times the largest fraction; the smallest fraction where
        it is there already.

        Raises:
            UserError: the target is outside the metric's range.
        """
        if not math.isfinite(target) or target < 0 or (self.unit.bounded and target > self.unit.scale):
            raise UserError(
                f"target {target:g} is outside the metric's range [0, {self.unit.scale:g}]",
                hint="same unit as the data",
            )
        grid = np.geomspace(self.first, self.last * REACH, 401)
        sign = 1.0 if self.kind == "score" else -1.0
        short = sign * (target - self.unit.to_metric(np.exp(self.curves.at(grid))))
        reached = _crossings(grid, short)
        value = float(_crossings(grid, sign * (target - self.unit.to_metric(np.exp(self.log_error(grid))))[None])[0])
        low, high = self._quantiles_of_images(reached)
        return Estimate(value, min(low, value), max(high, value), float(np.mean(np.isfinite(reached))))

    def _quantiles_of_images(self, reached: Array) -> tuple[float, float]:
        """The central interval of draws of a number of images, of which some may be infinite."""
        ordered, tail = np.sort(reached), 0.5 - self.level / 2.0
        places = (int(tail * (ordered.size - 1)), math.ceil((1.0 - tail) * (ordered.size - 1)))
        return float(ordered[places[0]]), float(ordered[places[1]])


def _images(n: ArrayLike, what: str) -> Array:
    """Numbers of images, each positive and finite."""
    n = np.asarray(n, dtype=float)
    bad = ~(np.isfinite(n) & (n > 0))
    if bad.any():
        raise UserError(f"cannot {what} at {n[bad].ravel()[0]:g} images", hint="give images > 0")
    return n


def _crossings(grid: Array, short: Array) -> Array:
    """Where each of the curves ``short`` [S, G] first comes down to 0, straight in ln n between points; or inf."""
    there = short <= 0
    first = there.argmax(1)
    rows = np.arange(len(short))
    before, after = short[rows, first - 1], short[rows, first]
    share = np.where(first > 0, before / np.where(before == after, 1.0, before - after), 1.0)
    found = grid[first - 1] * (grid[first] / grid[first - 1]) ** share
    return np.where(there.any(1), np.where(first == 0, grid[0], found), np.inf)
