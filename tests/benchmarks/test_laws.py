"""The benchmark's protocol, and its full protocol on a few real series."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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
