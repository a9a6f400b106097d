"""The forms that bend twice on a logarithmic axis: M4 and the bounded logistic.

Shapes, parameters and conventions as in :mod:`scaleprior.laws.forms.form`. M4 is the estimator of Alabdulmohsin et al.
2022.
"""

from __future__ import annotations

import numpy as np

from scaleprior.laws.forms.form import Array, Form, bounded_exp, sigmoid, slope_and_level, softplus

__all__ = ["M4", "LogisticInLog", "solve_sigmoidal"]


def solve_sigmoidal(q: Array, alpha: Array) -> tuple[Array, Array]:
    """t and g'(t) with g(t) = ln sigmoid(t) - alpha ln sigmoid(-t) = q, for alpha > 0, by Newton's method.

    g is increasing, and concave (alpha < 1) or convex (alpha > 1), so Newton's steps come from one side after the
    first; the asymptotes q (t << 0) and q / alpha (t >> 0) are exact far out and start it close.
    """
    t = np.where(q < 0, q, q / alpha)
    for _ in range(30):
        small = np.exp(-np.abs(t))
        tail = np.log1p(small)  # softplus(t) = max(t, 0) + tail, softplus(-t) = max(-t, 0) + tail
        rising = np.where(t >= 0, 1.0, small) / (1.0 + small)  # sigmoid(t)
        slope = 1.0 + (alpha - 1.0) * rising
        step = (np.minimum(t, 0.0) - tail + alpha * (np.maximum(t, 0.0) + tail) - q) / slope
        t = t - np.clip(step, -20.0, 20.0)
        if np.max(np.abs(step), initial=0.0) < 1e-11:
            break
    return t, 1.0 + (alpha - 1.0) * sigmoid(t)


class M4(Form):
    """(e - e_inf) / (e_0 - e)^alpha = beta n^-c (M4): a sigmoid between e_0 and e_inf on the log axis.

    With t = logit((e - e_inf) / (e_0 - e_inf)) this reads ln sigmoid(t) - alpha ln sigmoid(-t) = q - c u, which is what
    is solved. theta = (ln e_inf, ln(e_0 - e_inf), ln alpha, q, ln c). Domain: all natural parameters positive.
    """

    name = "M4"
    formula = "(e - e_inf) / (e_0 - e)^alpha = beta n^-c"
    source = "Alabdulmohsin et al. 2022"
    parameters = ("ln_e_inf", "ln_span", "ln_alpha", "q", "ln_c")
    monotone = True
    prior_mean = (-2.0, -0.2, -0.5, 0.0, -1.0)
    prior_scale = (3.0, 0.5, 1.0, 4.0, 1.5)

    def _parts(self, theta: Array, u: Array) -> tuple[Array, ...]:
        alpha = np.clip(bounded_exp(theta[..., 2:3]), 1e-3, 1e3)
        c = bounded_exp(theta[..., 4:5])
        t, slope = solve_sigmoidal(np.clip(theta[..., 3:4] - c * u, -500.0, 500.0), alpha)
        return alpha, c, t, slope, bounded_exp(theta[..., :1]), bounded_exp(theta[..., 1:2])

    def error(self, theta: Array, u: Array) -> Array:
        _, _, t, _, floor, span = self._parts(theta, u)
        return floor + span * sigmoid(t)

    def jacobian(self, theta: Array, u: Array) -> Array:
        alpha, c, t, slope, floor, span = self._parts(theta, u)
        share = sigmoid(t)
        per_q = span * share * sigmoid(-t) / slope
        columns = [
            np.broadcast_to(floor, t.shape),
            span * share,
            -alpha * softplus(t) * per_q,
            per_q,
            -c * u * per_q,
        ]
        return np.stack(columns, axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        found = []
        top = e.max() * 1.02
        for share in (0.05, 0.6):
            for alpha in (0.3, 1.0):
                floor = share * e.min()
                span = top - floor
                z = np.log((e - floor) / span) - alpha * np.log((top - e) / span)
                slope, level = slope_and_level(u, z)
                found.append([np.log(floor), np.log(span), np.log(alpha), level, np.log(max(-slope, 0.02))])
        return np.array(found)

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        floor, span = float(bounded_exp(theta[0])), float(bounded_exp(theta[1]))
        alpha, c = float(np.clip(bounded_exp(theta[2]), 1e-3, 1e3)), float(bounded_exp(theta[4]))
        ln_beta = theta[3] + (1.0 - alpha) * np.log(span) + c * np.log(n_ref)
        return {"e_inf": floor, "e_0": floor + span, "alpha": alpha, "beta": float(bounded_exp(ln_beta)), "c": c}


class LogisticInLog(Form):
    """s = 1 - e = s_max / (1 + (n / n_half)^-c): a score that starts at 0 and ends at s_max <= 1.

    Bounded for every n; the form for AP in [0, 1]. theta = (logit s_max, (ln n_half - ln n_ref) c, ln c).
    """

    name = "logistic"
    formula = "1 - e = s_max / (1 + (n / n_half)^-c)"
    source = "bounded form for AP in [0, 1]"
    parameters = ("logit_s_max", "shift", "ln_c")
    monotone = True
    bounded_only = True
    prior_mean = (0.5, 0.0, -1.0)
    prior_scale = (3.0, 4.0, 1.5)

    def _parts(self, theta: Array, u: Array) -> tuple[Array, Array, Array]:
        c = bounded_exp(theta[..., 2:3])
        return sigmoid(theta[..., :1]), c, sigmoid(np.clip(c * u - theta[..., 1:2], -500.0, 500.0))

    def error(self, theta: Array, u: Array) -> Array:
        top, _, rise = self._parts(theta, u)
        return 1.0 - top * rise

    def jacobian(self, theta: Array, u: Array) -> Array:
        top, c, rise = self._parts(theta, u)
        bend = top * rise * (1.0 - rise)
        return np.stack([-top * (1.0 - top) * rise, bend, -c * u * bend], axis=-1)

    def starts(self, u: Array, e: Array) -> Array:
        found = []
        score = np.clip(1.0 - e, 1e-4, 1.0 - 1e-4)
        for room in (0.05, 0.4, 0.9):
            top = score.max() + room * (1.0 - score.max())
            slope, level = slope_and_level(u, np.log(score / (top - score)))
            found.append([np.log(top / (1.0 - top)), -level, np.log(max(slope, 0.02))])
        return np.array(found)

    def describe(self, theta: Array, n_ref: float) -> dict[str, float]:
        c = float(bounded_exp(theta[2]))
        half = np.log(n_ref) + theta[1] / c
        return {"s_max": float(sigmoid(theta[0])), "n_half": float(bounded_exp(half)), "c": c}
