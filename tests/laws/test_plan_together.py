"""Plans across laws that were fitted together: runs of another architecture are bought where they tell something."""

from __future__ import annotations

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import Laws, fit_law, fit_laws, law_between, plan

SIZES = np.geomspace(1e4, 3.16e5, 4)
N = np.repeat(SIZES, 3)
OWN = {1e5: 1.0, 3.16e5: 3.0, 1e6: 10.0}
CHEAP = {n: cost / 10.0 for n, cost in OWN.items()}


def laws(small: np.ndarray) -> Laws:
    """R-152 gains 5 AP a decade; ``small`` are the APs of R-50."""
    rng = np.random.default_rng(0)
    ladders = {
        name: (N, ap + 0.4 * rng.normal(size=N.size), [0, 1, 2] * SIZES.size)
        for name, ap in {"R-50": small, "R-152": 24.0 + 5.0 * np.log10(N / 1e4)}.items()
    }
    return fit_laws(ladders, unit="percent")


def test_a_cheap_run_of_a_law_of_the_same_shape_is_bought() -> None:
    alike = laws(20.0 + 4.8 * np.log10(N / 1e4))
    runs = plan(alike["R-152"], target=1e6, costs=OWN, budget=1.0, others={"R-50": (alike["R-50"], CHEAP)})
    assert (runs[0].law, runs[0].images) == ("R-50", 1e6)
    _, low, high = alike["R-152"].predict(1e6, noise=False)
    assert runs[0].half_width < (high - low) / 2
    alone = plan(alike["R-152"], target=1e6, costs=OWN, budget=1.0)
    assert runs[-1].half_width < min((run.half_width for run in alone), default=np.inf)


def test_a_run_of_a_law_of_another_shape_is_not_however_little_it_costs() -> None:
    unlike = laws(30.0 - 6.0 * np.log10(N / 1e4))
    runs = plan(unlike["R-152"], target=1e6, costs=OWN, budget=15.0, others={"R-50": (unlike["R-50"], CHEAP)})
    assert runs
    assert {run.law for run in runs} == {""}


def test_the_forecast_of_an_unmeasured_architecture_is_planned_for() -> None:
    alike = laws(20.0 + 4.8 * np.log10(N / 1e4))
    between = law_between(alike, {"R-50": 25.6e6, "R-152": 60.2e6}, 44.5e6)
    others = {name: (law, OWN) for name, law in alike.items()}
    runs = plan(between, target=1e6, costs={1e5: 1.0}, budget=2.0, others=others)
    assert runs[0].law == "", "a first run of its own says more of its level than those of its neighbours"
    assert runs[0].half_width < 0.8 * float(np.diff(between.predict(1e6, noise=False)[1:])[0]) / 2


def test_a_law_that_was_fitted_alone_is_refused() -> None:
    alike = laws(20.0 + 4.8 * np.log10(N / 1e4))
    alone = fit_law(N, 20.0 + 4.8 * np.log10(N / 1e4), unit="percent")
    with pytest.raises(UserError, match=r"law 'R-50' was not fitted together .*; fit_table and fit_laws fit"):
        plan(alike["R-152"], target=1e6, costs=OWN, budget=5.0, others={"R-50": (alone, CHEAP)})
    with pytest.raises(UserError, match="a law without a name"):
        plan(alike["R-152"], target=1e6, costs=OWN, budget=5.0, others={"": (alike["R-50"], CHEAP)})
