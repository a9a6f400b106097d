"""Batched robust least squares: many problems of one form (starts x hold-outs x replicates) solved at once.

Minimises  sum_k w_k rho((ln e(u_k; theta) - z_k) / sigma) + sum_p ((theta_p - m_p) / s_p)^2  per problem, by
Levenberg-Marquardt with iteratively reweighted (Huber) residuals. B problems, K points, P parameters.
"""

from __future__ import annotations

import numpy as np

from scaleprior.laws.forms.form import Array, Form

__all__ = ["solve"]

_TINY = 1e-9
_LONGEST_STEP = 3.0  # in any parameter; they are logarithms, so this is a factor of 20
_HUBER = 2.0  # in units of sigma: 5 % loss of efficiency on Gaussian noise is at 1.345; 2 loses under 1 %


def _cost(r: Array, w: Array, sigma: Array, prior: Array) -> Array:
    a = np.abs(r) / sigma
    rho = np.where(a <= _HUBER, a * a, 2 * _HUBER * a - _HUBER**2)
    return (w * rho).sum(-1) + (prior**2).sum(-1)


def solve(
    form: Form,
    theta: Array,
    u: Array,
    z: Array,
    w: Array,
    *,
    sigma: float | Array = 0.02,
    iterations: int = 40,
    prior_weight: float = 1.0,
) -> tuple[Array, Array]:
    """Fit B problems at once.

    Args:
        theta: [B, P] starting points.
        u: [K] or [B, K], ln(n / n_ref).
        z: [K] or [B, K], ln error.
        w: [K] or [B, K], weights; 0 leaves a point out.
        sigma: noise of z: where Huber's loss turns linear and what the prior is weighed against; scalar or [B, 1].
        iterations: the most Levenberg-Marquardt steps.
        prior_weight: factor on the form's weak prior.

    Returns:
        theta [B, P] and the cost [B] (lower is better; in units of sigma^2).
    """
    batch, size = theta.shape
    sigma = np.broadcast_to(np.asarray(sigma, dtype=float).reshape(-1, 1), (batch, 1))
    u, z, w = (np.broadcast_to(np.asarray(a, dtype=float), (batch, np.shape(a)[-1])) for a in (u, z, w))
    own_mean, own_scale = form.prior()
    mean = np.broadcast_to(own_mean, (batch, size))
    scale = own_scale / np.sqrt(max(prior_weight, 1e-12))
    theta = theta.copy()
    damping = np.full(batch, 1e-2)
    log_e = np.log(np.maximum(form.error(theta, u), _TINY))
    cost = _cost(log_e - z, w, sigma, (theta - mean) / scale)
    active = np.arange(batch)
    eye = np.eye(size)
    for _ in range(iterations):
        at, now, prior, v = theta[active], cost[active], mean[active], w[active]
        noise, points, values = sigma[active], u[active], z[active]
        r = log_e[active] - values
        jac = form.jacobian(at, points) / np.exp(log_e[active])[..., None]
        # Huber's weights: quadratic inside, linear outside
        soft = v * np.minimum(1.0, _HUBER * noise / np.maximum(np.abs(r), _TINY)) / noise**2
        weighted = np.swapaxes(jac * soft[..., None], 1, 2)
        normal = weighted @ jac + eye / scale**2
        gradient = (weighted @ r[..., None])[..., 0] + (at - prior) / scale**2
        diagonal = np.einsum("bpp->bp", normal)
        damped = normal + (damping[active][:, None] * diagonal)[..., None] * eye
        step = np.linalg.solve(damped, gradient[..., None])[..., 0]
        new = at - np.clip(step, -_LONGEST_STEP, _LONGEST_STEP)
        new_log_e = np.log(np.maximum(form.error(new, points), _TINY))
        trial = _cost(new_log_e - values, v, noise, (new - prior) / scale)
        better = trial < now
        improved = active[better]
        theta[improved], cost[improved], log_e[improved] = new[better], trial[better], new_log_e[better]
        damping[active] = np.clip(np.where(better, damping[active] * 0.2, damping[active] * 5.0), 1e-9, 1e9)
        done = (better & (now - trial < 1e-6 * (1e-3 + now))) | (damping[active] >= 1e8)
        active = active[~done]
        if active.size == 0:
            break
    return theta, cost
