"""Forms: Jacobians and starts against the base's own, limits, hand-derived values, recovery of known parameters."""

from __future__ import annotations

import numpy as np
import pytest

from scaleprior.laws import CALIBRATED, fit_law
from scaleprior.laws.forms.form import Form
from scaleprior.laws.forms.power import M2
from scaleprior.laws.forms.sigmoidal import M4, LogisticInLog, solve_sigmoidal
from scaleprior.laws.solver import solve

FORMS = {form.name: form for form in CALIBRATED}

# natural parameters of each form, and how closely they must come back from 40 points with 0.2 % noise over 4 decades
TRUTHS = {
    "log-linear": (lambda n: 0.9 - 0.08 * np.log10(n), {"a": (0.9, 0.01), "b": (0.08, 0.002)}),
    "M1": (lambda n: 2.0 * n**-0.15, {"beta": (2.0, 0.05), "c": (0.15, 0.003)}),
    "power-law": (lambda n: 0.2 + 5.0 * n**-0.4, {"e_inf": (0.2, 0.01), "beta": (5.0, 0.7), "c": (0.4, 0.03)}),
    "M3": (lambda n: 3.0 * (1 / n + 1e-6) ** 0.2, {"gamma": (1e-6, 2e-7), "c": (0.2, 0.01)}),
    "logistic": (
        lambda n: 1 - 0.7 / (1 + (n / 5e4) ** -0.6),
        {"s_max": (0.7, 0.02), "n_half": (5e4, 6e3), "c": (0.6, 0.03)},
    ),
}


@pytest.mark.parametrize("name", sorted(FORMS))
def test_jacobian_equals_finite_differences(name: str) -> None:
    form = FORMS[name]
    rng = np.random.default_rng(3)
    theta = form.prior()[0] + 0.5 * rng.normal(size=(5, len(form.parameters)))
    u = np.linspace(-4, 4, 11)
    analytic = form.jacobian(theta, u)
    assert analytic.shape == (5, 11, len(form.parameters))
    for p in range(theta.shape[1]):
        step = np.zeros(theta.shape[1])
        step[p] = 1e-5
        numeric = (form.error(theta + step, u) - form.error(theta - step, u)) / 2e-5
        # central differences err by step^2 times a third derivative of order 10
        np.testing.assert_allclose(analytic[..., p], numeric, atol=2e-8 * (1 + np.abs(analytic).max()))


@pytest.mark.parametrize("name", sorted(FORMS))
def test_the_jacobian_of_the_base_agrees_with_the_one_written_by_hand(name: str) -> None:
    form = FORMS[name]
    assert type(form).jacobian is not Form.jacobian
    rng = np.random.default_rng(3)
    theta = form.prior()[0] + 0.5 * rng.normal(size=(2, 5, len(form.parameters)))  # a batch of two axes
    for u in (np.linspace(-4, 4, 11), np.linspace(-4, 4, 22).reshape(2, 1, 11) + np.zeros((2, 5, 1))):
        by_hand = form.jacobian(theta, u)
        assert (
            np.abs(Form.jacobian(form, theta, u) - by_hand)
            <= 1e-9 * (np.abs(form.error(theta, u))[..., None] + np.abs(by_hand))
        ).all()


@pytest.mark.parametrize("name", sorted(FORMS))
def test_the_starts_of_the_base_lead_to_the_same_curve(name: str) -> None:
    form = FORMS[name]
    u = np.linspace(-4, 4, 30)
    e = (0.15 + 0.35 * np.exp(-0.3 * u) / 2) * np.exp(0.01 * np.random.default_rng(8).normal(size=u.size))
    ends = [
        solve(form, starts, u, np.log(e), np.ones_like(u), iterations=200)
        for starts in (form.starts(u, e), Form.starts(form, u, e))
    ]
    (own, own_cost), (base, base_cost) = ((theta[cost.argmin()], cost.min()) for theta, cost in ends)
    assert base_cost <= own_cost * 1.01 + 0.05
    np.testing.assert_allclose(form.error(base, u), form.error(own, u), rtol=0.01)


@pytest.mark.parametrize("name", sorted(name for name, form in FORMS.items() if form.monotone))
def test_monotone_forms_fall_everywhere(name: str) -> None:
    form = FORMS[name]
    mean, scale = form.prior()
    theta = mean + scale * np.random.default_rng(4).normal(size=(40, mean.size))
    e = form.error(theta, np.linspace(-5, 5, 60))
    assert (np.diff(e, axis=-1) <= 1e-9 * np.abs(e[:, 1:])).all()


def test_straight_forms_can_rise_and_bending_ones_cannot() -> None:
    assert [name for name, form in FORMS.items() if not form.bends] == ["log-linear", "M1"]
    assert all(form.monotone == form.bends for form in CALIBRATED)


@pytest.mark.parametrize("name", sorted(TRUTHS))
def test_known_parameters_are_recovered(name: str) -> None:
    truth, expected = TRUTHS[name]
    rng = np.random.default_rng(5)
    n = np.geomspace(1e3, 1e7, 40)
    law = fit_law(n, truth(n) * np.exp(0.002 * rng.normal(size=n.size)), kind="error", unit="fraction", forms=name)
    found = law.candidates[0].form.describe(law.candidates[0].theta, law.n_ref)
    for parameter, (value, tolerance) in expected.items():
        assert found[parameter] == pytest.approx(value, abs=tolerance), parameter


@pytest.mark.parametrize("name", ["M4", "broken"])
def test_curves_with_trading_parameters_are_recovered(name: str) -> None:
    # several parameter sets give nearly the same curve: the curve, one octave beyond the data, is what must come back
    form = FORMS[name]
    theta = (
        np.array([np.log(0.15), np.log(0.75), np.log(0.5), 0.5, np.log(0.5)])
        if name == "M4"
        else np.array([np.log(0.1), np.log(0.4), np.log(0.1), np.log(4.0), 0.0, np.log(0.5)])
    )
    n = np.geomspace(1e3, 1e7, 40)
    truth = lambda m: form.error(theta, np.log(m / 1e5))  # noqa: E731
    noisy = truth(n) * np.exp(0.002 * np.random.default_rng(6).normal(size=n.size))
    mean, _, _ = fit_law(n, noisy, kind="error", forms=name).predict([2e7])
    assert float(mean[0]) == pytest.approx(float(truth(np.array([2e7]))[0]), rel=0.02)


def test_m4_solves_its_own_equation() -> None:
    form, theta, n_ref = M4(), np.array([np.log(0.2), np.log(0.7), np.log(0.3), 0.4, np.log(0.5)]), 1e5
    n = np.geomspace(1e2, 1e9, 15)
    p = form.describe(theta, n_ref)
    e = form.error(theta, np.log(n / n_ref))
    np.testing.assert_allclose((e - p["e_inf"]) / (p["e_0"] - e) ** p["alpha"], p["beta"] * n ** -p["c"], rtol=1e-8)


def test_m4_with_alpha_one_is_the_logistic() -> None:
    # e_inf = 0.4, e_0 = 1, alpha = 1: s = 0.6 / (1 + exp(-(c u - q)))
    u = np.linspace(-6, 6, 9)
    e = M4().error(np.array([np.log(0.4), np.log(0.6), 0.0, 0.7, np.log(0.8)]), u)
    logistic = LogisticInLog().error(np.array([np.log(0.6 / 0.4), 0.7, np.log(0.8)]), u)
    np.testing.assert_allclose(e, logistic, atol=1e-12)


def test_sigmoidal_equation_far_out() -> None:
    q, alpha = np.array([-400.0, 0.0, 400.0]), np.array(0.01)
    t, slope = solve_sigmoidal(q, alpha)
    assert t[0] == pytest.approx(-400.0)
    assert t[2] == pytest.approx(40000.0)
    assert (slope > 0).all()


def test_power_law_by_hand() -> None:
    # n = 100 n_ref^0..., e = 0.1 + 0.4 * 100^-0.5 = 0.14
    e = M2().error(np.array([np.log(0.1), np.log(0.4), np.log(0.5)]), np.array([np.log(100.0)]))
    assert e[0] == pytest.approx(0.14)
