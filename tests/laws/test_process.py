"""The Gaussian process over curves, against covariances by quadrature and posteriors by plain linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

from scaleprior.laws import process
from scaleprior.laws.observations import Observations, observe
from scaleprior.laws.process import condition

N = np.array([100.0, 400.0, 1600.0, 6400.0])


def ladder(n: np.ndarray, seeds: int = 2, *, slope: float = 3.0, noise: float = 0.5, seed: int = 0) -> Observations:
    """Log-linear AP with noise, each seed at every size."""
    sizes = np.repeat(n, seeds)
    ap = 20 + slope * np.log10(sizes / n[0]) + noise * np.random.default_rng(seed).normal(size=sizes.size)
    return observe(sizes, ap, unit="percent", groups=[*range(seeds)] * n.size)


@pytest.mark.parametrize("forgetting", [0.35, 3.5])
@pytest.mark.parametrize(("x", "y"), [(0.5, 0.5), (0.3, 2.0), (2.0, 0.3), (0.0, 1.0), (4.0, 5.0)])
def test_the_covariance_is_its_integral(forgetting: float, x: float, y: float) -> None:
    def rise(t: float) -> float:
        return (1 - np.exp(-forgetting * t)) / forgetting

    pushed, _ = integrate.quad(lambda t: rise(x - t) * rise(y - t), 0, min(x, y))
    expected = rise(x) * rise(y) + 0.6**2 * pushed
    found = process._covariance(forgetting, 0.6, np.array([x]), np.array([y]))
    assert found[0, 0] == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_below_the_smallest_fraction_curves_go_on_straight() -> None:
    x = np.array([-2.0, -1.0, 0.0])
    variance = process._covariance(0.7, 0.6, x, x)
    np.testing.assert_allclose(variance, np.outer(x, x), atol=1e-12)


def plain_posterior(
    data: list[Observations], monkeypatch: pytest.MonkeyPatch, *, alike: float, correlation: float, at: np.ndarray
) -> tuple[np.ndarray, np.ndarray, process.Process]:
    """Of one cell of the grid: mean and covariance at ``at`` of all ladders, run by run, and the process."""
    forgetting, push, slope, noise = 0.7, 0.6, 0.05, 0.01
    for name, value in (
        ("_FORGETTING", (forgetting,)), ("_PUSH", (push,)), ("_ALIKE", (alike,)),
        ("_SLOPE", np.array([slope])), ("_NOISE", np.array([noise])),
    ):  # fmt: skip
        monkeypatch.setattr(process, name, value)
    first = min(d.n.min() for d in data)
    x = np.concatenate([*(np.log10(d.n / first) for d in data), *[at] * len(data)])
    of = np.concatenate(
        [*(np.full(d.n.size, i) for i, d in enumerate(data)), *(np.full(at.size, i) for i in range(len(data)))]
    )
    seeds = np.concatenate([*(d.group for d in data), np.full(at.size * len(data), -1)])
    same = of[:, None] == of
    prior = 25.0 * same + slope**2 * process._covariance(forgetting, push, x, x) * np.where(same, 1.0, alike)
    runs = sum(d.n.size for d in data)
    twins = ~same & (np.abs(x[:, None] - x) < 1e-12) & (seeds[:, None] == seeds)
    scatter = noise**2 * (np.eye(x.size) + correlation * twins)[:runs, :runs]
    z = np.concatenate([np.log(d.e) for d in data])
    gain = prior[runs:, :runs] @ np.linalg.inv(prior[:runs, :runs] + scatter)
    offset = np.mean([np.log(d.e)[d.n == n].mean() for d in data for n in d.sizes])
    mean = offset + gain @ (z - offset)
    return mean, prior[runs:, runs:] - gain @ prior[:runs, runs:], condition(data, correlation=correlation)


@pytest.mark.parametrize(("ladders", "alike", "correlation"), [(1, 0.0, 0.0), (2, 0.8, 0.0), (2, 0.5, 0.4)])
def test_mean_and_draws_are_those_of_plain_linear_algebra(
    monkeypatch: pytest.MonkeyPatch, ladders: int, alike: float, correlation: float
) -> None:
    data = [ladder(N, 2, seed=1), ladder(N[1:], 2, slope=5.0, seed=2)][:ladders]
    at = np.array([0.0, 0.7, 1.8, 2.8])
    mean, covariance, found = plain_posterior(data, monkeypatch, alike=alike, correlation=correlation, at=at)
    np.testing.assert_allclose(found.mean(at).ravel(), mean, atol=1e-6)
    drawn, noise, _ = found.draws(at, 40000, np.random.default_rng(0))
    flat = drawn.reshape(len(drawn), -1)
    spread = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose(flat.mean(0), mean, atol=0.03 * spread.max())
    np.testing.assert_allclose(np.cov(flat, rowvar=False) / np.outer(spread, spread),
                               covariance / np.outer(spread, spread), atol=0.04)  # fmt: skip
    assert (noise == 0.01).all()


def test_scatter_within_fractions_tells_the_noise() -> None:
    for noise in (0.2, 1.0):
        # of errors near 0.8, an AP is 1 / 80 of ln e
        found = condition([ladder(np.geomspace(100, 10000, 8), 12, noise=noise)]).noise
        assert found == pytest.approx(noise / 78, rel=0.15)


def test_another_ladder_of_the_same_shape_sharpens_one_and_one_of_another_shape_does_not() -> None:
    one = ladder(N, 2, noise=0.6, seed=3)
    precise = ladder(N, 2, noise=0.01, seed=4)
    bent = observe(N, [20.0, 30.0, 20.0, 30.0], unit="percent")

    def spread(*others: Observations) -> float:
        drawn, *_ = condition([one, *others]).draws(np.array([0.0, 1.8]), 4000, np.random.default_rng(0))
        return float((drawn[:, 0, 1] - drawn[:, 0, 0]).std())

    alone = spread()
    assert spread(precise) < 0.7 * alone
    assert spread(bent) > 0.8 * alone


def test_noise_that_runs_share_is_a_covariance_whatever_their_weights() -> None:
    """One ladder has two seeds, each of which another ladder has, all of them light beside their ladders' others."""
    light = 0.05
    data = [
        observe([1e4] * len(seeds) + [1e5, 1e6], [20.0 + 0.1 * s for s in seeds] + [25, 29], groups=[*seeds, 3, 4],
                weights=[weight] * len(seeds) + [1, 1])
        for seeds, weight in (([1, 2], light / 2), ([1], light), ([2], light))
    ]  # fmt: skip
    shared = np.diag([1.0 / d.w[d.n == n].sum() for d in data for n in d.sizes])
    n, of = np.concatenate([d.sizes for d in data]), np.repeat(np.arange(3), 3)
    shared += 0.9 * process._shared(data, n, of)
    assert np.linalg.eigvalsh(shared).min() > 0
    assert np.isfinite(condition(data, correlation=0.9).mean(np.array([1.0]))).all()


def test_the_order_of_ladders_does_not_matter() -> None:
    a, b = ladder(N, seed=1), ladder(N[1:], slope=1.0, seed=2)
    at = np.array([0.5, 3.0])
    np.testing.assert_allclose(condition([a, b]).mean(at), condition([b, a]).mean(at)[::-1], atol=1e-9)
