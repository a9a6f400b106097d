"""The long tail against values derived by hand and an independent, slower definition."""

from __future__ import annotations

import numpy as np
import pytest

from scaleprior.corpus.views.long_tail import measure_tail


def test_four_labels_by_hand() -> None:
    """p = 1/2, 1/4, 1/8, 1/8: entropy 1.75 ln 2. Gini: 2 (1*1 + 2*1 + 3*2 + 4*4) / (4 * 8) - 5/4 = 0.3125."""
    tail = measure_tail(np.array([2, 0, 4, 1, 1]))
    assert tail.labels == 4
    assert tail.effective == pytest.approx(2**1.75)
    assert tail.gini == pytest.approx(0.3125)
    assert tail.top == {0.01: 0.5, 0.1: 0.5, 0.5: 0.75}  # one label, one label, two labels
    assert tail.below == {10: 4, 100: 4}


def test_limits_are_strict() -> None:
    assert measure_tail(np.array([9, 10, 99, 100])).below == {10: 1, 100: 3}


def test_equal_labels_have_no_tail() -> None:
    tail = measure_tail(np.full(200, 89))
    assert (tail.effective, tail.gini) == (pytest.approx(200), 0.0)
    assert tail.top == pytest.approx({0.01: 0.01, 0.1: 0.1, 0.5: 0.5})


def test_gini_is_half_the_relative_mean_absolute_difference() -> None:
    x = np.random.default_rng(0).zipf(1.7, 300)
    differences = np.abs(x[:, None] - x[None, :]).mean()
    assert measure_tail(x).gini == pytest.approx(differences / (2 * x.mean()))


def test_no_label_at_all() -> None:
    assert measure_tail(np.zeros(3, dtype=int)).to_dict() == {
        "labels": 0,
        "effective": 0.0,
        "gini": 0.0,
        "top": {"1%": 0.0, "10%": 0.0, "50%": 0.0},
        "below": {"10": 0, "100": 0},
    }
