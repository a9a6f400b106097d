"""What would settle an open difference: by hand, by simulated studies that go on, and how rarely it is said of none."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from scaleprior.laws.settling import OpenDifference, Settling, settling, settling_words

THREE = np.array([32.0, 256.0, 2048.0])
FOUR = np.geomspace(32.0, 2048.0, 4)
MANY = 1e9  # degrees of freedom: Student's t is normal


def study(sizes: np.ndarray, runs: int, true: float, rng: np.random.Generator) -> OpenDifference:
    """Least squares' difference of two slopes, ``true`` in its standard deviations, with noise of 0.75 AP."""
    x = np.log10(sizes)
    variance = 2 * 0.75**2 / (runs * ((x - x.mean()) ** 2).sum())
    dof = 2 * (sizes.size * runs - 2)
    value = math.sqrt(variance) * (true + rng.normal())
    return OpenDifference(value, variance * rng.chisquare(dof) / dof, 0.0, dof)


def probability(d: OpenDifference) -> float:
    """That the sign is the estimate's, by Satterthwaite's degrees of freedom."""
    total = d.noise + d.other
    return float(stats.t.cdf(abs(d.value) / math.sqrt(total), d.dof * (total / d.noise) ** 2))


def test_degrees_of_freedom_by_hand() -> None:
    # the estimate of 80 % of studies with 3 degrees of freedom is settled at the quantile of 3
    t = stats.t(3)
    assert OpenDifference(0.1, 1.0, 0.0, 3).visible() == pytest.approx(t.ppf(0.95) + t.ppf(0.8))
    # half of the variance is known for sure: four times the degrees of freedom (Satterthwaite)
    t = stats.t(12)
    assert OpenDifference(0.1, 0.5, 0.5, 3).visible() == pytest.approx(t.ppf(0.95) + t.ppf(0.8))
    t = stats.norm
    assert OpenDifference(0.1, 0.0, 1.0, 3).visible() == pytest.approx(t.ppf(0.95) + t.ppf(0.8))


def test_chance_after_more_runs_by_hand() -> None:
    # twice the runs: settled if the estimate is above 1.645 sqrt(1/2), and it moves by sqrt(1/2)
    found = OpenDifference(1.5, 1.0, 0.0, MANY).chance(0.5, 0.0)
    assert found == pytest.approx(stats.norm.cdf((1.5 - 1.6449 * math.sqrt(0.5)) / math.sqrt(0.5)), abs=1e-4)
    # without end the estimate becomes the truth: what is left is today's probability of the sign
    assert OpenDifference(1.5, 1.0, 0.0, MANY).chance(1e-12, 0.0) == pytest.approx(stats.norm.cdf(1.5), abs=1e-4)
    # what the forms disagree on stays
    assert OpenDifference(1.5, 0.5, 0.5, MANY).chance(1e-12, 0.0) == pytest.approx(
        stats.norm.cdf((1.5 - 1.6449 * math.sqrt(0.5)) / math.sqrt(0.5)), abs=1e-4
    )


def test_visible_difference_by_hand() -> None:
    # 80 % of estimates around 1.6449 + 0.8416 are above 1.6449
    assert OpenDifference(0.1, 4.0, 0.0, MANY).visible() == pytest.approx(2 * (1.6449 + 0.8416), abs=1e-3)
    assert OpenDifference(0.1, 4.0, 0.0, MANY).visible(0.25) == pytest.approx(1.6449 + 0.8416, abs=1e-3)
    # a quarter of the variance: three times as many seeds again; the degrees of freedom help a little
    assert settling(OpenDifference(0.1, 4.0, 0.0, MANY), THREE, 2).seeds_for_half == 6
    assert settling(OpenDifference(0.1, 4.0, 4.0, MANY), THREE, 2).seeds_for_half is None


def test_rungs_shrink_the_variance_as_in_a_regression() -> None:
    # spread of 0, 1, 2 is 2, of 0 to 3 is 5, of 0 to 4 is 10: what is left is 0.4 and 0.2
    d = OpenDifference(1.45, 1.0, 0.0, MANY)
    chances = [d.chance(share, 0.0) for share in (0.4, 0.2)]
    assert chances[0] < 0.75 < chances[1]
    assert settling(d, THREE, 2).rungs == 2
    # two runs on either new rung of two ladders: 4 more degrees of freedom each; without them the chance is 0.60
    few = OpenDifference(1.55, 1.0, 0.0, 2)
    assert few.chance(0.2, 0.0) == pytest.approx(0.595, abs=0.001)
    assert few.chance(0.2, 8.0) == pytest.approx(0.752, abs=0.001)
    assert settling(few, THREE, 2).rungs == 2


@pytest.mark.parametrize(("sizes", "runs"), [(THREE, 2), (FOUR, 3)])
def test_named_seeds_settle_it_as_often_as_is_said(sizes: np.ndarray, runs: int) -> None:
    """Studies whose truths may be anything: those that name k seeds go on with k more, of the same truth."""
    rng = np.random.default_rng(runs)
    x = np.log10(sizes)
    spread = ((x - x.mean()) ** 2).sum()
    kept = []
    for _ in range(1500):
        variance = 2 * 0.75**2 / (runs * spread)
        true = 5.0 * (rng.random() - 0.5)
        dof = 2 * (sizes.size * runs - 2)
        value, noise = true + math.sqrt(variance) * rng.normal(), variance * rng.chisquare(dof) / dof
        if probability(OpenDifference(value, noise, 0.0, dof)) >= 0.95:
            continue
        k = settling(OpenDifference(value, noise, 0.0, dof), sizes, runs).seeds
        if k is None:
            continue
        added = true + math.sqrt(variance * runs / k) * rng.normal()
        after = (runs * value + k * added) / (runs + k)
        more = dof + 2 * sizes.size * k
        pooled = (noise * dof + variance * rng.chisquare(more - dof)) / more * runs / (runs + k)
        settled = probability(OpenDifference(after, pooled, 0.0, more)) >= 0.95
        kept.append(settled and after * value > 0)
    # named are the smallest numbers with a chance of 0.75, so that it is a little above; binomial(n, 0.75)
    assert len(kept) > 60
    assert np.mean(kept) == pytest.approx(0.77, abs=3 * math.sqrt(0.19 / len(kept)))


@pytest.mark.parametrize(("sizes", "runs"), [(THREE, 2), (FOUR, 3)])
def test_runs_are_seldom_named_where_there_is_no_difference(sizes: np.ndarray, runs: int) -> None:
    rng = np.random.default_rng(runs)
    named = {}
    for true in (0.0, 2.5):
        drawn = [study(sizes, runs, true, rng) for _ in range(300)]
        unsettled = [d for d in drawn if probability(d) < 0.95]
        found = [settling(d, sizes, runs) for d in unsettled]
        named[true] = np.array([s.seeds is not None or s.rungs is not None for s in found])
    # of all identical truths about a tenth (binomial(300, 0.12) is above 50 with 1 %); it was 62 %
    assert named[0.0].sum() <= 50
    # of those that differ and are open a share twice as large and more
    assert named[2.5].mean() > 2 * named[0.0].mean()


def test_runs_are_named_only_where_the_sign_is_likely() -> None:
    for runs, dof, other in itertools.product((1, 2, 8), (1.0, 2.0, 30.0), (0.0, 1.0)):
        for value in np.linspace(0.0, 3.0, 25):
            d = OpenDifference(float(value), 1.0, other, dof)
            if probability(d) < 0.80:
                found = settling(d, THREE, runs)
                assert (found.seeds, found.rungs) == (None, None), d


def test_no_noise_and_no_difference_are_no_error() -> None:
    for value in (0.0, 1.0):
        found = settling(OpenDifference(value, 0.0, 1.0, 4), THREE, 2)
        assert (found.seeds, found.rungs, found.seeds_for_half) == (None, None, None)
    assert settling(OpenDifference(0.0, 1.0, 0.0, 4), THREE, 2).seeds is None
    assert settling(OpenDifference(0.0, 0.0, 0.0, 4), THREE, 1).visible == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            Settling(1, 2, 1.4, 5),
            "1 more seed for every fraction of both or 2 more rungs at the top of both ladders would settle it with a "
            "chance of about 3 in 4",
        ),
        (
            Settling(None, 1, 1.4, 5),
            "1 more rung at the top of both ladders would settle it with a chance of about 3 in 4",
        ),
        (
            Settling(None, None, 1.386, 5),
            "a difference of 1.39 would have been seen in 4 of 5 such studies; to see one half as large takes 5 more "
            "seeds for every fraction of both",
        ),
        (
            Settling(None, None, 1.386, None),
            "a difference of 1.39 would have been seen in 4 of 5 such studies; to see one half as large, seeds alone "
            "do not do",
        ),
    ],
)
def test_words(found: Settling, words: str) -> None:
    assert settling_words(found, 2) == words
