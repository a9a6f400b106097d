"""The benchmark's protocol, and its full protocol on a few real series."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from scaleprior.laws import CALIBRATED, fit_law

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmarks_laws", REPO / "benchmarks" / "laws.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_few_points_are_log_spaced_over_the_last_two_decades(bench: ModuleType) -> None:
    x = np.geomspace(1e3, 1e7, 81)  # 20 a decade
    task = bench.Task("t", x, x**-0.1, np.array([2e7]), np.array([0.2]))
    few = bench.few_points(task, 5, np.random.default_rng(0))
    np.testing.assert_allclose(few.x, np.geomspace(1e5, 1e7, 5))
    noise = np.log(few.y / few.x**-0.1)
    assert 0 < np.abs(noise).max() < 5 * bench.NOISE


def test_error_is_the_root_mean_square_of_log_ratios(bench: ModuleType) -> None:
    # ln(0.2 / 0.1) and ln(0.1 / 0.1): sqrt((ln 2)^2 / 2)
    assert bench.rmsle(np.array([0.2, 0.1]), np.array([0.1, 0.1])) == pytest.approx(np.log(2) / np.sqrt(2))


def test_width_at_equal_coverage_scales_the_intervals(bench: ModuleType) -> None:
    out = bench.Outcome([], [np.array([1.0, 2.0, 3.0, 4.0])], [np.ones(4)], [])
    assert bench.coverage(out) == 0.25
    assert bench.width_at(out, 0.75) == pytest.approx(3.0, rel=1e-6)


def test_forecasts_of_real_curves_beat_the_last_value(bench: ModuleType, shared_data: Path) -> None:
    path = shared_data / "scaling_benchmark" / "benchmark.vision.dev.csv"
    if not path.is_file():
        pytest.skip(f"no {path}")
    tasks = bench.read_tasks(path)
    assert len(tasks) == 36
    assert all((np.diff(t.x) >= 0).all() for t in tasks)
    some = tasks[::6]
    last = [bench.rmsle(np.full(t.x_test.size, t.y[-1]), t.y_test) for t in some]
    mine = bench.run_ours(some).errors
    assert np.mean(mine) < 0.7 * np.mean(last)


def test_single_forms_are_what_fit_law_makes_of_them_alone(bench: ModuleType) -> None:
    x = np.geomspace(1e3, 1e5, 6)
    task = bench.few_points(bench.Task("t", x, 0.2 + x**-0.2, 1e5 * np.array([2.0, 4.0]), np.array([0.3, 0.28])), 6,
                            np.random.default_rng(0))  # fmt: skip
    singles = bench.run_ours([task]).singles
    assert sorted(singles) == sorted(f"our {form.name}" for form in CALIBRATED)
    alone, _, _ = fit_law(task.x, task.y, kind="error", unit="fraction", forms="M3").predict(task.x_test)
    # a law is straight between the points of a grid, a form is not
    assert singles["our M3"] == pytest.approx([bench.rmsle(alone, task.y_test)], rel=1e-3)


def test_a_cut_ladder_leaves_a_decade_of_its_curve_beyond(bench: ModuleType) -> None:
    x, x_test = np.geomspace(1e3, 1e6, 61), np.geomspace(1.1e6, 1e7, 21)
    task = bench.Task("t", x, x**-0.1, x_test, x_test**-0.1)
    ladder = bench.cut_ladder(task, np.random.default_rng(0))
    assert np.unique(ladder.n) == pytest.approx(np.geomspace(1e4, 1e6, 5))
    assert (ladder.n.size, ladder.seeds) == (10, [0] * 5 + [1] * 5)
    n = np.array([3e4, 1e6, 1e7])
    assert ladder.at(n) == pytest.approx(100.0 * (1.0 - n**-0.1))  # a line in logarithms, as is a power law
    noise = np.log(1.0 - ladder.metric / 100.0) + 0.1 * np.log(ladder.n)
    assert 0.3 * bench.NOISE < noise.std() < 2.0 * bench.NOISE
    assert bench.cut_ladder(bench.Task("t", x[::8], x[::8] ** -0.1, x_test, x_test**-0.1), None) is None


def test_targets_are_judged_as_they_are_printed(bench: ModuleType) -> None:
    row = {
        "mean": 0.02464, "median": 0.02, "published_median": {"M4": 0.03}, "seconds_mean": 0.1, "coverage": 0.9,
        "share_worse_than_last": 0.1, "gain_on_best_single": 0.2, "gain_on_best_published": 0.2, "half_width": 0.04,
        "bootstrap_half_width_at_equal_coverage": 0.06,
    }  # fmt: skip
    targets = bench.judge(row, dict.fromkeys((4, 5, 6), row))
    assert all(one["met"] for one in targets.values())
    assert {one["value"] for name, one in targets.items() if name.endswith("_mean")} == {0.0246}
    slow = bench.judge(row, {4: row, 5: row, 6: {**row, "seconds_mean": 0.3, "gain_on_best_published": 0.14}})
    assert [name for name, one in slow.items() if not one["met"]] == ["few_6_gain_on_best_published", "seconds_a_fit"]
