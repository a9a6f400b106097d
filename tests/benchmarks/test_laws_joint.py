"""benchmarks/laws_joint.py, in small."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import laws_joint


@pytest.mark.parametrize("family", laws_joint.FAMILIES)
def test_architectures_of_a_study_begin_at_one_level_and_differ_by_the_family(family: str) -> None:
    rng = np.random.default_rng(0)
    added = np.array([laws_joint.over_capacity(family, 6.0, rng) for _ in range(2000)])
    assert (added[:, 0] == 0).all()
    line = added[:, [2]] * laws_joint.U
    bend = np.abs(added - line)[:, 1].mean()
    assert bend > 0.1
    assert (family != "smooth") or (np.diff(added, axis=1) >= 0).all()


def test_a_curve_has_its_level_and_its_gain() -> None:
    found = laws_joint.curve(20.0, 6.0, 0.7)(np.array([1e4, 1e5, 1e6]))
    assert found[[0, 2]] == pytest.approx([20.0, 26.0])
    assert found[1] > 23.0


def test_the_left_out_architecture_is_held_and_less_certain() -> None:
    found = laws_joint.between("smooth", 3)
    assert found["top"] == found["three_times"] == 1.0
    assert found["width_over_measured"] > 1.5


def test_plans_keep_what_they_promise() -> None:
    found = laws_joint.planned(5)
    assert found["planned_over_before"] < 0.9
    assert found["actual_over_planned"] == pytest.approx(1.0, abs=0.25)
