"""The change of a mean over seeds: by hand, by Student's own table, and by how often it claims what is not so."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy import stats

from scaleprior.errors import UserError
from scaleprior.laws import mean_change, pooled_spread
from scaleprior.laws.words import judged

FRACTIONS = [(4.0, 5.0), (6.0, 5.5), (7.0, 8.0), (8.0, 10.0)]


def test_a_change_by_hand() -> None:
    spread, dof = pooled_spread([*FRACTIONS, (3.0,), ()])
    # two runs that differ by d have d^2 / 2 of squared deviations: (1 + 0.25 + 1 + 4) / 2 / 4 = 0.78125
    assert (spread, dof) == (pytest.approx(math.sqrt(0.78125)), 4)
    found = mean_change((8.0, 10.0), (4.0, 5.0), spread=spread, dof=dof)
    assert (found.value, found.runs) == (4.5, (2, 2))
    assert found.error == pytest.approx(math.sqrt(0.78125))  # sqrt(1/2 + 1/2) is 1
    # Student's table, 4 degrees of freedom: 2.132 leaves 5 % on either side
    assert found.high - 4.5 == pytest.approx(2.132 * 0.88388, abs=1e-3)
    assert found.low + found.high == pytest.approx(9.0)
    # 4 degrees of freedom have a distribution in closed form: 1/2 + (3/8) (x - x^3 / 12), x = t / sqrt(1 + t^2 / 4)
    t = 4.5 / math.sqrt(0.78125)
    x = t / math.sqrt(1 + t * t / 4)
    assert found.probability == pytest.approx(0.5 + 0.375 * (x - x**3 / 12))
    uneven = mean_change((8.0, 10.0, 9.0), (4.5,), spread=spread, dof=dof)
    assert uneven.error == pytest.approx(math.sqrt(0.78125 * (1 / 3 + 1)))


def test_it_is_student_s_test_where_there_are_but_two_fractions() -> None:
    first, second = (9.1, 8.4, 9.9), (7.0, 8.8, 8.1)
    spread, dof = pooled_spread([first, second])
    found = mean_change(first, second, spread=spread, dof=dof, level=0.8)
    theirs = stats.ttest_ind(first, second, alternative="greater")  # (statistic, p-value)
    assert found.probability == pytest.approx(1.0 - float(np.asarray(theirs)[1]))
    both = stats.ttest_ind(first, second).confidence_interval(0.8)
    assert (found.low, found.high) == pytest.approx((both.low, both.high))
    mirrored = mean_change(second, first, spread=spread, dof=dof, level=0.8)
    assert (mirrored.value, mirrored.low, mirrored.probability) == pytest.approx(
        (-found.value, -found.high, 1.0 - found.probability)
    )


@pytest.mark.parametrize("fractions", [[(4.0,), (6.0,)], [(4.0, 4.0), (6.0, 6.0)]])
def test_without_a_spread_it_is_a_number(fractions: list[tuple[float, ...]]) -> None:
    spread, dof = pooled_spread(fractions)
    found = mean_change(fractions[1], fractions[0], spread=spread, dof=dof)
    assert found.value == 2.0
    assert not found.known
    assert all(math.isnan(v) for v in (found.low, found.high, found.error, found.probability))
    assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["low"] is None


@pytest.mark.parametrize(("scratch", "dof"), [(2, 4), (1, 3)])
@pytest.mark.parametrize("shared", [0.0, 0.5])
def test_gains_are_claimed_of_no_change_one_time_in_twenty(scratch: int, dof: int, shared: float) -> None:
    """From scratch and three rungs of two seeds, the quickstart's design; ``shared`` is how much seeds go the same way.

    Of 1,000 studies 5 % are 50, give or take 7 (binomial). "More than the standard deviation" was said in 19 to 24 %.
    """
    rng = np.random.default_rng(0)
    said = {"gains": 0, "loses": 0, "probably gains": 0}
    for _ in range(1000):
        ap = math.sqrt(shared) * rng.normal(size=(1, 2)) + math.sqrt(1 - shared) * rng.normal(size=(4, 2))
        zero, *rungs = (ap[0, :scratch], *ap[1:])
        spread, found_dof = pooled_spread([zero, *rungs])
        assert found_dof == dof
        word = judged(mean_change(rungs[-1], zero, spread=spread, dof=dof).probability)
        said[word] = said.get(word, 0) + 1
    assert said["gains"] <= 70
    assert said["loses"] <= 70
    if shared == 0:
        assert said["gains"] >= 30
        assert 110 < said["probably gains"] < 190  # 15 %
    else:  # the pooled error counts seeds that go the same way as noise: fewer claims, never more
        assert said["gains"] <= 45


def test_what_is_no_change_is_refused() -> None:
    with pytest.raises(UserError, match="a change between 0 and 1 runs"):
        mean_change([], [1.0], spread=1.0, dof=1)
    with pytest.raises(UserError, match=r"level 1\.5 is not inside"):
        mean_change([1.0], [1.0], spread=1.0, dof=1, level=1.5)
    with pytest.raises(UserError, match="a spread of -1 with 1 degrees of freedom"):
        mean_change([1.0], [1.0], spread=-1.0, dof=1)
