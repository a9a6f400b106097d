"""The curves that a law may be: joint draws, from which every interval and every probability of a law is taken.

The process (process.py) says how far off a smooth curve through the measurements may be; the forms (combination.py)
say where learning curves usually go. A draw of the posterior is one of the process, moved from the process' mean
towards one of the forms by a share that differs from draw to draw: how far the two disagree is part of what is not
known. Of a draw that falls over the last decade nothing is asked of forms that can only rise: it is the process' own.
Of a draw that rises the process knows nothing beyond the data that the forms do not know better, which is that learning
curves level off: there it keeps a part of what it strays, and a few stop rising for good at the largest fraction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from scaleprior.laws.combination import Combination
from scaleprior.laws.forms.form import Array
from scaleprior.laws.process import Process

__all__ = ["DRAWS", "REACH", "Curves", "posterior"]

DRAWS = 3000
REACH = 1e4
"""A forecast further than this factor beyond the data is out of reach."""

# Chosen on the development half of the benchmark and on simulated studies (docs/laws.md says which, and what was tried)
_TRUST = (0.2, 1.0)  # the share by which a draw is moved towards the forms is uniform between these
_DISAGREEMENT = 0.4  # of a form's own deviation from the mean of the forms
_STRAY = (0.5, 0.75)  # of the process' deviation just beyond the largest fraction, and from a decade beyond it on
_STOPS = 0.03  # of the draws that rise stop there
_FINE, _COARSE = 24, 8  # points a decade: of the grid up to _FINE_BEYOND decades behind the data, and from there on
_FINE_BEYOND = 1.25
_LOWEST = math.log(1e-6)  # of ln e
_HIGHEST = 1e6  # of e, where it has no bound: in units of the largest measured


@dataclass(frozen=True)
class Curves:
    """Draws of a law's ln e on a grid; between its points curves are straight in log n, and beyond its ends, too.

    Attributes:
        x: [G] log10 of images.
        log_e: [S, G].
        centre: [G] the law itself.
        noise: [S] standard deviation of ln e of one measurement that each draw goes with.
        cells: [S] the cell of the process' grid that each draw is of.
        ceiling: the largest e; of an unbounded loss a million times the largest measured.
    """

    x: Array
    log_e: Array
    centre: Array
    noise: Array
    cells: NDArray[np.intp]
    ceiling: float

    def at(self, n: Array) -> Array:
        """ln e of the draws at n [K] images: [S, K]."""
        return self._between(self.log_e, n)

    def centre_at(self, n: Array) -> Array:
        """ln e of the law at n [K] images."""
        return self._between(self.centre, n)

    def _between(self, curves: Array, n: Array) -> Array:
        x = np.log10(n)
        left = np.searchsorted(self.x, x).clip(1, self.x.size - 1) - 1
        share = (x - self.x[left]) / (self.x[left + 1] - self.x[left])
        found = curves[..., left] * (1.0 - share) + curves[..., left + 1] * share
        return np.clip(found, _LOWEST, math.log(self.ceiling))


def posterior(process: Process, forms: Sequence[Combination], shifts: Sequence[float], seed: int) -> list[Curves]:
    """Joint draws of the curves of the process' ladders.

    Args:
        process: conditioned on the data of ``forms``, in their order.
        forms: one combination a ladder.
        shifts: variance of ln e that all fractions of a ladder share (few seeds).
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    x = _grid(forms)
    drawn, noise, cells = process.draws(x - process.origin, DRAWS, rng)
    means = process.mean(x - process.origin)
    found = []
    for ladder, combination in enumerate(forms):
        log_e, centre = _moved(drawn[:, ladder], means[ladder], combination, x, rng)
        log_e += math.sqrt(shifts[ladder]) * rng.normal(size=(DRAWS, 1))
        log_e += centre - log_e.mean(0)  # which the draws miss by chance
        found.append(Curves(x, log_e, centre, noise, cells, 1.0 if combination.data.bounded else _HIGHEST))
    return found


def _moved(drawn: Array, mean: Array, forms: Combination, x: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Draws [S, G] of the process moved towards the forms, and the centre [G] of all of them."""
    n, top, lowest = 10.0**x, float(forms.data.n.max()), float(forms.data.n.min())
    start, end = (int(np.abs(x - math.log10(at)).argmin()) for at in (max(top / 10.0, lowest), top))
    beyond = np.arange(x.size) > end
    rises = drawn[:, end] < drawn[:, start]
    strays = drawn - mean
    near = _STRAY[0] + (_STRAY[1] - _STRAY[0]) * np.minimum(1.0, x[beyond] - x[end])
    kept = np.where(rises[:, None], near, 1.0)
    strays[:, beyond] = strays[:, [end]] + kept * (strays[:, beyond] - strays[:, [end]])
    apart, deviations = forms.log_error(n) - mean, forms.deviations(n)
    if forms.alone:  # a form that was asked for is the law, whatever the measurements do
        return mean + apart + strays, mean + apart
    told = np.ones(DRAWS, bool) if forms.can_fall else rises
    trust = rng.uniform(*_TRUST, DRAWS) * told
    picked = deviations[rng.integers(len(deviations), size=DRAWS)]
    log_e = mean + trust[:, None] * (apart + _DISAGREEMENT * picked) + strays
    stops = rises & (rng.random(DRAWS) < _STOPS)
    log_e[np.ix_(stops, beyond)] = log_e[stops][:, [end]]
    centre = mean + np.mean(_TRUST) * told.mean() * apart
    centre[beyond] += _STOPS * rises.mean() * (centre[end] - centre[beyond])
    return log_e, centre


def _grid(forms: Sequence[Combination]) -> Array:
    """log10 of images: fine over the data and a little beyond, with each ladder's ends and last decade on it."""
    low, top = (math.log10(end) for end in _range(forms))
    fine = np.arange(low - 0.5, top + _FINE_BEYOND, 1.0 / _FINE)
    coarse = np.arange(top + _FINE_BEYOND, top + math.log10(REACH) + 1.0 / _COARSE, 1.0 / _COARSE)
    marks = [math.log10(n) for one in forms for n in (one.data.n.min(), one.data.n.max() / 10.0, one.data.n.max())]
    grid = np.unique(np.concatenate([fine, coarse, marks]))
    apart = np.append(True, np.diff(grid) > 1e-9)
    return grid[apart]


def _range(forms: Sequence[Combination]) -> tuple[float, float]:
    return min(float(one.data.n.min()) for one in forms), max(float(one.data.n.max()) for one in forms)
