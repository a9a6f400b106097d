"""fit_law: input it refuses, invariances, degenerate data, forecasts and intervals on simulated ladders."""

from __future__ import annotations

import math

import numpy as np
import pytest

from scaleprior.errors import UserError
from scaleprior.laws import Estimate, Form, Law, fit_law
from scaleprior.laws.forms import M2

LADDER = [100.0, 316.0, 1000.0, 3162.0]
AP = [2.1, 5.3, 8.8, 11.0]


@pytest.mark.parametrize(
    ("images", "metric", "options", "message"),
    [
        ([], [], {}, "no measurements"),
        ([1, 2, 3], [1, 2], {}, "differ in length: 3, 2"),
        ([10, 100, 1000], [1, math.nan, 3], {}, r"metric\[1\] is nan"),
        ([10, -100, 1000], [1, 2, 3], {}, r"images\[1\] is -100"),
        ([0, 100, 1000], [1, 2, 3], {}, "from-scratch"),
        ([10, 100, 100], [1, 2, 3], {}, "2 distinct"),
        ([10, 10, 10], [1, 2, 3], {}, "1 distinct"),
        ([10, 100, 1000], [1, 2, 101], {}, "101 at 1000 images is above 100"),
        ([10, 100, 1000], [0.1, 0.2, 1.5], {"unit": "fraction"}, "1.5 at 1000 images is above 1"),
        ([10, 100, 1000, 3000], [0.2, 25.0, 0.31, 38.0], {}, "fractions mixed with percent"),
        ([10, 10, 100, 1000], [0.2, 25.0, 31.0, 38.0], {}, "fractions mixed with percent"),
        ([10, 100, 1000], [1, -2, 3], {}, r"metric\[1\] is -2, below 0"),
        ([10, 100, 1000], [1, 2, 3], {"weights": [1, 0, 1]}, r"weights\[1\] is 0"),
        ([10, 100, 1000], ["a", 2, 3], {}, "metric is not numeric"),
        ([10, 100, 1000], [1, 2, 3], {"kind": "ap"}, "unknown kind 'ap'"),
        ([10, 100, 1000], [1, 2, 3], {"unit": "permille"}, "unknown unit"),
        ([10, 100, 1000], [1, 2, 3], {"unit": "loss"}, "is for errors"),
        ([10, 100, 1000], [1, 2, 3], {"forms": "M9"}, "unknown form 'M9'"),
        ([10, 100, 1000], [1, 2, 3], {"forms": []}, "no forms"),
        ([10, 100, 1000], [1, 2, 3], {"forms": 3}, "^3 is not a form; derive"),
        ([10, 100, 1000], [1, 2, 3], {"forms": int}, "^<class 'int'> is not a form; derive"),
        ([10, 100, 1000], [1, 2, 3], {"forms": [Form]}, "^form Form cannot be made: .*abstract.*; complete it"),
        ([10, 100, 1000], [1, 2, 3], {"seed": -1}, "^seed is -1; give a whole number"),
        ([10, 100, 1000], [1, 2, 3], {"seed": 0.5}, "^seed is 0.5; give a whole number"),
        ([10, 100, 1000], [1, 2, 3], {"level": 1.0}, "level 1.0"),
        ([10, 100, 1000], [4, 3, 2], {"kind": "error", "forms": "logistic"}, "bounded metric"),
    ],
)
def test_bad_input_is_named(images: list, metric: list, options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        fit_law(images, metric, **options)


def test_percent_and_fraction_give_the_same_law() -> None:
    percent, fraction = fit_law(LADDER, AP), fit_law(LADDER, np.array(AP) / 100)
    assert percent.data.scale == 100.0
    np.testing.assert_allclose(percent.predict([1e4]), 100 * np.array(fraction.predict([1e4])), rtol=1e-9)


def test_score_and_error_are_two_names_of_one_law() -> None:
    score = fit_law(LADDER, np.array(AP) / 100).predict([1e4])
    error = fit_law(LADDER, 1 - np.array(AP) / 100, kind="error").predict([1e4])
    np.testing.assert_allclose(score[0], 1 - error[0], rtol=1e-9)
    np.testing.assert_allclose(score[1], 1 - error[2], rtol=1e-9)


def test_scale_of_images_does_not_matter() -> None:
    one, other = fit_law(LADDER, AP), fit_law(np.array(LADDER) * 1e4, AP)
    np.testing.assert_allclose(one.predict([1e3, 1e4]), other.predict([1e7, 1e8]), rtol=1e-6)
    assert one.per_decade.value == pytest.approx(other.per_decade.value, rel=1e-6)


def test_order_of_rows_does_not_matter() -> None:
    order = [2, 0, 3, 1]
    one, other = fit_law(LADDER, AP), fit_law(np.array(LADDER)[order], np.array(AP)[order])
    np.testing.assert_array_equal(one.predict([1e4]), other.predict([1e4]))


def test_sizes_that_differ_by_rounding_are_one() -> None:
    ap = [20.0, 25.0, 27.0, 27.4, 29.0]
    one = fit_law([1e4, 1e5, 3e5, 3e5, 1e6], ap)
    other = fit_law([1e4, 1e5, 3e5, 0.3 * 1e6 * (1 - 1e-12), 1e6], ap)
    assert other.data.sizes.size == 4
    assert other.per_decade.value == pytest.approx(one.per_decade.value)
    with pytest.raises(UserError, match=r"2 distinct number\(s\) of images"):
        fit_law([1e4, 1e6, 1e6 * (1 + 1e-9), 1e6 * (1 + 2e-9)], [20, 21, 22, 21])


@pytest.mark.parametrize("end", [0.0, -1.0, math.nan, math.inf])
def test_a_gain_to_no_number_of_images_is_refused(end: float) -> None:
    law = fit_law([1e4, 1e5, 1e6], [20, 25, 29])
    with pytest.raises(UserError, match="cannot tell a gain at"):
        law.gain(1e5, end)


@pytest.mark.filterwarnings("error")
def test_a_loss_is_finite_however_far_away() -> None:
    law = fit_law([1e4, 1e5, 1e6], [5.0, 1e3, 1e6], kind="error")
    for n in (1e-300, 1e300):
        assert np.isfinite([*law.predict(n), *vars(law.gain(n, 1e6)).values()]).all()


def test_duplicated_rows_are_rows_with_double_weight() -> None:
    doubled = fit_law([*LADDER, LADDER[1]], [*AP, AP[1]])
    weighted = fit_law(LADDER, AP, weights=[1, 2, 1, 1])
    np.testing.assert_array_equal(doubled.predict([1e4]), weighted.predict([1e4]))
    assert doubled.data.merged == 1


def test_same_seed_same_law_other_seed_same_mean() -> None:
    one, again, other = (fit_law(LADDER, AP, seed=s) for s in (0, 0, 1))
    np.testing.assert_array_equal(one.predict([1e4]), again.predict([1e4]))
    # of the centre, what depends on the draws is how many of them rise
    assert one.predict([1e4])[0] == pytest.approx(other.predict([1e4])[0], abs=0.01)
    assert one.predict([1e4])[1] != other.predict([1e4])[1]


def test_plain_trend_excludes_zero_and_flat_data_do_not() -> None:
    rng = np.random.default_rng(0)
    n, seeds = np.repeat(LADDER, 3), [0, 1, 2] * 4
    rising = fit_law(n, np.repeat(AP, 3) + 0.5 * rng.normal(size=12), groups=seeds).per_decade
    assert 3.5 < rising.low < rising.value < rising.high < 7.5
    # noise alone: a 90 % interval may exclude 0 from below 1 time in 20, binomial(20, 0.05) is above 3 with 2 %
    claimed = sum(fit_law(n, 5 + 0.5 * rng.normal(size=12), groups=seeds).per_decade.low > 0 for _ in range(20))
    assert claimed <= 3


def test_three_points_are_wide_and_say_so_two_are_refused() -> None:
    three, four = fit_law(LADDER[:3], AP[:3]), fit_law(LADDER, AP)
    assert any("3 fractions prove little" in note for note in three.notes)

    def width(law: Law, n: float) -> float:
        _, low, high = law.predict([n])
        return float(high[0] - low[0])

    assert width(three, 3162) > 2 * width(four, 3162)
    with pytest.raises(UserError, match="at least 3 fractions"):
        fit_law(LADDER[:2], AP[:2])


def test_predictions_are_bounded_and_inside_their_interval_and_rise_with_data_that_do() -> None:
    rng = np.random.default_rng(1)
    grid = np.geomspace(10, 1e9, 200)
    for _ in range(6):
        n = np.geomspace(100, 1e5, rng.integers(3, 20))
        s = np.clip(0.9 * rng.random() / (1 + (n / 3e3) ** -rng.random()) + 0.02 * rng.normal(size=n.size), 0, 1)
        mean, low, high = fit_law(n, s, unit="fraction").predict(grid)
        assert (low >= 0).all()
        assert (high <= 1).all()
        assert ((low <= mean) & (mean <= high)).all()


@pytest.mark.parametrize("ap", [[0, 0, 0, 0], [100, 100, 100, 100], [37.5] * 4])
def test_constant_metric_is_a_constant_law(ap: list[float]) -> None:
    law = fit_law(LADDER, ap, unit="percent")
    mean, _, _ = law.predict([3162, 31620])
    # the forms can only get better, so the forecast keeps a trace of a rise beyond the data
    np.testing.assert_allclose(mean, ap[0], atol=0.5)
    assert abs(mean[0] - ap[0]) < 0.2
    assert law.per_decade.low <= 0.0 <= law.per_decade.high
    assert any("no gain was seen" in note for note in law.notes)


def test_the_probability_of_a_gain_is_that_of_its_interval() -> None:
    """An interval of level 2p - 1 about a gain of probability p has an end at 0, whichever p that is."""
    rng = np.random.default_rng(3)
    n = np.repeat(LADDER, 2)
    for slope in (-1.0, 0.1, 0.4, 3.0):
        ap = 20 + slope * np.log10(n) + 0.5 * rng.normal(size=n.size)
        gain = fit_law(n, ap).per_decade
        assert (gain.probability > 0.95) == (gain.low > 0)
        assert (gain.probability < 0.05) == (gain.high < 0)
        level = abs(2.0 * gain.probability - 1.0)
        if 0.0 < level < 0.99:  # of 3,000 draws the outermost are far apart
            at_zero = fit_law(n, ap, level=level).per_decade
            assert min(abs(at_zero.low), abs(at_zero.high)) < 0.02 * (gain.high - gain.low)
    assert 0.2 < fit_law(LADDER, [37.5] * 4, unit="percent").per_decade.probability < 0.8  # open


@pytest.mark.parametrize("slope", [-1.5, -4.0])
def test_a_metric_that_falls_is_followed_down(slope: float) -> None:
    n = np.repeat(LADDER, 3)
    ap = 25 + slope * np.log10(n / 100) + 0.3 * np.random.default_rng(5).normal(size=n.size)
    law = fit_law(n, ap)
    gain = law.per_decade
    assert gain.low < slope < gain.high < 0
    assert gain.value == pytest.approx(slope, abs=0.5)
    assert gain.probability < 0.05
    mean, low, high = law.predict([100.0, 1000.0, 10000.0], noise=False)
    assert (np.diff(mean) < 0).all()
    truth = 25 + slope * np.array([0.0, 1.0, 2.0])
    assert ((low < truth) & (truth < high)).all()
    # the forms that cannot fall say nothing of it
    forms = law.data.to_metric(np.exp(law.forms.log_error(np.array([100.0, 1000.0]))))
    assert forms[1] - forms[0] > 0.6 * (mean[1] - mean[0])


def test_falling_metric_is_said() -> None:
    law = fit_law(LADDER, [11.0, 9.0, 6.0, 3.0])
    assert law.per_decade.high < 0
    assert "The metric is worse at the largest fraction (3.00) than at the smallest (11.00)." in law.notes


def test_of_three_fractions_none_is_said_to_be_held_back() -> None:
    told = "none of them stands out in predicting held-back largest points."
    assert told in fit_law(LADDER, [31.0, 34.0, 37.0, 40.0]).why
    assert "of 3 fractions none can be held back" in (why := fit_law(LADDER[:3], [31.0, 34.0, 37.0]).why)
    assert "held-back" not in why


def test_that_no_form_follows_a_fall_is_said() -> None:
    said = "The metric falls, which forms that only rise cannot follow: the law is that of the measurements alone."
    assert fit_law(LADDER, [40.0, 37.0, 34.0, 31.0]).why.endswith(said)
    for law in (fit_law(LADDER, [31.0, 34.0, 37.0, 40.0]), fit_law(LADDER, [40.0, 37.0, 34.0, 31.0], forms="M2")):
        assert said not in law.why


def test_a_rise_that_turns_is_not_called_a_gain_of_the_last_decade() -> None:
    n = np.repeat([100.0, 316.0, 1000.0, 3162.0, 10000.0], 3)
    ap = 20 - 3 * (np.log10(n) - 3) ** 2 + 0.2 * np.random.default_rng(2).normal(size=n.size)
    assert fit_law(n, ap).per_decade.high < 0


def test_log_linear_alone_is_least_squares() -> None:
    # slope of 1, 2, 4 at 1, 2, 3 decades is 1.5 by hand; errors are 1 - AP, whose logarithm is nearly linear here
    law = fit_law([10, 100, 1000], [1.0, 2.0, 4.0], forms="log-linear")
    assert law.form == "log-linear"
    assert law.per_decade.value == pytest.approx(1.5, abs=0.02)
    assert "asked for" in law.why


def test_contradicted_log_linear_law_is_said_with_its_range() -> None:
    n = np.geomspace(1e3, 1e7, 30)
    bent = fit_law(n, 0.1 + 3 * n**-0.3, kind="error")
    assert "contradict the log-linear law" in bent.notes[-1]
    assert "only between" in bent.notes[-1]
    straight = fit_law(LADDER, [2.0, 4.0, 6.0, 8.0])
    assert "not contradicted" in straight.notes[-1]


def test_an_outlier_moves_the_law_little() -> None:
    n = np.geomspace(1e3, 1e6, 16)
    e = 0.2 + 4 * n**-0.35
    spoilt = e.copy()
    spoilt[5] *= 1.3
    clean, dirty = (fit_law(n, v, kind="error").predict([4e6])[0][0] for v in (e, spoilt))
    assert dirty == pytest.approx(clean, rel=0.02)


def test_weights_follow_the_trusted_points() -> None:
    ap = [2.0, 5.0, 8.0, 8.0, 11.0]
    n = [100, 316, 1000, 1000, 3162]
    ap[3] = 10.0  # two values at 1,000 images: 8 and 10
    at_8 = fit_law(n, ap, weights=[1, 1, 100, 0.01, 1]).predict([1000])[0][0]
    at_10 = fit_law(n, ap, weights=[1, 1, 0.01, 100, 1]).predict([1000])[0][0]
    assert at_8 < 8.6 < 9.2 < at_10


def test_seeds_that_differ_widen_the_interval() -> None:
    n, seeds = np.repeat(LADDER, 3), [0, 1, 2] * 4
    shift = np.tile([-0.8, 0.0, 0.8], 4)
    ap = np.repeat(AP, 3) + shift
    grouped, loose = fit_law(n, ap, groups=seeds), fit_law(n, ap)
    assert grouped.level_variance > 0 == loose.level_variance
    widths = [float(np.subtract(*law.predict([1000], noise=False)[:0:-1])[0]) for law in (grouped, loose)]
    assert widths[0] > widths[1]


def test_one_form_taking_off_does_not_take_the_law_along() -> None:
    law = fit_law(LADDER, [5.0, 5.1, 4.9, 6.5])
    far = np.array([3e5])
    curves = law.form_curves(far)[law.selection.weights > 0, 0]
    assert curves.size == 5
    # of the forms the mean of the middle three in ln(1 - AP)
    assert law.forms.log_error(far)[0] == pytest.approx(np.sort(curves)[1:-1].mean(), rel=1e-9)


def test_images_for_inverts_predict_and_says_out_of_reach() -> None:
    law = fit_law(LADDER, AP)
    reach = law.images_for(12.0)
    assert isinstance(reach, Estimate)
    assert law.predict(reach.value)[0] == pytest.approx(12.0, abs=0.02)
    assert reach.low < reach.value < reach.high
    assert law.images_for(99.0).value == math.inf
    assert law.images_for(99.0).to_dict()["value"] is None
    with pytest.raises(UserError, match="outside the metric's range"):
        law.images_for(120.0)
    with pytest.raises(UserError, match="cannot predict at 0"):
        law.predict([0.0])


def test_unbounded_loss_has_its_own_answer() -> None:
    n = np.geomspace(1e3, 1e6, 8)
    law = fit_law(n, 1.8 + 40 * n**-0.4, kind="error")
    assert not law.data.bounded
    assert law.predict([4e6])[0][0] == pytest.approx(1.8 + 40 * 4e6**-0.4, rel=0.02)
    assert "logistic" not in law.form


def test_to_dict_is_strict_json() -> None:
    import json

    text = json.dumps(fit_law(LADDER, AP, groups=[0, 0, 0, 0]).to_dict(), allow_nan=False)
    assert set(json.loads(text)) >= {
        "schema",
        "form",
        "why",
        "notes",
        "per_decade",
        "forms",
        "noise",
        "images",
        "metric",
    }


def test_smoothed_values_are_noticed() -> None:
    rng = np.random.default_rng(2)
    n = np.geomspace(1e4, 1e8, 70)
    raw = (0.1 + 8 * n**-0.25) * np.exp(0.02 * rng.normal(size=n.size))
    best = np.minimum.accumulate(raw)
    assert fit_law(n, raw, kind="error").raw_sigma == fit_law(n, raw, kind="error").sigma
    law = fit_law(n, best, kind="error")
    assert law.raw_sigma == 2 * law.sigma
    assert any("running best" in note for note in law.notes)


def test_coverage_by_simulation() -> None:
    # 40 ladders of 4 fractions x 3 seeds: 90 % intervals of a new run at twice the data, and of the gain per decade
    def truth(n: np.ndarray) -> np.ndarray:
        return 100 * (0.4 - 0.12 * (n / 100.0) ** -0.3)

    n, inside, gain_inside = np.repeat(LADDER, 3), 0, 0
    gain = float(truth(np.array(3162.0)) - truth(np.array(316.2)))
    for i in range(40):
        rng = np.random.default_rng([7, i])
        law = fit_law(n, truth(n) + 0.5 * rng.normal(size=12), groups=[0, 1, 2] * 4)
        _, low, high = law.predict([6324.0])
        inside += low[0] <= truth(np.array(6324.0)) + 0.5 * rng.normal() <= high[0]
        gain_inside += law.per_decade.low <= gain <= law.per_decade.high
    # binomial(40, 0.9) is below 32 or so with 2 %
    assert 32 <= inside <= 40
    assert 32 <= gain_inside <= 40


def test_forms_that_all_lean_on_the_late_points_still_know_their_noise() -> None:
    # flat, then a power law: weighted n^4 M1 is exact at the top, with equal weights no straight law is near anywhere
    n = np.geomspace(1e3, 1e7, 200)
    law = fit_law(n, 0.5 * np.minimum(1.0, (n / 1e5) ** -0.5), kind="error", forms=["log-linear", "M1"])
    assert all(c.power > 0 for c, weight in zip(law.candidates, law.selection.weights) if weight > 0)
    assert np.isfinite(law.predict([1e8])).all()


def test_a_form_may_be_given_by_its_class() -> None:
    name = fit_law(LADDER, AP, forms="M2").predict([1e4])
    for forms in (M2, [M2], (M2(),)):
        np.testing.assert_array_equal(fit_law(LADDER, AP, forms=forms).predict([1e4]), name)
