"""The straight law and the power laws: log-linear, M1, M2 and M3.

Shapes, parameters and conventions as in :mod:`scaleprior.laws.forms.form`. M1 to M3 are estimators of Alabdulmohsin,
Neyshabur, Zhai, "Revisiting Neural Scaling Laws in Language and Vision" (2022).
"""

from __future__ import annotations

import numpy as np

from scaleprior.laws.forms.form import Array, Form, bounded_exp, slope_and_level

__all__ = ["M1", "M2", "M3", "LogLinear"]


class LogLinear(Form):
    """e = a - b log10(n): the gain per factor of ten is b everywhere (the paper's law, for scores s = 1 - e).

    Linear in its parameters; unbounded, so predictions are cut to the metric's range by the caller.
    """

    name = "log-linear"
    aliases = ("loglinear",)
    formula = "e = a - b log10(n)"
    source = "the paper's law"
    parameters = ("a", "b")
    bends = False
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
    source = "Alabdulmohsin et al. 2022"
    parameters = ("ln_beta", "c")
    bends = False
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


class M2(Form):
    """e = e_inf + beta n^-c (M2). theta = (ln e_inf, ln(beta n_ref^-c), ln c).

    Domain: e_inf > 0, beta > 0, c > 0: decreasing and convex in n.
    """

    name = "power-law"
    aliases = ("M2",)
    formula = "e = e_inf + beta n^-c"
    source = "Alabdulmohsin et al. 2022"
    parameters = ("ln_e_inf", "ln_beta", "ln_c")
    monotone = True
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
    source = "Alabdulmohsin et al. 2022"
    parameters = ("ln_beta", "ln_gamma", "ln_c")
    monotone = True
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
