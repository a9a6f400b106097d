"""A Gaussian process over curves: what the measurements leave open, for one ladder of fractions or several at once.

x = log10(n / n_0) is in decades from the smallest fraction measured, z = ln e. The gain from data, v = dz/dx, has a
first value of scale s, is forgotten at rate lambda a decade, and is pushed on its way by white noise of r s:

    dv = -lambda v dx + r s dW,    z(x) = z(0) + int_0^x v,

so that, with h(t) = (1 - exp(-lambda t)) / lambda,

    Cov(z(x), z(x')) = level + s^2 [h(x) h(x') + r^2 int_0^min(x, x') h(x - t) h(x' - t) dt].

Its mean is a flat curve: a metric may as well fall with data as rise. Curves of several ladders are alike in shape to
a share rho, Cov(z_a, z_b) = rho s^2 [...], and have levels of their own. Nothing of this is tuned to one study: the
posterior weighs a grid of (lambda, r, rho, s, sigma), sigma being the noise of a measurement, by how probable each
makes the measurements. Shapes: A ladders, M fractions in all, Q numbers of images, S draws.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular

from scaleprior.laws.forms.form import Array
from scaleprior.laws.noise import LEAST_NOISE, scatter
from scaleprior.laws.observations import Observations

__all__ = ["Process", "condition"]

_FORGETTING = (0.35, 0.7, 1.2, 2.0, 3.5)  # lambda, per decade
_PUSH = (0.05, 0.25, 0.6, 1.2)  # r
_ALIKE = (0.0, 0.5, 0.8, 0.95)  # rho, of several ladders
_SLOPE = np.array([0.008, 0.02, 0.05, 0.12, 0.3, 0.8])  # s, of ln e a decade
_NOISE = np.geomspace(LEAST_NOISE, 0.12, 12)  # sigma, of ln e
_USUAL_NOISE, _NOISE_SPREAD = 0.012, 0.8  # median of sigma before any data, and the standard deviation of its logarithm
_LEVEL = 25.0  # variance of a ladder's level: nothing is known of it before the data
_JITTER = 1e-9  # keeps a covariance of neighbouring points positive definite


@dataclass(frozen=True)
class _Fractions:
    """The fractions of all ladders: means of ln e over runs.

    Attributes:
        x: [M] decades; z: [M] means of ln e; of: [M] the ladder.
        covariance: [M, M] of the means, for runs with noise of variance 1.
        square, spare: weighted sum of squares within fractions, and its degrees of freedom.
    """

    x: Array
    z: Array
    of: NDArray[np.intp]
    covariance: Array
    square: float
    spare: int


@dataclass(frozen=True)
class _Shape:
    """The posterior under one (lambda, r, rho), for every (s, sigma): [6, 12] cells, diagonal in ``basis``.

    Attributes:
        values: [M] eigenvalues of the whitened covariance of the shape; basis: [M, M] from whitened to eigen space.
        levels: [M, A] indicators of the ladders, in eigen space.
        log_evidence: [6, 12].
        pull: [6, 12, M] how far each fraction pulls the curves, in eigen space; level: [6, 12, A] posterior means.
    """

    forgetting: float
    push: float
    alike: float
    values: Array
    basis: Array
    levels: Array
    log_evidence: Array
    pull: Array
    level: Array


class Process:
    """The posterior of curves given measurements; made by :func:`condition`.

    Attributes:
        origin: log10 of the smallest number of images.
        ladders: A.
    """

    def __init__(self, fractions: _Fractions, origin: float, ladders: int) -> None:
        self.origin: float = origin
        self.ladders: int = ladders
        self._fractions, self._offset = fractions, float(fractions.z.mean())
        self._whitening = np.linalg.cholesky(fractions.covariance)
        similar = _ALIKE if ladders > 1 else _ALIKE[:1]
        self._shapes: list[_Shape] = [self._shape(*cell) for cell in _cells(similar)]
        evidence = np.array([shape.log_evidence for shape in self._shapes])
        weights = np.exp(evidence - evidence.max())
        self._weights: Array = weights / weights.sum()  # [shapes, 6, 12]

    def _between(self, alike: float, a: NDArray[np.intp], b: NDArray[np.intp]) -> Array:
        """How alike the shapes of ladders a [K] and b [L] are: [K, L]."""
        return np.where(a[:, None] == b[None], 1.0, alike)

    def _shape(self, forgetting: float, push: float, alike: float) -> _Shape:
        seen = self._fractions
        covariance = _covariance(forgetting, push, seen.x, seen.x) * self._between(alike, seen.of, seen.of)
        left = solve_triangular(self._whitening, covariance, lower=True)
        values, vectors = np.linalg.eigh(solve_triangular(self._whitening, left.T, lower=True))
        values = np.maximum(values, 0.0)
        basis = vectors.T @ solve_triangular(self._whitening, np.eye(seen.x.size), lower=True)
        z = basis @ (seen.z - self._offset)
        levels = basis @ np.equal.outer(seen.of, np.arange(self.ladders)).astype(float)
        variance = _SLOPE[:, None, None] ** 2 * values + _NOISE[None, :, None] ** 2  # [6, 12, M]
        scaled = levels / variance[..., None]
        precision = levels.T @ scaled  # [6, 12, A, A]
        whole = precision + np.eye(self.ladders) / _LEVEL
        level = np.linalg.solve(whole, (scaled.swapaxes(-1, -2) @ z)[..., None])[..., 0]
        pull = (z - level @ levels.T) / variance
        log_evidence = -0.5 * (
            pull @ z
            + np.log(variance).sum(-1)
            + np.linalg.slogdet(_LEVEL * whole)[1]
            + (seen.spare * np.log(_NOISE**2) + seen.square / _NOISE**2)
            + ((np.log(_NOISE) - np.log(_USUAL_NOISE)) / _NOISE_SPREAD) ** 2
        )
        return _Shape(forgetting, push, alike, values, basis, levels, log_evidence, pull, level)

    @property
    def noise(self) -> float:
        """Root mean square of the noise of one measurement of weight 1, of ln e."""
        return float(np.sqrt((self._weights.sum((0, 1)) * _NOISE**2).sum()))

    def mean(self, x: Array) -> Array:
        """Posterior mean of z at x [Q] decades, of every ladder: [A, Q]."""
        seen, found = self._fractions, np.full((self.ladders, x.size), self._offset)
        for shape, weights in zip(self._shapes, self._weights):
            level = (weights[..., None] * shape.level).sum((0, 1))
            pull = ((weights * _SLOPE[:, None] ** 2)[..., None] * shape.pull).sum((0, 1)) @ shape.basis
            cross = _covariance(shape.forgetting, shape.push, x, seen.x)
            alike = self._between(shape.alike, np.arange(self.ladders), seen.of)
            found += level[:, None] + (alike * pull) @ cross.T
        return found

    def draws(self, x: Array, count: int, rng: np.random.Generator) -> tuple[Array, Array, NDArray[np.intp]]:
        """Joint draws of the posterior.

        Each is a draw of the prior, moved by what the measurements, less its own values and noise there, say of it
        (Matheron's rule).

        Returns:
            z [count, A, Q] at x [Q] decades; of each draw the noise sigma [count] and the cell of the grid [count].
        """
        chosen = _proportional(self._weights.ravel(), count, rng)
        shapes, slopes, noises = np.unravel_index(chosen, self._weights.shape)
        found = np.empty((count, self.ladders, x.size))
        for i in np.unique(shapes):
            rows = np.flatnonzero(shapes == i)
            found[rows] = self._draws_of(self._shapes[i], x, _SLOPE[slopes[rows]], _NOISE[noises[rows]], rng)
        return found + self._offset, _NOISE[noises], chosen

    def strangers(self, x: Array, cells: NDArray[np.intp], rng: np.random.Generator) -> Array:
        """What the shape of one ladder does not share with another's: draws [S, Q] of sqrt(1 - rho) s [...].

        Args:
            x: [Q] decades.
            cells: [S] of the grid, of :meth:`draws`: with each draw goes its own (lambda, r, rho, s).
        """
        shapes, slopes, _ = np.unravel_index(cells, self._weights.shape)
        found = np.empty((cells.size, x.size))
        for i in np.unique(shapes):
            shape, rows = self._shapes[i], np.flatnonzero(shapes == i)
            covariance = _covariance(shape.forgetting, shape.push, x, x)
            root = np.linalg.cholesky(covariance + _JITTER * np.diag(np.diag(covariance) + 1.0))
            scale = np.sqrt(1.0 - shape.alike) * _SLOPE[slopes[rows]]
            found[rows] = scale[:, None] * (rng.normal(size=(rows.size, x.size)) @ root.T)
        return found

    def _draws_of(self, shape: _Shape, x: Array, slope: Array, noise: Array, rng: np.random.Generator) -> Array:
        """Draws [S, A, Q] under one shape, each with its own s and sigma [S]."""
        seen, count, ladders = self._fractions, slope.size, self.ladders
        points, place = np.unique(np.concatenate([seen.x, x]), return_inverse=True)
        at, wanted = place[: seen.x.size], place[seen.x.size :]
        covariance = _covariance(shape.forgetting, shape.push, points, points)
        root = np.linalg.cholesky(covariance + _JITTER * np.diag(np.diag(covariance) + 1.0))
        between = np.linalg.cholesky(self._between(shape.alike, np.arange(ladders), np.arange(ladders)))
        curves = slope[:, None, None] * (between @ rng.normal(size=(count, ladders, points.size)) @ root.T)
        levels = np.sqrt(_LEVEL) * rng.normal(size=(count, ladders))
        scatter = noise[:, None] * (rng.normal(size=(count, seen.x.size)) @ self._whitening.T)
        left = (seen.z - self._offset - curves[:, seen.of, at] - levels[:, seen.of] - scatter) @ shape.basis.T
        variance = slope[:, None] ** 2 * shape.values + noise[:, None] ** 2
        scaled = shape.levels / variance[..., None]  # [S, M, A]
        whole = shape.levels.T @ scaled + np.eye(ladders) / _LEVEL
        level = np.linalg.solve(whole, (scaled.swapaxes(1, 2) @ left[..., None]))[..., 0]
        pull = ((left - level @ shape.levels.T) / variance) @ shape.basis * slope[:, None] ** 2
        alike = self._between(shape.alike, np.arange(ladders), seen.of)
        moved = (alike * pull[:, None]) @ covariance[np.ix_(at, wanted)]
        return curves[..., wanted] + (levels + level)[..., None] + moved


def condition(ladders: Sequence[Observations], *, correlation: float = 0.0) -> Process:
    """The posterior given the measurements of one ladder, or of several whose shapes may be alike.

    Args:
        ladders: A of them.
        correlation: of the noise of two ladders' runs with the same images and seed.
    """
    origin = float(min(np.log10(data.n.min()) for data in ladders))
    parts = [_means(data) for data in ladders]
    of = np.repeat(np.arange(len(ladders)), [sizes.size for sizes, _, _ in parts])
    n, z, weight = (np.concatenate([part[k] for part in parts]) for k in range(3))
    scattered = [scatter(data) for data in ladders]
    square, spare = sum(of_runs for of_runs, _ in scattered), sum(dof for _, dof in scattered)
    covariance = np.diag(1.0 / weight)
    if correlation:
        covariance += correlation * _shared(ladders, n, of)
    return Process(_Fractions(np.log10(n) - origin, z, of, covariance, square, spare), origin, len(ladders))


def _means(data: Observations) -> tuple[Array, Array, Array]:
    """(sizes, weighted means of ln e, sums of weights), each [M] of one ladder."""
    sizes = data.sizes
    place = np.searchsorted(sizes, data.n)
    weight = np.bincount(place, data.w).astype(float)
    return sizes, np.bincount(place, data.w * np.log(data.e)) / weight, weight


def _shared(ladders: Sequence[Observations], n: Array, of: NDArray[np.intp]) -> Array:
    """Covariance [M, M] of means of different ladders for noise of variance 1 that runs with one seed share.

    A seed's runs at a fraction are one measurement of their weight w, and what it adds is as large as a noise of
    variance 1 / w: so the whole stays a covariance, whatever the weights.
    """
    seeds = [_weights_of_seeds(ladders[a], at) for a, at in zip(of, n)]
    weight = [sum(ladders[a].w[ladders[a].n == at]) for a, at in zip(of, n)]
    found = np.zeros((n.size, n.size))
    for i in range(n.size):
        for j in range(n.size):
            if of[i] != of[j] and n[i] == n[j]:
                common = sum(math.sqrt(seeds[i][seed] * seeds[j][seed]) for seed in seeds[i] if seed in seeds[j])
                found[i, j] = common / (weight[i] * weight[j])
    return found


def _weights_of_seeds(data: Observations, at: float) -> dict[Hashable, float]:
    """Sums of weights of the runs of each seed at a fraction."""
    found: dict[Hashable, float] = {}
    for group, weight in zip(data.group[data.n == at], data.w[data.n == at]):
        if group >= 0:
            label = data.group_labels[group]
            found[label] = found.get(label, 0.0) + float(weight)
    return found


def _cells(similar: Sequence[float]) -> list[tuple[float, float, float]]:
    return [(forgetting, push, alike) for forgetting in _FORGETTING for push in _PUSH for alike in similar]


def _covariance(forgetting: float, push: float, x: Array, y: Array) -> Array:
    """Covariance [K, L] of shapes at x [K] and y [L] decades, for s = 1; below 0 decades curves go on straight."""
    rise_x, rise_y = _rise(forgetting, x), _rise(forgetting, y)
    x, y = np.maximum(x, 0.0)[:, None], np.maximum(y, 0.0)[None]
    met = np.minimum(x, y)
    from_x, from_y = (np.exp(-forgetting * (t - met)) - np.exp(-forgetting * t) for t in (x, y))
    both = np.exp(-forgetting * (x + y - 2.0 * met)) - np.exp(-forgetting * (x + y))
    pushed = (met - (from_x + from_y) / forgetting + both / (2.0 * forgetting)) / forgetting**2
    return np.outer(rise_x, rise_y) + push**2 * pushed


def _rise(forgetting: float, x: Array) -> Array:
    """h: what a first gain of 1 adds up to over x decades."""
    return np.where(x < 0.0, x, -np.expm1(-forgetting * np.maximum(x, 0.0)) / forgetting)


def _proportional(weights: Array, count: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """``count`` indices, each as often as its weight says to within one (systematic sampling), in random order."""
    steps = (np.arange(count) + rng.random()) / count
    return rng.permutation(np.searchsorted(np.cumsum(weights), steps * weights.sum()).clip(0, weights.size - 1))
