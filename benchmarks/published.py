"""The published estimators as their authors fit them: baselines for ``benchmarks/laws.py``.

M1 to M4 are those of Alabdulmohsin, Neyshabur, Zhai 2022, by the procedure of the code released with the paper
(google-research, folder revisiting_neural_scaling_laws; written anew here, for many series at once): least squares in
the logarithm of the excess error for (beta, c, alpha), in turns with short descents for the limits e_inf and e_0.
The procedure and not only the objective matters: stopping near its start, M4 forecasts better than at its optimum.
BNSL is the form of Caballero et al. 2022 with one break and 24 starts.

B series, K points each (shorter ones padded, ``use`` False there); x images, y errors in (0, 1).
A method takes lists of x and y and returns one predictor n -> error per series.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from scaleprior.laws.forms.broken import BrokenPowerLaw
from scaleprior.laws.forms.form import Array, Form
from scaleprior.laws.forms.power import M2, M3
from scaleprior.laws.forms.sigmoidal import solve_sigmoidal
from scaleprior.laws.solver import solve

__all__ = ["PUBLISHED", "Predictor"]

Predictor = Callable[[Array], Array]
Method = Callable[[Sequence[Array], Sequence[Array]], "list[Predictor]"]

# The released code's constants
_MARGIN = 1e-3
_GRADIENT_ROUNDS, _GRADIENT_STEPS, _GRADIENT_RATE = 100, 1000, 1e-8
_NEWTON_STEPS, _NEWTON_RATE, _CURVED = 100, 0.1, 1e-5
_STOP = 1e-10
# Theirs are 10,000; from 1,000 to 3,000 the means still go from 0.063 to 0.067 (M2) and from 0.0307 to 0.0308 (M4).
_NEWTON_ROUNDS = 3000


def _pad(xs: Sequence[Array], ys: Sequence[Array]) -> tuple[Array, Array, Array]:
    """(ln x, y, use) as [B, K] with the last point repeated as padding; ``use`` sums to 1 per series."""
    longest = max(map(len, xs))
    log_x = np.array([np.pad(np.log(x), (0, longest - len(x)), mode="edge") for x in xs])
    y = np.array([np.pad(v, (0, longest - len(v)), mode="edge") for v in ys])
    use = np.array([np.arange(longest) < len(x) for x in xs]) / np.array([[len(x)] for x in xs])
    return log_x, y, use


def _line(v: Array, z: Array, use: Array) -> tuple[Array, Array]:
    """Least-squares slope and intercept of z against v, per series."""
    centre = (use * v).sum(-1, keepdims=True)
    slope = (use * (v - centre) * z).sum(-1) / np.maximum((use * (v - centre) ** 2).sum(-1), 1e-300)
    return slope, (use * z).sum(-1) - slope * centre[..., 0]


def _m1(xs: Sequence[Array], ys: Sequence[Array]) -> list[Predictor]:
    log_x, y, use = _pad(xs, ys)
    slope, level = _line(log_x, np.log(y), use)
    return [lambda n, s=s, a=a: np.exp(a + s * np.log(n)) for s, a in zip(slope, level)]


def _m3(xs: Sequence[Array], ys: Sequence[Array]) -> list[Predictor]:
    """In turns: (beta, c) by least squares, gamma as the best of the values that solve the form at one point each."""
    log_x, y, use = _pad(xs, ys)
    z, inverse = np.log(y), np.exp(-log_x)
    gamma, beta = np.zeros(len(y)), np.ones(len(y))
    rows = np.arange(len(y))
    for _ in range(1000):
        c, log_beta = _line(np.log(inverse + gamma[:, None]), z, use)
        c, old, beta = np.maximum(c, 0.0), beta, np.exp(log_beta)
        with np.errstate(all="ignore"):
            exact = (y / beta[:, None]) ** (1.0 / c[:, None]) - inverse
        options = np.concatenate(
            [gamma[:, None], np.where((exact >= 0) & np.isfinite(exact), exact, gamma[:, None])], 1
        )
        residual = (
            z[:, None] - log_beta[:, None, None] - c[:, None, None] * np.log(inverse[:, None] + options[..., None])
        )
        gamma = options[rows, (use[:, None] * residual**2).sum(-1).argmin(1)]
        if np.max(np.abs(beta - old)) < _STOP:
            break
    return [lambda n, a=a, s=s, g=g: np.exp(a + s * np.log(1.0 / n + g)) for a, s, g in zip(log_beta, c, gamma)]


class _Descent:
    """M2 and M4: state [B] of e_inf, e_0, ln beta, c, alpha, and the released code's turns of updating them."""

    def __init__(self, xs: Sequence[Array], ys: Sequence[Array], *, alpha: bool) -> None:
        self.log_x, self.y, self.use = _pad(xs, ys)
        self.with_alpha = alpha
        self.e_inf = self.y.min(1) - _MARGIN
        self.low, self.top = np.maximum(self.e_inf, 0.0), self.y.max(1) + _MARGIN
        self.e_0 = np.maximum(1.0, self.top)
        self.log_beta, self.c, self.alpha = (np.zeros(len(self.y)) for _ in range(3))
        columns = [np.ones_like(self.y), self.log_x]
        if alpha:  # kept at the first e_0, as the released code does; signs such that all coefficients are >= 0
            columns = [np.ones_like(self.y), -self.log_x, np.log(self.e_0[:, None] - self.y)]
        self.design = np.stack(columns, axis=-1)
        sets = [tuple(range(len(columns)))]
        if alpha:
            sets = [s for size in (3, 2, 1) for s in itertools.combinations(range(3), size)]
        self.solvers = [(s, self._pseudo_inverse(s)) for s in sets]

    def _pseudo_inverse(self, columns: tuple[int, ...]) -> Array:
        design = self.design[..., list(columns)]
        normal = np.einsum("bki,bk,bkj->bij", design, self.use, design)
        return np.linalg.solve(normal, np.swapaxes(design * self.use[..., None], 1, 2))

    def regress(self, rows: NDArray[np.intp]) -> None:
        """Least squares for (ln beta, c, alpha); non-negative by trying every set of active coefficients."""
        labels = np.log(self.y[rows] - self.e_inf[rows, None])
        best = np.full(rows.size, np.inf)
        found = np.zeros((rows.size, self.design.shape[-1]))
        for columns, inverse in self.solvers:
            coefficients = np.zeros_like(found)
            coefficients[:, list(columns)] = np.einsum("bik,bk->bi", inverse[rows], labels)
            residual = labels - np.einsum("bki,bi->bk", self.design[rows], coefficients)
            cost = (self.use[rows] * residual**2).sum(1)
            if self.with_alpha:
                cost = np.where((coefficients >= 0).all(1), cost, np.inf)
            better = cost < best
            best[better], found[better] = cost[better], coefficients[better]
        self.log_beta[rows] = found[:, 0]
        self.c[rows] = -found[:, 1] if self.with_alpha else found[:, 1]
        if self.with_alpha:
            self.alpha[rows] = found[:, 2]

    def descend(self, rows: NDArray[np.intp], *, newton: bool) -> None:
        """Move e_inf (and e_0) against the gradient of half the mean squared residual, within their bounds."""
        y, use, alpha = self.y[rows], self.use[rows], self.alpha[rows, None]
        fixed = self.log_beta[rows, None] + self.c[rows, None] * self.log_x[rows]
        e_inf, e_0 = self.e_inf[rows, None], self.e_0[rows, None]
        low, top = self.low[rows, None], self.top[rows, None]
        for _ in range(_NEWTON_STEPS if newton else _GRADIENT_STEPS):
            above, below = y - e_inf, e_0 - y
            residual = np.log(above) - fixed
            if self.with_alpha:
                residual = residual - alpha * np.log(below)
            inf_step = -(use * residual / above).sum(1, keepdims=True)
            top_step = -alpha * (use * residual / below).sum(1, keepdims=True)
            rate_inf = rate_top = _GRADIENT_RATE
            if newton:
                curve_inf = (use * (1.0 - residual) / above**2).sum(1, keepdims=True)
                curve_top = alpha * (use * (alpha + residual) / below**2).sum(1, keepdims=True)
                rate_inf = np.where(np.abs(curve_inf) > _CURVED, _NEWTON_RATE / curve_inf, 0.0)
                with np.errstate(divide="ignore"):
                    rate_top = np.where(np.abs(curve_top) > _CURVED, _NEWTON_RATE / curve_top, 0.0)
            e_inf = np.clip(e_inf - rate_inf * inf_step, 0.0, low)
            if self.with_alpha:
                e_0 = np.maximum(e_0 - rate_top * top_step, top)
        self.e_inf[rows], self.e_0[rows] = e_inf[:, 0], e_0[:, 0]

    def run(self) -> None:
        """The turns, each series until its beta stops moving in the second phase."""
        rows = np.arange(len(self.y))
        beta = np.ones(len(self.y))
        for turn in range(_GRADIENT_ROUNDS + _NEWTON_ROUNDS):
            self.regress(rows)
            self.descend(rows, newton=turn >= _GRADIENT_ROUNDS)
            moved = np.abs(np.exp(self.log_beta[rows]) - beta[rows])
            beta[rows] = np.exp(self.log_beta[rows])
            if turn > _GRADIENT_ROUNDS + 1:
                rows = rows[moved >= _STOP]
            if rows.size == 0:
                break

    def predictor(self, i: int) -> Predictor:
        e_inf, span, alpha = self.e_inf[i], self.e_0[i] - self.e_inf[i], self.alpha[i]
        log_beta, c = self.log_beta[i], self.c[i]

        def predict(n: Array) -> Array:
            f = log_beta + c * np.log(n)
            if alpha < 1e-5:
                return e_inf + np.exp(f)
            t, _ = solve_sigmoidal(f + (alpha - 1.0) * np.log(span), np.asarray(alpha))
            return e_inf + span / (1.0 + np.exp(-t))

        return predict


def _descent(xs: Sequence[Array], ys: Sequence[Array], *, alpha: bool) -> list[Predictor]:
    state = _Descent(xs, ys, alpha=alpha)
    state.run()
    return [state.predictor(i) for i in range(len(xs))]


def _least_squares(form: Form, x: Array, y: Array, extra: int = 0) -> Predictor:
    reference = float(np.exp(np.log(x).mean()))
    u, z = np.log(x / reference), np.log(y)
    starts = form.starts(u, y)
    if extra:
        shaken = starts[np.arange(extra) % len(starts)]
        starts = np.concatenate([starts, shaken + 0.5 * np.random.default_rng(0).normal(size=shaken.shape)])
    # 1e-6: the published estimators have no prior; this little keeps their normal equations from being singular
    theta, cost = solve(form, starts, u, z, np.ones_like(u), sigma=0.02, iterations=200, prior_weight=1e-6)
    best = theta[int(np.argmin(cost))]
    return lambda n: form.error(best, np.log(n / reference))


def _log_linear(x: Array, y: Array) -> Predictor:
    slope, level = np.polyfit(np.log(x), y, 1)
    return lambda n: level + slope * np.log(n)


def _last(x: Array, y: Array) -> Predictor:
    last = float(y[x == x.max()].mean())
    return lambda n: np.full(np.shape(n), last)


def _each(fit: Callable[[Array, Array], Predictor]) -> Method:
    return lambda xs, ys: [fit(x, y) for x, y in zip(xs, ys)]


PUBLISHED: dict[str, Method] = {
    "last value": _each(_last),
    "log-linear": _each(_log_linear),
    "M1": _m1,
    "M2": lambda xs, ys: _descent(xs, ys, alpha=False),
    "M3": _m3,
    "M4": lambda xs, ys: _descent(xs, ys, alpha=True),
    "power law": _each(lambda x, y: _least_squares(M2(), x, y)),
    "M3, robust": _each(lambda x, y: _least_squares(M3(), x, y)),
    "BNSL": _each(lambda x, y: _least_squares(BrokenPowerLaw(), x, y, extra=16)),
}
