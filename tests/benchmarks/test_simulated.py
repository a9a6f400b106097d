"""Simulated studies: their truths are what their families say, and their noise is what their design says."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.simulated import (
    FALLING,
    FAMILIES,
    START,
    draw_study,
    falling_study,
    families_in_words,
    quickstart_study,
)

SPAN = 2.0
DECADES = np.linspace(0.0, SPAN + 1.0, 61)  # the ladder and a decade beyond it
EACH = range(50)


class Given:
    """Stands for a generator: hands out what was drawn for a truth, in order."""

    def __init__(self, *values: float) -> None:
        self._values = list(values)

    def uniform(self, low: float, high: float) -> float:
        value = self._values.pop(0)
        assert low - 1e-12 <= value <= high + 1e-12
        return value


@pytest.mark.parametrize("family", FAMILIES)
def test_truths_rise_from_2_to_30_ap_on_and_stay_within_the_metric(family: str) -> None:
    for seed in EACH:
        ap = FAMILIES[family](np.random.default_rng(seed), SPAN)(DECADES)
        assert 2.0 <= ap[0] <= 30.0
        assert (np.diff(ap) >= -1e-9).all()
        assert ap[-1] < 100.0
        if family != "sigmoid":  # of which a ladder may see the flat part alone
            assert 0.3 * 0.8 <= (ap[40] - ap[0]) / SPAN <= 2.0 * 6.0


def test_a_power_law_leaves_a_fixed_share_of_what_is_left() -> None:
    # log c = log 0.5: a decade leaves 10^-0.5 of what was left; 4 AP a decade over 2 decades
    truth = FAMILIES["power"](Given(10.0, np.log(4.0), np.log(0.5)), SPAN)
    start, first, second = truth(np.array([0.0, 1.0, 2.0]))
    assert (start, second - start) == pytest.approx((10.0, 8.0))
    assert (second - first) / (first - start) == pytest.approx(10**-0.5)


def test_a_sigmoid_rises_fastest_at_its_middle() -> None:
    # steepness 4 / 2 per decade, middle at one decade: the whole step of 1.5 * 4 * 2 = 12 AP is symmetric around it
    ap = FAMILIES["sigmoid"](Given(10.0, np.log(4.0), 4.0, 0.5), SPAN)(np.array([0.0, 1.0, 2.0, 1e3]))
    assert ap[1] - ap[0] == pytest.approx(ap[2] - ap[1])
    assert ap[3] - ap[1] == pytest.approx(6.0)


def test_a_broken_law_goes_on_with_another_slope() -> None:
    ap = FAMILIES["broken"](Given(10.0, np.log(4.0), 0.5, 0.5, 0.05), SPAN)(np.array([0.0, 0.5, 1.75, 2.25]))
    assert (ap[1] - ap[0]) / 0.5 == pytest.approx(4.0, abs=1e-3)
    assert (ap[3] - ap[2]) / 0.5 == pytest.approx(2.0, abs=1e-3)


def test_a_saturating_law_stops_where_it_says() -> None:
    # straight to 0.2 decades behind the ladder: 2.2 decades of 4 AP
    ap = FAMILIES["saturating"](Given(10.0, np.log(4.0), 0.2, 0.02), SPAN)(np.array([0.0, 1.0, 2.5, 3.0]))
    assert ap == pytest.approx([10.0, 14.0, 18.8, 18.8], abs=1e-3)


def test_a_levelling_law_is_a_power_law_of_the_error_that_turns_flat() -> None:
    truth = FAMILIES["levelling"](Given(10.0, np.log(4.0), 0.3, 1.0), SPAN)
    ap = truth(np.array([0.0, 2.0, 6.0, 7.0]))
    assert ap[1] - ap[0] == pytest.approx(8.0)
    # 1/n + gamma is 1.01, 0.11 and 0.02 after 0, 1 and 2 decades
    first = (1.0 - (0.11 / 1.01) ** 0.3) / (1.0 - (0.02 / 1.01) ** 0.3)
    assert truth(np.array(1.0)) - ap[0] == pytest.approx(8.0 * first)
    assert ap[3] == pytest.approx(ap[2], abs=1e-2)  # gamma = 10^-2 holds 1/n + gamma up


def test_families_are_said_in_a_sentence_each() -> None:
    assert list(families_in_words()) == list(FAMILIES)
    assert all(sentence.endswith(".") and len(sentence) > 20 for sentence in families_in_words().values())


def test_a_design_has_the_rungs_seeds_and_noise_that_it_says() -> None:
    scatter, same = [], 0
    for seed in range(200):
        study = draw_study("log-linear", np.random.default_rng(seed))
        sizes = np.unique(study.first.n)
        assert 4 <= sizes.size <= 6
        assert study.seeds in (2, 3)
        assert study.first.n.size == sizes.size * study.seeds
        assert sizes[0] == START
        assert 1.0 <= np.log10(sizes[-1] / sizes[0]) <= 2.5
        assert 0.3 <= study.noise <= 1.5
        apart = study.first.at(sizes) - study.second.at(sizes)
        assert study.same == (np.ptp(apart) < 1e-9)
        same += study.same
        scatter.append((study.first.metric - study.first.at(study.first.n)) / study.noise)
    assert 70 <= same <= 130  # of 200, half: 4 standard deviations of 7
    # some 2,500 values: the standard deviation of their standard deviation is 0.014
    assert np.concatenate(scatter).std() == pytest.approx(1.0, abs=0.06)


def test_half_of_the_studies_share_three_tenths_of_the_noise_of_a_seed() -> None:
    products = []
    for seed in range(400):
        study = draw_study("log-linear", np.random.default_rng(seed))
        first, second = ((one.metric - one.at(one.n)) / study.noise for one in (study.first, study.second))
        products.append(first * second)
    # mean of 0 and 0.3; of 5,000 products of variance 1 the mean is known to 0.015
    assert np.concatenate(products).mean() == pytest.approx(0.15, abs=0.06)


@pytest.mark.parametrize("slope", FALLING)
def test_falling_studies_fall_alike(slope: float) -> None:
    study = falling_study(slope, np.random.default_rng(0))
    for ladder in (study.first, study.second):
        assert ladder.at(1e5) - ladder.at(1e4) == pytest.approx(slope, abs=1e-12)
    assert study.same


def test_the_quickstarts_design_has_one_truth_for_both_depths() -> None:
    study = quickstart_study(np.random.default_rng(0))
    assert sorted(set(study.first.n)) == [32, 256, 2048]
    assert (study.seeds, study.noise, study.same) == (2, 0.75, True)
    assert study.first.at(500.0) == study.second.at(500.0)
