"""The test of the log-linear law and its power, against values by hand, other arithmetic and seeded simulation."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import integrate, stats

from scaleprior.laws import fit_law
from scaleprior.laws.observations import Observations, observe
from scaleprior.laws.straightness import Straightness, straightness
from scaleprior.laws.words import log_linear_notes, shared_notes

FOUR = np.geomspace(32.0, 2048.0, 4)


def along(n: np.ndarray) -> np.ndarray:
    """0 to 1 along the ladder in log n."""
    return np.log(n / n.min()) / np.log(n.max() / n.min())


def halving(n: np.ndarray) -> np.ndarray:
    """1 in all, 2/3 of it in the first half of the ladder: gains that decay by half in each half."""
    return (1.0 - 4.0 ** -along(n)) / 0.75


def ladder(
    sizes: np.ndarray, seeds: int, rng: np.random.Generator, *, noise: float, bent: bool = False, shift: float = 0.0
) -> Observations:
    """AP 20 to 30; ``shift`` scales what a seed adds at all sizes."""
    n, seed = np.repeat(sizes, seeds), np.tile(np.arange(seeds), sizes.size)
    curve = 20.0 + 10.0 * (halving(n) if bent else along(n))
    ap = curve + noise * rng.normal(size=n.size) + shift * rng.normal(size=seeds)[seed]
    return observe(n, ap, unit="percent", groups=list(seed))


def at_three(ap: list[float]) -> Observations:
    return observe([10, 10, 100, 100, 1000, 1000], ap, unit="percent", groups=[0, 1] * 3)


def test_three_sizes_of_two_seeds_by_hand() -> None:
    found = straightness(at_three([1.0, 2.0, 5.0, 6.0, 6.0, 7.0]))
    # means 1.5, 5.5, 6.5: contrast 1.5 - 2 * 5.5 + 6.5 = -3; pure error 3 * 0.5 on 3 degrees of freedom = 0.5;
    # variance of the contrast 0.5 / 2 * (1 + 4 + 1) = 1.5
    assert found.p_value == pytest.approx(2 * stats.t.sf(3 / math.sqrt(1.5), 3))
    assert found.dof == 3
    assert not found.contradicted
    assert found.halves == pytest.approx((4.0, 1.0))
    assert found.middle == pytest.approx(100.0)
    # the line through means 1.5, 5.5, 6.5 is 2, 4.5, 7
    assert found.miss == pytest.approx(1.0)


def test_power_of_three_sizes_by_hand() -> None:
    found = straightness(at_three([1.0, 2.0, 5.0, 6.0, 6.0, 7.0]))

    def rejected(chi2: float) -> float:
        # the line gains 5; 2/3 of it come first: contrast 0 - 2 * 10/3 + 5 = -5/3, and the noise is 1.5 / chi2
        off = (5 / 3) / math.sqrt(1.5 / chi2 / 2 * 6)
        limit = stats.t.isf(0.025, 3)
        return float(stats.nct.sf(limit, 3, off) + stats.nct.cdf(-limit, 3, off)) * float(stats.chi2.pdf(chi2, 3))

    assert found.power == pytest.approx(integrate.quad(rejected, 0, 40)[0], abs=0.002)


@pytest.mark.parametrize(("sizes", "bends"), [(5, 1), (9, 2)])
def test_f_is_that_of_two_nested_regressions(sizes: int, bends: int) -> None:
    rng = np.random.default_rng(0)
    n = np.repeat(np.sort(10 ** rng.uniform(2, 5, sizes)), 2)
    seed, w = np.tile([0, 1], sizes), rng.uniform(0.5, 2.0, 2 * sizes)
    y = 10 + 3 * np.log10(n) + rng.normal(size=n.size) + 2.0 * seed
    found = straightness(observe(n, y, unit="percent", weights=w, groups=list(seed)))
    straight = np.stack([np.ones(n.size), seed, np.log(n)], axis=1)
    bent = np.hstack([straight, np.log(n)[:, None] ** np.arange(2, 2 + bends)])

    def missed(design: np.ndarray) -> float:
        root = np.sqrt(w)[:, None]
        theta = np.linalg.lstsq(root * design, root[:, 0] * y, rcond=None)[0]
        return float((w * (y - design @ theta) ** 2).sum())

    dof = n.size - 3 - bends
    f = (missed(straight) - missed(bent)) / bends / (missed(bent) / dof)
    assert found.dof == dof
    assert found.p_value == pytest.approx(stats.f.sf(f, bends, dof), rel=1e-6)


@pytest.mark.parametrize(
    ("sizes", "seeds", "shift"), [(3, 2, 0.0), (3, 2, 2.0), (4, 1, 0.0), (4, 3, 2.0), (6, 1, 0.0), (30, 1, 0.0)]
)
def test_a_straight_truth_is_contradicted_in_five_of_a_hundred(sizes: int, seeds: int, shift: float) -> None:
    rng = np.random.default_rng([sizes, seeds])
    rungs = np.geomspace(32.0, 2048.0, sizes)
    told = sum(straightness(ladder(rungs, seeds, rng, noise=0.75, shift=shift)).contradicted for _ in range(300))
    # binomial(300, 0.05) is above 24 with 1 %
    assert told <= 24


@pytest.mark.parametrize(("sizes", "seeds", "noise"), [(3, 2, 0.75), (4, 3, 0.75), (6, 3, 1.5)])
def test_bent_truths_are_found_out_as_often_as_is_said(sizes: int, seeds: int, noise: float) -> None:
    rng = np.random.default_rng([sizes, seeds])
    rungs = np.geomspace(32.0, 2048.0, sizes)
    found = [straightness(ladder(rungs, seeds, rng, noise=noise, bent=True)) for _ in range(200)]
    happened, said = (np.mean([getattr(f, what) for f in found]) for what in ("contradicted", "power"))
    # standard error of what happened 0.035; of what is said, the noise is estimated with 3 degrees of freedom and more
    assert happened == pytest.approx(said, abs=0.12)
    assert 0.3 < happened < 0.9


def test_runs_that_agree_to_every_digit_written_are_not_without_noise() -> None:
    """APs with one digit: of the pairs at the top a fifth are equal, and 134 straight lines were contradicted."""
    n, rng = [1e4, 1e5, 1e6, 1e6], np.random.default_rng(0)
    straight = 20 + 5 * np.log10(np.array(n) / 1e4)
    written = (np.round(straight + 0.15 * rng.normal(size=4), 1) for _ in range(1000))
    told = [straightness(observe(n, ap, unit="percent", groups=[0, 0, 0, 1])).contradicted for ap in written]
    assert sum(told) <= 50


def test_learning_curves_do_not_count_neighbours_as_independent() -> None:
    rng, told = np.random.default_rng(4), 0
    n = np.geomspace(1e3, 1e6, 200)
    for _ in range(100):
        noise = rng.normal(size=n.size)
        for i in range(1, n.size):
            noise[i] = 0.8 * noise[i - 1] + 0.6 * noise[i]
        told += straightness(observe(n, 20 + 10 * along(n) + noise, unit="percent")).contradicted
    # least squares on all points would contradict more than half of them; binomial(100, 0.1) is above 17 with 1 %
    assert told <= 17


def test_many_sizes_find_out_a_law_that_bends_twice() -> None:
    n = np.geomspace(1e3, 1e7, 36)
    data = observe(n, 0.5 + 0.3 * np.tanh(np.log10(n) - 5.0), unit="fraction")
    found = straightness(data)
    assert found.contradicted
    # symmetric about the middle: the halves are alike, the straight line is off all the same
    assert found.halves[0] == pytest.approx(found.halves[1], rel=1e-6)
    assert found.miss > 0.02


def test_what_a_seed_shifts_everywhere_is_no_noise_of_the_bend() -> None:
    data = ladder(FOUR, 3, np.random.default_rng(1), noise=0.5)
    shifted = observe(data.n, data.metric + 4.0 * data.group, unit="percent", groups=list(data.group))
    alone = observe(data.n, data.metric + 4.0 * data.group, unit="percent")
    assert straightness(shifted).p_value == pytest.approx(straightness(data).p_value)
    assert straightness(shifted).dof == 12 - 3 - 2
    assert straightness(alone).dof == 12 - 3
    assert straightness(alone).power < 0.5 * straightness(data).power
    # a seed that was not run everywhere shifts nothing that is known of the others
    missing = observe(data.n[1:], data.metric[1:], unit="percent", groups=list(data.group[1:]))
    assert straightness(missing).dof == 11 - 3


def test_units_kinds_and_images_do_not_matter() -> None:
    data = ladder(FOUR, 2, np.random.default_rng(2), noise=0.4, bent=True)
    groups = list(data.group)
    one = straightness(data)
    for other in (
        observe(data.n * 1e3, data.metric, unit="percent", groups=groups),
        observe(data.n, data.metric / 100, unit="fraction", groups=groups),
        observe(data.n, 1 - data.metric / 100, kind="error", unit="fraction", groups=groups),
        observe(data.n, 7 - data.metric / 100, kind="error", unit="loss", groups=groups),
    ):
        found = straightness(other)
        assert (found.p_value, found.power) == pytest.approx((one.p_value, one.power), rel=1e-6)
        assert np.multiply(found.halves, data.scale if other.scale != 100.0 else 1.0) == pytest.approx(one.halves)
    worse = straightness(observe(data.n, 60 - data.metric, unit="percent", groups=groups))
    assert worse.p_value == pytest.approx(one.p_value)
    assert worse.halves == pytest.approx((-one.halves[0], -one.halves[1]))


@pytest.mark.parametrize("ap", [[0.0] * 4, [37.5] * 4, [0.7 * math.pi * k for k in (1, 2, 3, 4)]])
def test_what_lies_on_a_line_to_the_last_bit_is_not_contradicted(ap: list[float]) -> None:
    found = straightness(observe([10, 100, 1000, 10000], ap, unit="percent"))
    assert not found.contradicted
    assert found.p_value > 0.9
    assert found.power == pytest.approx(0.05 if ap[0] == ap[1] else 1.0, abs=1e-6)


def test_one_run_at_each_of_three_sizes_tests_nothing() -> None:
    found = straightness(observe([10, 100, 1000], [1.0, 5.0, 6.0], unit="percent"))
    assert not found.contradicted
    assert (found.dof, math.isnan(found.p_value), math.isnan(found.power)) == (0, True, True)
    assert found.to_dict()["p_value"] is None
    json.dumps(found.to_dict(), allow_nan=False)


def test_where_a_straight_line_still_holds() -> None:
    # no gain up to 1,000 images, 4 a decade from there on: the longest straight stretch is 1,000 to 1,000,000
    sizes = np.geomspace(10.0, 1e6, 6)
    n = np.repeat(sizes, 3)
    ap = 10 + 4 * np.maximum(np.log10(n) - 3, 0) + 0.1 * np.random.default_rng(3).normal(size=n.size)
    found = straightness(observe(n, ap, unit="percent"))
    assert found.contradicted
    assert found.holds_between == pytest.approx((1e3, 1e6))
    # 4 in the first decade, 1 in each of the others
    level = straightness(
        observe([10, 10, 100, 100, 1000, 1000, 10000, 10000], [1.0, 1.1, 5.0, 5.1, 6.0, 6.1, 7.0, 7.1])
    )
    assert level.holds_between == pytest.approx((100.0, 10000.0))
    sharp = straightness(at_three([1.0, 1.1, 5.0, 5.1, 6.0, 6.1]))
    assert sharp.contradicted
    assert sharp.holds_between is None


def test_the_verdict_in_words() -> None:
    ap = [1.0, 2.0, 5.0, 6.0, 6.0, 7.0]
    n, seeds = [10, 10, 100, 100, 1000, 1000], [0, 1] * 3
    law = fit_law(n, ap, unit="percent", groups=seeds, forms="log-linear")
    often = round(100 * law.straightness.power)
    assert law.notes[-1] == (
        "The log-linear law (equal gain per factor of ten) is not contradicted by these data; but a law whose gain "
        f"halves from the first half of the ladder to the second would be found out in only {often} of 100 such "
        "ladders."
    )
    falling = fit_law(n, ap[::-1], unit="percent", groups=seeds, forms="log-linear")
    assert "a law whose decline halves" in falling.notes[-1]
    bent = fit_law(n, [1.0, 1.1, 5.0, 5.1, 6.0, 6.1], unit="percent", groups=seeds, forms="log-linear")
    # means 1.05, 5.05, 6.05; the line through them is 1.55, 4.05, 6.55
    assert bent.notes[-1] == (
        "The data contradict the log-linear law (p < 0.001): a straight line is off by up to 1.00, a factor of ten "
        "brings +4.00 up to 100 images and +1.00 beyond. Do not extrapolate it; it holds to within the noise over no "
        "three neighbouring fractions."
    )
    short = fit_law(n[::2], ap[::2], unit="percent", forms="log-linear")
    assert short.notes[-1].startswith("Nothing here can test the log-linear law")
    constant = fit_law(n, [5.0] * 6, unit="percent", groups=seeds, forms="log-linear")
    assert not any("log-linear law" in note for note in constant.notes)
    assert law.to_dict()["straightness"] == law.straightness.to_dict()


def test_several_laws_share_a_sentence() -> None:
    rng = np.random.default_rng(6)
    laws = {
        name: fit_law(data.n, data.metric, unit="percent", groups=list(data.group), forms="log-linear")
        for name, data in {
            "R-50": ladder(FOUR, 2, rng, noise=1.5), "R-101": ladder(FOUR, 2, rng, noise=2.0),
            "R-152": observe(FOUR[:3], [1.0, 5.0, 6.0], unit="percent"),
        }.items()
    }  # fmt: skip
    powers = [round(100 * laws[name].straightness.power) for name in ("R-50", "R-101")]
    untested, open_to = log_linear_notes(laws)
    assert untested.startswith("R-152: Nothing here")
    assert open_to.startswith("R-50, R-101: The log-linear law")
    assert f"in only {min(powers)} to {max(powers)} of 100 such ladders" in open_to
    assert [note for note in shared_notes(laws) if "log-linear law" in note] == [untested, open_to]


def test_strong_tests_are_not_belittled() -> None:
    ap = [0.7 * math.pi * k for k in (1, 2, 3, 4)]
    law = fit_law([10, 100, 1000, 10000], ap, unit="percent", forms="log-linear")
    assert isinstance(law.straightness, Straightness)
    assert law.notes[-1].endswith("; a law whose gain halves from the first half of the ladder to the second would be "
                                  "found out in 99 of 100 such ladders.")  # fmt: skip
