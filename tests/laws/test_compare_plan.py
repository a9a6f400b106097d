"""Comparing two laws and planning runs, on ladders whose answers are known."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import Law, compare_laws, fit_law, fit_laws, plan
from scaleprior.laws.fit import fit_together
from scaleprior.laws.words import chance, judged

LADDER = np.array([100.0, 316.0, 1000.0, 3162.0])


def ladder(
    per_decade: float, *, noise: float, seed: int, seeds: int = 3, common: float = 0.0, top: float = 3162.0
) -> Law:
    """A law fitted to 3 + per_decade log10(n / 100); ``common`` scales noise that depends on (n, seed) only."""
    n = np.repeat(np.geomspace(100.0, top, 4), seeds)
    shared = np.random.default_rng(99).normal(size=n.size) * common
    ap = 3 + per_decade * np.log10(n / 100) + shared + noise * np.random.default_rng(seed).normal(size=n.size)
    return fit_law(n, ap, unit="percent", groups=list(range(seeds)) * 4)


def test_plain_difference_is_settled_and_named() -> None:
    found = compare_laws(ladder(6, noise=0.2, seed=0), ladder(3, noise=0.2, seed=1), names=("R-152", "R-50"))
    assert found.per_decade.low > 0
    assert found.per_decade.value == pytest.approx(3.0, abs=0.6)
    assert found.verdict.startswith("R-152 gains more from data than R-50")
    assert (found.more_seeds, found.more_rungs, found.visible) == (0, 0, None)


def test_the_compared_range_is_the_last_decade_that_both_measured() -> None:
    a, b = ladder(6, noise=0.2, seed=0), ladder(3, noise=0.2, seed=1, top=50_000.0)
    assert compare_laws(a, b).images == pytest.approx((316.2, 3162.0))
    assert compare_laws(b, b).to_dict()["range"] == pytest.approx({"from": 5000.0, "to": 50_000.0})


def test_swapping_the_laws_mirrors_the_numbers() -> None:
    a, b = ladder(6, noise=0.4, seed=0), ladder(3, noise=0.4, seed=1)
    one, other = compare_laws(a, b, at=(1000.0,)), compare_laws(b, a, at=(1000.0,))
    assert one.per_decade.value == pytest.approx(-other.per_decade.value)
    assert one.per_decade.low == pytest.approx(-other.per_decade.high)
    assert one.at[1000.0].value == pytest.approx(-other.at[1000.0].value)


def test_the_interval_of_a_settled_verdict_is_in_the_order_of_its_names() -> None:
    """Whoever is named first gains more by a number inside its own interval, whichever law was handed over first."""
    a, b = ladder(6, noise=0.2, seed=0), ladder(3, noise=0.2, seed=1)
    one = compare_laws(a, b, names=("deep", "shallow"))
    other = compare_laws(b, a, names=("shallow", "deep"))
    assert one.verdict == other.verdict
    d = one.per_decade
    interval = f"(90 % interval of the difference {d.low:+.2f} to {d.high:+.2f}; probability that it gains more 0.99)"
    assert one.verdict.endswith(f": by {d.value:.2f} per factor of ten {interval}.")
    assert other.per_decade.probability == pytest.approx(1.0 - d.probability)


def test_a_difference_that_is_likely_is_said_to_be_that_with_what_would_settle_it() -> None:
    a, b = ladder(4.6, noise=0.6, seed=0), ladder(3.6, noise=0.6, seed=1)
    found, mirrored = compare_laws(a, b, names=("A", "B")), compare_laws(b, a, names=("B", "A"))
    d = found.per_decade
    assert 0.8 <= d.probability < 0.95
    assert found.verdict == mirrored.verdict
    assert found.verdict.startswith(
        f"A probably gains more from data than B between 316 and 3,162 images: by {d.value:.2f} per factor of ten "
        f"(90 % interval of the difference {d.low:+.2f} to {d.high:+.2f}; probability that it gains more "
        f"{chance(d.probability)}); "
    )
    assert found.visible is not None  # not settled


@pytest.mark.parametrize("level", [0.5, 0.9, 0.99])
def test_words_follow_the_probability_whatever_the_interval_s_level(level: float) -> None:
    def law(slope: float, seed: int) -> Law:
        kept = ladder(slope, noise=0.4, seed=seed)
        return fit_law(kept.data.n, kept.data.metric, unit="percent", level=level, forms="log-linear")

    for slope in (4.0, 4.5, 5.0, 7.0):
        found = compare_laws(law(slope, 0), law(4.0, 1), names=("A", "B"))
        p = found.per_decade.probability
        word = "Open" if 0.2 < p < 0.8 else f"{'A' if p > 0.5 else 'B'} {judged(max(p, 1.0 - p))} more"
        assert found.verdict.startswith(word)
        assert (found.visible is None) == (p >= 0.95 or p <= 0.05)
        assert f"({100 * level:g} % interval" in found.verdict


def test_open_difference_says_what_would_settle_it() -> None:
    found = compare_laws(ladder(4.3, noise=0.6, seed=0), ladder(3.6, noise=0.6, seed=1))
    assert found.per_decade.low < 0 < found.per_decade.high
    assert found.verdict.startswith("Open")
    assert found.more_seeds is None or found.more_seeds > 0
    assert found.visible is not None
    assert ("would settle it with a chance of about 3 in 4" in found.verdict) == (found.more_seeds is not None)
    assert (f"a difference of {found.visible:.2f} would have been seen" in found.verdict) == (found.more_seeds is None)


def test_difference_of_the_metric_at_n_is_the_difference_of_predictions_of_laws_fitted_together() -> None:
    alone = {"A": ladder(6, noise=0.2, seed=0), "B": ladder(3, noise=0.2, seed=1)}
    a, b = fit_together({name: law.data for name, law in alone.items()}).values()
    found = compare_laws(a, b, at=(500.0, 9000.0))
    apart = compare_laws(*alone.values(), at=(500.0, 9000.0))
    # which fits them together for the comparison
    assert found.per_decade.to_dict() == pytest.approx(apart.per_decade.to_dict(), abs=1e-3)
    for n, estimate in found.at.items():
        assert estimate.value == pytest.approx(float(a.predict(n)[0] - b.predict(n)[0]), abs=1e-9)


def test_paired_seeds_sharpen_the_comparison() -> None:
    a, b = (ladder(4, noise=0.05, seed=s, common=0.6) for s in (0, 1))
    paired = compare_laws(a, b)
    loose = compare_laws(a, fit_law(b.data.n, b.data.metric, unit="percent"))
    assert paired.paired == 3
    assert paired.correlation > 0.5
    assert loose.paired == 0
    assert paired.per_decade.high - paired.per_decade.low < 0.8 * (loose.per_decade.high - loose.per_decade.low)


def test_laws_that_cannot_be_compared() -> None:
    a = ladder(4, noise=0.2, seed=0)
    with pytest.raises(UserError, match="cannot be compared"):
        compare_laws(a, fit_law(LADDER, [0.5, 0.4, 0.35, 0.3], kind="error"))
    with pytest.raises(UserError, match="share no range"):
        compare_laws(a, fit_law(LADDER * 1e6, [3, 5, 6, 7]))
    with pytest.raises(UserError, match="90 % intervals and one with 50 % intervals cannot be compared"):
        compare_laws(a, fit_law(LADDER, [3, 5, 6, 7], unit="percent", level=0.5))
    with pytest.raises(UserError, match="share no range"):  # but for rounding
        compare_laws(a, fit_law(LADDER * (31.62 * (1 - 1e-12)), [3, 5, 6, 7]))


def test_numbers_of_images_that_are_nearly_one_are_two_keys() -> None:
    a, b = ladder(6, noise=0.4, seed=0), ladder(3, noise=0.4, seed=1)
    assert list(compare_laws(a, b, at=(1e6, 1_000_001.0)).to_dict()["at"]) == ["1e+06", "1000001.0"]


def test_equal_laws_are_wrongly_told_apart_seldom() -> None:
    n, told = np.repeat(LADDER, 3), 0
    for i in range(25):
        noise = 0.5 * np.random.default_rng(i).normal(size=(2, n.size))
        a, b = ((n, 3 + 4 * np.log10(n / 100) + own, [0, 1, 2] * 4) for own in noise)
        laws = fit_laws({"a": a, "b": b}, unit="percent", forms=["M2", "M3"])
        told += compare_laws(laws["a"], laws["b"]).visible is None
    # nominally 10 %; binomial(25, 0.1) is above 5 with 3 %
    assert told <= 5


def test_plan_buys_where_it_helps_and_stays_in_budget() -> None:
    law = ladder(4, noise=0.5, seed=0)
    costs = {100.0: 1.0, 1000.0: 2.0, 10000.0: 6.0}
    runs = plan(law, target=10000.0, costs=costs, budget=20.0)
    assert runs
    assert runs[-1].total_cost <= 20.0
    assert sum(r.cost for r in runs) == pytest.approx(runs[-1].total_cost)
    widths = [r.half_width for r in runs]
    assert all(b < a for a, b in itertools.pairwise(widths))
    _, low, high = law.predict(10000.0, noise=False)
    assert widths[0] < (high - low) / 2
    assert any(r.images == 10000.0 for r in runs), "a measurement at the target itself is worth most here"


def test_plan_prefers_the_cheaper_of_equals_and_ends_without_money() -> None:
    law = ladder(4, noise=0.5, seed=0)
    # a run at the target tells a little more than one at 90 % of it, but not five times more
    assert plan(law, target=1e4, costs={9000.0: 1.0, 10000.0: 1.0}, budget=1.0)[0].images == 10000.0
    assert plan(law, target=1e4, costs={9000.0: 1.0, 10000.0: 5.0}, budget=6.0)[0].images == 9000.0
    assert plan(law, target=1e4, costs={1e4: 5.0}, budget=4.0) == []


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"costs": {1e4: -1.0}}, "cost"),
        ({"costs": {}}, "images"),
        ({"budget": 0.0}, "budget"),
        ({"target": float("nan")}, "target"),
    ],
)
def test_plan_refuses_nonsense(options: dict, name: str) -> None:
    arguments = {"target": 1e4, "costs": {1e4: 1.0}, "budget": 5.0, **options}
    with pytest.raises(UserError, match=f"{name} in a plan"):
        plan(ladder(4, noise=0.5, seed=0), **arguments)


@pytest.mark.parametrize("n", [0.0, -1.0, float("nan"), float("inf")])
def test_images_that_cannot_be_are_refused(n: float) -> None:
    law = ladder(3, noise=0.2, seed=0)
    with pytest.raises(UserError, match=f"cannot compare at {n:g} images; give images > 0"):
        compare_laws(law, law, at=(n,))


def test_what_is_no_law_is_refused() -> None:
    law = ladder(3, noise=0.2, seed=0)
    for a, b in ((1, 2), (law, "R-50")):
        with pytest.raises(UserError, match=r"^(1|'R-50') is not a law; fit_law makes one"):
            compare_laws(a, b)  # type: ignore[arg-type]
