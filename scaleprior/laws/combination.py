"""What the fitted forms say together: the mean of their curves, trimmed where fractions are few."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from scaleprior.laws.candidates import DENSE, Candidate
from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Observations
from scaleprior.laws.select import Selection

__all__ = ["Combination"]

_TRIM_FROM = 5  # forms; fewer leave too little behind


@dataclass(frozen=True)
class Combination:
    """The mean of ln e of the selected forms.

    A form fitted with weights n^power counts at n below the largest fraction in that proportion.

    Attributes:
        data: the measurements.
        candidates, selection: the fitted forms and their weights. C of them.
    """

    data: Observations
    candidates: tuple[Candidate, ...]
    selection: Selection

    @property
    def n_ref(self) -> float:
        """Geometric mean of the measured numbers of images."""
        return float(np.exp(np.log(self.data.n).mean()))

    @property
    def alone(self) -> bool:
        """Whether one form was asked for and no other."""
        return len(self.selection.held_back) == 1

    @property
    def can_fall(self) -> bool:
        """Whether every form in use could follow a metric that gets worse with more images."""
        return not any(c.form.monotone for c, weight in zip(self.candidates, self.selection.weights) if weight > 0)

    @property
    def _trims(self) -> bool:
        """Whether the lowest and the highest curve at each n are left out of the mean.

        With few fractions one form now and then takes off from a single high point; the order statistics of curves
        that only fall also only fall, so trimming keeps the mean monotone.
        """
        return self.data.sizes.size < DENSE and int(np.count_nonzero(self.selection.weights)) >= _TRIM_FROM

    def curves(self, n: Array) -> Array:
        """ln e of each candidate at n [K]: [C, K]."""
        u, ceiling = np.log(n / self.n_ref), 1.0 if self.data.bounded else np.inf
        return np.array([c.log_error(u, ceiling) for c in self.candidates])

    def log_error(self, n: Array) -> Array:
        """ln e of the combination at n [K]."""
        return self._combined(self.curves(n), self._weights(n))

    def deviations(self, n: Array) -> Array:
        """How far each form in use strays from the combination at n [K]: [forms in use, K].

        A row's square, averaged over rows, is the weighted variance of the forms: one that counts little at n strays
        little there.
        """
        curves, weights = self.curves(n), self._weights(n)
        used = self.selection.weights > 0
        return (np.sqrt(weights * used.sum()) * (curves - self._combined(curves, weights)))[used]

    def _weights(self, n: Array) -> Array:
        """Weights [C, K] of the candidates at n [K]; columns sum to 1."""
        below = np.minimum(0.0, np.log(n / self.data.n.max()))
        powers = np.array([c.power for c in self.candidates])
        weights = self.selection.weights[:, None] * np.exp(powers[:, None] * below)
        return weights / weights.sum(0)

    def _combined(self, curves: Array, weights: Array) -> Array:
        if self._trims:
            return np.sort(curves[self.selection.weights > 0], axis=0)[1:-1].mean(0)
        return (weights * curves).sum(0)
