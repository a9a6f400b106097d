"""What a functional form is: the error e as a function of ln n and parameters, and all that fitting needs besides.

Every form gives the *error* e (a score s is fitted as e = 1 - s) at u = ln(n / n_ref), natural logarithm of images over
a reference count. Parameters are unconstrained reals ``theta``; ``describe`` gives them in natural units.

Shapes: theta is [..., P], u is [K] (or broadcasts against theta's batch as [..., K]); errors come back as [..., K] and
Jacobians de/dtheta as [..., K, P]. Batches are how many starts, hold-outs and replicates are fitted at once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

__all__ = ["Array", "Form", "bounded_exp", "sigmoid", "slope_and_level", "softplus"]

Array = NDArray[np.float64]
"""Numbers of one curve, or of many at once, in float64."""

_MAX_EXPONENT = 60.0  # exp(60) is far outside every metric here, and its square still is a finite float
_LOG = "ln_"  # what the name of a parameter starts with that is the logarithm of a positive number
_PRIOR_SCALE = 3.0  # of a logarithm: a factor of 20 either way
_STEP = float(np.cbrt(np.finfo(float).eps))  # where a central difference loses as much to rounding as to curvature
_DRAWS = 512  # from the prior; the nearest _STARTS to the data are where fitting starts
_STARTS = 8


def softplus(t: Array) -> Array:
    """ln(1 + exp(t)) without overflow (three times as fast as numpy's logaddexp)."""
    return np.maximum(t, 0.0) + np.log1p(np.exp(-np.abs(t)))


def sigmoid(t: Array) -> Array:
    """1 / (1 + exp(-t)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * t))


def bounded_exp(t: Array) -> Array:
    """exp(t) with t cut to +-60, so that a wild step of the solver stays a finite number."""
    return np.exp(np.clip(t, -_MAX_EXPONENT, _MAX_EXPONENT))


def slope_and_level(u: Array, z: Array) -> tuple[float, float]:
    """Least-squares (slope, intercept) of z against u."""
    centre = u.mean()
    spread = float(((u - centre) ** 2).sum())
    slope = float(((u - centre) * z).sum() / spread) if spread > 0 else 0.0
    return slope, float(z.mean() - slope * centre)


class Form(ABC):
    """One family of curves e(u; theta). Stateless; instances are shared.

    A form of one's own needs ``name``, ``formula``, ``parameters`` and ``error``. The other methods have defaults that
    work for any smooth curve; the forms here override them for speed and for parameters in images.

    Attributes:
        name: the name users choose it by, and results carry.
        aliases: other names it is found by.
        formula: in plain text, n in images.
        source: who proposed it.
        parameters: the names of theta's entries; "ln_x" is the logarithm of a positive x.
        bends: whether it can leave a straight line (in ln n, or in ln n and ln e). Those that cannot join a
            combination only where they predict held-back points much better than those that can.
        monotone: whether e falls, or stays, for every theta; such forms are not asked about curves that get worse.
        bounded_only: whether it is no form for an unbounded loss.
        prior_mean, prior_scale: of a weak Gaussian prior on theta; it keeps parameters that few points cannot
            determine from running away, and vanishes beside real evidence. Empty: 0 and 3 for every parameter.
    """

    name: str
    aliases: tuple[str, ...] = ()
    formula: str
    source: str = ""
    parameters: tuple[str, ...]
    bends: bool = True
    monotone: bool = False
    bounded_only: bool = False
    prior_mean: tuple[float, ...] = ()
    prior_scale: tuple[float, ...] = ()

    @abstractmethod
    def error(self, theta: Array, u: Array) -> Array:
        """e at u: [..., K]."""

    def jacobian(self, theta: Array, u: Array) -> Array:
        """de/dtheta at u: [..., K, P].

        By default central differences with steps of 6e-6 max(1, |theta|): off by less than 1e-9 of e + |de/dtheta|
        where e is smooth on the scale of the step (3e-10 on the forms here), for two evaluations of e a parameter.
        """
        columns = []
        for p in range(theta.shape[-1]):
            above, below = theta.astype(float), theta.astype(float)
            step = _STEP * np.maximum(1.0, np.abs(theta[..., p]))
            above[..., p] += step
            below[..., p] -= step
            taken = above[..., p] - below[..., p]  # not 2 step: theta + step is rounded
            columns.append((self.error(above, u) - self.error(below, u)) / taken[..., None])
        return np.stack(columns, axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        """Starting points [S, P] for the data (u [K], e [K]).

        By default the 8 nearest to the data (in ln e) of 512 fixed draws from the prior, its mean among them.
        """
        mean, scale = self.prior()
        draws = mean + scale * np.random.default_rng(0).normal(size=(_DRAWS, mean.size))
        draws[0] = mean
        with np.errstate(all="ignore"):  # a draw may be absurd; it is then not among the nearest
            missed = ((np.log(self.error(draws, u)) - np.log(e)) ** 2).sum(-1)
        return draws[np.argsort(np.nan_to_num(missed, nan=np.inf), kind="stable")[:_STARTS]]

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        """The parameters theta [P] in natural units, for n in images.

        By default as ``natural`` gives them, with ``n_ref`` beside: they belong to a formula in n / n_ref.
        """
        names = (name.removeprefix(_LOG) for name in self.parameters)
        return {**{name: float(x[0]) for name, x in zip(names, self.natural(theta))}, "n_ref": float(n_ref)}

    def prior(self) -> tuple[Array, Array]:
        """Mean and scale [P] of the prior on theta."""
        size = len(self.parameters)
        mean = np.asarray(self.prior_mean or (0.0,) * size, dtype=float)
        return mean, np.asarray(self.prior_scale or (_PRIOR_SCALE,) * size, dtype=float)

    def natural(self, theta: Array) -> tuple[Array, ...]:
        """theta's entries as columns [..., 1], ready to be combined with u; x itself where "ln_x" is fitted."""
        columns = (theta[..., i : i + 1] for i in range(len(self.parameters)))
        return tuple(bounded_exp(c) if n.startswith(_LOG) else c for n, c in zip(self.parameters, columns))
