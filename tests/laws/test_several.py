"""Laws of several ladders: what they borrow from each other, and what does not keep them from being fitted."""

from __future__ import annotations

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import Laws, compare_laws, fit_law, fit_laws, shared_notes
from scaleprior.laws.noise import odd_one
from scaleprior.laws.observations import observe
from scaleprior.laws.several import MOST_FRACTIONS, MOST_LADDERS, fitted_how

SIZES = np.geomspace(1e4, 1e6, 5)


def ladder(
    slope: float, base: float, *, sizes: np.ndarray = SIZES, seeds: int = 2, noise: float = 0.4, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, list[int]]:
    n = np.repeat(sizes, seeds)
    ap = base + slope * np.log10(n / 1e4) + noise * np.random.default_rng(seed).normal(size=n.size)
    return n, ap, list(range(seeds)) * sizes.size


def width(laws: Laws, name: str, n: float) -> float:
    _, low, high = laws[name].predict(n, noise=False)
    return float(high - low)


def test_a_short_ladder_borrows_from_a_long_one_of_its_shape() -> None:
    short, long = ladder(5.3, 24.0, sizes=SIZES[:3], seeds=1, seed=2), ladder(5.0, 20.0, seeds=3)
    laws = fit_laws({"R-152": short, "R-50": long})
    assert laws.together == (("R-152", "R-50"),)
    assert fitted_how(laws)[0].startswith("The laws are fitted together: ")
    assert width(laws, "R-152", 1e6) < 0.75 * width(fit_laws({"R-152": short}), "R-152", 1e6)
    mean, low, high = laws["R-152"].predict(1e6, noise=False)
    assert low < 24 + 2 * 5.3 < high
    assert mean == pytest.approx(34.6, abs=2.0)


def test_a_single_ladder_is_that_of_fit_law() -> None:
    n, ap, seeds = ladder(5.0, 20.0)
    laws = fit_laws({"one": (n, ap, seeds)})
    assert laws["one"].per_decade == fit_law(n, ap, groups=seeds).per_decade
    assert laws.together == ()
    assert fitted_how(laws) == []


def test_differences_agree_with_predictions() -> None:
    laws = fit_laws({"a": ladder(6.0, 20.0), "b": ladder(4.0, 22.0, seed=1), "c": ladder(5.0, 25.0, seed=2)})
    found = compare_laws(laws["a"], laws["b"], at=(1e6,))
    drawn = laws["a"].gain_draws(1e5, 1e6)[1] - laws["b"].gain_draws(1e5, 1e6)[1]
    low, high = np.quantile(drawn, [0.05, 0.95])
    assert (found.per_decade.low, found.per_decade.high) == pytest.approx((low, high))
    assert found.at[1e6].value == pytest.approx(float(laws["a"].predict(1e6)[0] - laws["b"].predict(1e6)[0]))


def test_what_cannot_be_fitted_costs_the_others_nothing() -> None:
    good = {"R-50": ladder(5.0, 20.0), "R-152": ladder(5.0, 24.0, seed=1)}
    bad = {"two": ([1e4, 1e5], [20.0, 21.0]), "nan": (SIZES, [1, 2, np.nan, 3, 4]), "words": (SIZES, ["a"] * 5)}
    laws, alone = fit_laws({**bad, **good}), fit_laws(good)
    assert list(laws) == ["R-50", "R-152"]
    assert {name: law.per_decade for name, law in laws.items()} == {n: law.per_decade for n, law in alone.items()}
    assert list(laws.left_out) == ["two", "nan", "words"]
    assert "2 distinct number(s) of images" in laws.left_out["two"]
    with pytest.raises(UserError, match=r"^two: 2 distinct number"):
        fit_laws(bad)
    with pytest.raises(UserError, match="no ladders to fit"):
        fit_laws({})
    with pytest.raises(UserError, match=r"^level 2 is not inside"):
        fit_laws(good, level=2)


def test_forms_that_do_not_fit_one_metric_do_not_keep_the_others_out() -> None:
    loss = {"loss": (SIZES, [3.0, 2.5, 2.2, 2.0, 1.9]), "rate": (SIZES, [0.6, 0.5, 0.45, 0.4, 0.38])}
    laws = fit_laws(loss, kind="error", unit="loss")
    assert laws.together == (("loss", "rate"),)
    with pytest.raises(UserError, match=r"^loss: form 'logistic' needs a bounded metric"):
        fit_laws(loss, kind="error", unit="loss", forms="logistic")


def test_the_unit_is_one_for_all() -> None:
    weak = (SIZES, [0.2, 0.4, 0.6, 0.7, 0.9])
    laws = fit_laws({"weak": weak, "strong": ladder(5.0, 20.0)})
    assert laws["weak"].unit == laws["strong"].unit
    assert laws["weak"].unit.scale == 100.0
    assert fit_laws({"weak": weak})["weak"].unit.scale == 1.0


def test_a_ladder_whose_runs_scatter_unlike_the_others_is_fitted_alone() -> None:
    ladders = {name: ladder(5.0, 20.0 + 2 * i, seeds=3, seed=i) for i, name in enumerate("abc")}
    ladders["loud"] = ladder(5.0, 20.0, seeds=3, noise=3.0, seed=9)
    laws = fit_laws(ladders)
    assert laws.together == (("a", "b", "c"),)
    assert laws["loud"].notes[-1].startswith("Fitted alone: its runs scatter ")
    assert laws["loud"].notes[-1].endswith(" times as far from each other as those of a, b, c (in ln of the error).")
    assert fitted_how(laws) == ["Fitted together: a, b, c."]
    n, ap, seeds = ladders["loud"]
    assert laws["loud"].per_decade == fit_law(n, ap, groups=seeds).per_decade


def test_runs_that_agree_to_every_digit_do_not_set_a_ladder_apart() -> None:
    """APs are often written with one digit: two of 29.2 are no runs without noise."""
    n, ap, seeds = ladder(5.0, 20.0)
    rounded = (SIZES[[0, 1, 2, 2]], [20.1, 22.4, 25.2, 25.2], [0, 0, 0, 1])
    assert fit_laws({"rounded": rounded, "other": (n, ap, seeds)}).together == (("rounded", "other"),)


def test_laws_do_not_depend_on_the_order_of_ladders() -> None:
    ladders = {name: ladder(5.0 + i, 20.0 - i, seeds=2, seed=i) for i, name in enumerate("abc")}
    one, other = fit_laws(ladders), fit_laws(dict(reversed(ladders.items())))
    assert list(other) == ["c", "b", "a"]
    for name in ladders:
        assert one[name].per_decade == other[name].per_decade
        assert one[name].images_for(28.0) == other[name].images_for(28.0)


def test_ladders_of_one_noise_are_seldom_told_apart() -> None:
    told = 0
    for i in range(300):
        some = [ladder(5.0, 20.0, seeds=2, seed=3 * i + j) for j in range(3)]
        told += odd_one([observe(n, ap) for n, ap, _ in some]) is not None
    assert told <= 9  # nominally 3; more than 9 of a binomial have 0.1 %


@pytest.mark.parametrize("many", ["ladders", "fractions"])
def test_more_than_a_stated_number_are_fitted_alone_and_that_is_said(many: str) -> None:
    if many == "ladders":
        ladders = {str(i): ladder(5.0, 20.0, sizes=SIZES[:3], seed=i) for i in range(MOST_LADDERS + 1)}
    else:
        dense = np.geomspace(1e4, 1e6, MOST_FRACTIONS - 4)
        ladders = {"dense": ladder(5.0, 20.0, sizes=dense, seeds=1), "sparse": ladder(5.0, 24.0)}
    laws = fit_laws(ladders, forms="log-linear")
    assert laws.together == ()
    said = f"Fitted alone: at most {MOST_LADDERS} laws with {MOST_FRACTIONS} fractions are fitted together, these are"
    assert all(law.notes[-1].startswith(said) for law in laws.values())
    assert sum(said in note for note in shared_notes(laws)) == 1
    assert fitted_how(laws) == []
    name = next(iter(ladders))
    n, ap, seeds = ladders[name]
    assert laws[name].per_decade == fit_law(n, ap, groups=seeds, forms="log-linear").per_decade
