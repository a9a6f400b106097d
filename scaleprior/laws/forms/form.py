"""The functional forms a law may take, each with its formula, domain and analytic Jacobian.

Every form gives the *error* e (a score s is fitted as e = 1 - s) at u = ln(n / n_ref), natural logarithm of images over
a reference count. Parameters are unconstrained reals ``theta``; ``describe`` gives them in natural units.

Shapes: theta is [..., P], u is [K] (or broadcasts against theta's batch as [..., K]); errors come back as [..., K] and
Jacobians de/dtheta as [..., K, P]. Batches are how many starts, hold-outs and replicates are fitted at once.

Sources: M1 to M4 are the estimators of Alabdulmohsin, Neyshabur, Zhai, "Revisiting Neural Scaling Laws in Language and
Vision" (2022); the sigmoidal forms are in :mod:`scaleprior.laws.forms.sigmoidal`, the form with a
break in :mod:`scaleprior.laws.forms.broken`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "M1",
    "M3",
    "Array",
    "Form",
    "LogLinear",
    "PowerLawOffset",
    "bounded_exp",
    "sigmoid",
    "slope_and_level",
    "softplus",
]

Array = NDArray[np.float64]
_MAX_EXPONENT = 60.0  # exp(60) is far outside every metric here, and its square still is a finite float


def softplus(t: Array) -> Array:
    """ln(1 + exp(t)) without overflow (three times as fast as numpy's logaddexp)."""
    return np.maximum(t, 0.0) + np.log1p(np.exp(-np.abs(t)))


def sigmoid(t: Array) -> Array:
    """1 / (1 + exp(-t)) without overflow."""
    return 0.5 * (1.0 + np.tanh(0.5 * t))


def bounded_exp(t: Array) -> Array:
    """exp(t) with t cut to +-60, so that a wild step of the solver stays a finite number."""
    return np.exp(np.clip(t, -_MAX_EXPONENT, _MAX_EXPONENT))


class Form(ABC):
    """One family of curves e(u; theta). Stateless; instances are shared.

    Attributes:
        name: the name users choose it by.
        formula: in plain text, n in images.
        parameters: the names of theta's entries.
        prior_mean, prior_scale: of a weak Gaussian prior on theta; it keeps parameters that few points cannot
            determine from running away, and vanishes beside real evidence.
    """

    name: str
    formula: str
    parameters: tuple[str, ...]
    prior_mean: tuple[float, ...]
    prior_scale: tuple[float, ...]

    @abstractmethod
    def error(self, theta: Array, u: Array) -> Array:
        """e at u: [..., K]."""

    @abstractmethod
    def jacobian(self, theta: Array, u: Array) -> Array:
        """de/dtheta at u: [..., K, P]."""

    @abstractmethod
    def starts(self, u: Array, e: Array) -> Array:
        """Starting points [S, P] for the data (u [K], e [K])."""

    @abstractmethod
    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        """The parameters theta [P] in natural units, for n in images."""


def slope_and_level(u: Array, z: Array) -> tuple[float, float]:
    """Least-squares (slope, intercept) of z against u."""
    centre = u.mean()
    spread = float(((u - centre) ** 2).sum())
    slope = float(((u - centre) * z).sum() / spread) if spread > 0 else 0.0
    return slope, float(z.mean() - slope * centre)


class LogLinear(Form):
    """e = a - b log10(n): the gain per factor of ten is b everywhere (the paper's law, for scores s = 1 - e).

    Linear in its parameters; unbounded, so predictions are cut to the metric's range by the caller.
    """

    name = "log-linear"
    formula = "e = a - b log10(n)"
    parameters = ("a", "b")
    prior_mean = (0.0, 0.0)
    prior_scale = (10.0, 10.0)

    def error(self, theta: Array, u: Array) -> Array:
        return theta[..., :1] - theta[..., 1:2] * u / np.log(10.0)

    def jacobian(self, theta: Array, u: Array) -> Array:
        slope = np.broadcast_to(-u / np.log(10.0), np.broadcast_shapes(theta[..., :1].shape, np.shape(u)))
        return np.stack([np.ones_like(slope), slope], axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        slope, level = slope_and_level(u, e)
        return np.array([[level, -slope * np.log(10.0)]])

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        return {"a": float(theta[0] + theta[1] * np.log10(n_ref)), "b": float(theta[1])}


class M1(Form):
    """e = beta n^-c (M1). theta = (ln e at n_ref, c); c may be negative, for a metric that gets worse."""

    name = "M1"
    formula = "e = beta n^-c"
    parameters = ("ln_beta", "c")
    prior_mean = (-0.5, 0.3)
    prior_scale = (4.0, 2.0)

    def error(self, theta: Array, u: Array) -> Array:
        return bounded_exp(theta[..., :1] - theta[..., 1:2] * u)

    def jacobian(self, theta: Array, u: Array) -> Array:
        e = self.error(theta, u)
        return np.stack([e, -u * e], axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        slope, level = slope_and_level(u, np.log(e))
        return np.array([[level, -slope]])

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        return {"beta": float(bounded_exp(theta[0] + theta[1] * np.log(n_ref))), "c": float(theta[1])}


class PowerLawOffset(Form):
    """e = e_inf + beta n^-c (M2 of Alabdulmohsin et al.). theta = (ln e_inf, ln(beta n_ref^-c), ln c).

    Domain: e_inf > 0, beta > 0, c > 0: decreasing and convex in n.
    """

    name = "power-law"
    formula = "e = e_inf + beta n^-c"
    parameters = ("ln_e_inf", "ln_beta", "ln_c")
    prior_mean = (-2.0, -1.0, -1.0)
    prior_scale = (3.0, 3.0, 1.5)

    def error(self, theta: Array, u: Array) -> Array:
        return bounded_exp(theta[..., :1]) + bounded_exp(theta[..., 1:2] - bounded_exp(theta[..., 2:3]) * u)

    def jacobian(self, theta: Array, u: Array) -> Array:
        c = bounded_exp(theta[..., 2:3])
        power = bounded_exp(theta[..., 1:2] - c * u)
        floor = np.broadcast_to(bounded_exp(theta[..., :1]), power.shape)
        return np.stack([floor, power, -c * u * power], axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        found = []
        for share in (0.02, 0.3, 0.6, 0.85):
            floor = share * e.min()
            slope, level = slope_and_level(u, np.log(e - floor))
            found.append([np.log(floor), level, np.log(max(-slope, 0.02))])
        return np.array(found)

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        c = float(bounded_exp(theta[2]))
        return {
            "e_inf": float(bounded_exp(theta[0])),
            "beta": float(bounded_exp(theta[1] + c * np.log(n_ref))),
            "c": c,
        }


class M3(Form):
    """e = beta (1/n + gamma)^c (M3). theta = (ln(beta n_ref^-c), ln(gamma n_ref), ln c).

    Domain: beta, gamma, c > 0: a power law that turns flat at n = 1/gamma.
    """

    name = "M3"
    formula = "e = beta (1/n + gamma)^c"
    parameters = ("ln_beta", "ln_gamma", "ln_c")
    prior_mean = (-0.5, -3.0, -1.0)
    prior_scale = (4.0, 3.0, 1.5)

    def _parts(self, theta: Array, u: Array) -> tuple[Array, Array, Array]:
        reach = np.logaddexp(
            -u, np.broadcast_to(theta[..., 1:2], np.broadcast_shapes(theta[..., :1].shape, np.shape(u)))
        )
        c = bounded_exp(theta[..., 2:3])
        return reach, c, bounded_exp(theta[..., :1] + c * reach)

    def error(self, theta: Array, u: Array) -> Array:
        return self._parts(theta, u)[2]

    def jacobian(self, theta: Array, u: Array) -> Array:
        reach, c, e = self._parts(theta, u)
        return np.stack([e, e * c * bounded_exp(theta[..., 1:2] - reach), e * c * reach], axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        found = []
        for gamma in (-u.max() - 3.0, -u.max() - 1.0, -np.median(u)):
            slope, level = slope_and_level(np.logaddexp(-u, gamma), np.log(e))
            found.append([level, gamma, np.log(max(slope, 0.02))])
        return np.array(found)

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        c = float(bounded_exp(theta[2]))
        return {
            "beta": float(bounded_exp(theta[0] + c * np.log(n_ref))),
            "gamma": float(bounded_exp(theta[1]) / n_ref),
            "c": c,
        }
