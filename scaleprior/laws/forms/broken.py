"""The broken power law with one break (Caballero, Gupta, Rish, Krueger, "Broken Neural Scaling Laws", 2022)."""

from __future__ import annotations

import numpy as np

from scaleprior.laws.forms.form import Array, Form, bounded_exp, sigmoid, slope_and_level, softplus

__all__ = ["BrokenPowerLaw"]


class BrokenPowerLaw(Form):
    """e = a + b n^-c0 (1 + (n / d)^(1/f))^(-c1 f): a power law whose exponent goes from c0 to c0 + c1 around n = d.

    theta = (ln a, ln(b n_ref^-c0), ln c0, ln((c0 + c1) / c0), ln(d / n_ref), ln f): both exponents are positive, so the
    curve falls everywhere; c1 itself may have either sign. A ratio of exponents, because its prior then keeps flat
    data flat beyond a break, too.
    """

    name = "broken"
    aliases = ("bnsl", "BNSL")
    formula = "e = a + b n^-c0 (1 + (n/d)^(1/f))^(-c1 f)"
    source = "Caballero et al. 2022, one break"
    parameters = ("ln_a", "ln_b", "ln_c0", "ln_ratio", "ln_d", "ln_f")
    monotone = True
    prior_mean = (-2.0, -0.5, -1.5, 0.0, 0.0, -0.5)
    prior_scale = (3.0, 4.0, 1.5, 1.0, 3.0, 1.0)

    def _parts(self, theta: Array, u: Array) -> tuple[Array, ...]:
        first = bounded_exp(theta[..., 2:3])
        last = bounded_exp(theta[..., 2:3] + theta[..., 3:4])
        f = bounded_exp(theta[..., 5:6])
        t = np.clip((u - theta[..., 4:5]) / f, -500.0, 500.0)
        past = softplus(t)
        power = bounded_exp(theta[..., 1:2] - first * u - (last - first) * f * past)
        return first, last, f, t, past, power

    def error(self, theta: Array, u: Array) -> Array:
        return bounded_exp(theta[..., :1]) + self._parts(theta, u)[-1]

    def jacobian(self, theta: Array, u: Array) -> Array:
        first, last, f, t, past, power = self._parts(theta, u)
        turn = sigmoid(t)
        columns = [
            np.broadcast_to(bounded_exp(theta[..., :1]), power.shape),
            power,
            -power * (first * u + (last - first) * f * past),
            -power * last * f * past,
            power * (last - first) * turn,
            -power * (last - first) * f * (past - t * turn),
        ]
        return np.stack(columns, axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        found = []
        for place in (0.3, 0.7):
            d = float(np.quantile(u, place))
            early, late = u <= d, u >= d
            for share in (0.02, 0.5):
                floor = share * e.min()
                z = np.log(e - floor)
                slope_early = slope_and_level(u[early], z[early])[0] if early.sum() > 1 else 0.0
                slope_late = slope_and_level(u[late], z[late])[0] if late.sum() > 1 else 0.0
                first, last = max(-slope_early, 0.02), max(-slope_late, 0.02)
                for f in (0.3, 1.0):
                    shape = -first * u - (last - first) * f * softplus((u - d) / f)
                    level = float(np.mean(z - shape))
                    found.append([np.log(floor), level, np.log(first), np.log(last / first), d, np.log(f)])
        return np.array(found)

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        first, last = float(bounded_exp(theta[2])), float(bounded_exp(theta[2] + theta[3]))
        return {
            "a": float(bounded_exp(theta[0])),
            "b": float(bounded_exp(theta[1] + first * np.log(n_ref))),
            "c0": first,
            "c1": last - first,
            "d": float(n_ref * bounded_exp(theta[4])),
            "f": float(bounded_exp(theta[5])),
        }
