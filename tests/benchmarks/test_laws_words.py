"""benchmarks/laws_words.py, in small."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import laws_words


def test_a_design_tells_straight_truths_from_bent_ones() -> None:
    found = laws_words.design(6, 3, 0.3, 20)
    assert found["straight"] <= 0.2
    assert found["bent"] == 1.0
    assert found["said"] == pytest.approx(1.0, abs=0.05)


def test_the_bent_truth_gains_two_thirds_in_the_first_half() -> None:
    found = laws_words.judged(3, 1, 0.0, bent=True, rng=np.random.default_rng(0))
    decades = np.log10(laws_words.HIGH / laws_words.LOW) / 2
    assert np.multiply(found.halves, decades) == pytest.approx([20 / 3, 10 / 3])


def test_learning_curves_of_independent_noise_are_seldom_contradicted() -> None:
    assert laws_words.learning_curves(0.0, 20) <= 0.2


def test_a_plain_difference_is_settled_and_shares_add_up() -> None:
    found = laws_words.comparisons(4, 3, 6.0, 2)
    assert found["settled"] == 1.0
    assert found["settled"] + found["named"] + found["open"] == 1.0
