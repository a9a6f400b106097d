"""Forecast benchmark of the laws room against every published form, on public learning curves.

    python benchmarks/laws.py [--data benchmark.vision.dev.csv] [--repeats 6]

Protocols: "full" fits on all rows with Training == 1; "few" on 4, 5 and 6 log-spaced ones of their last two decades
with the benchmark's noise (0.018 of ln error) added. Both predict the rows with Training == 0. Error of a series: root
mean square of ln(predicted) - ln(true). Prints a table, then one line of JSON.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.published import PUBLISHED
from scaleprior.errors import UserError
from scaleprior.laws import fit_law, get_form
from scaleprior.laws.forms.form import Array, Form
from scaleprior.laws.solver import solve

NOISE = 0.018
FEW = (4, 5, 6)
BOOTSTRAP = 40
# published estimators whose form our solver can refit, for the residual bootstrap
REFITTED = {"power law": "power-law", "M3, robust": "M3", "BNSL": "broken"}


@dataclass(frozen=True)
class Task:
    """One series to forecast: training images and errors, test images and errors."""

    name: str
    x: Array
    y: Array
    x_test: Array
    y_test: Array


@dataclass
class Outcome:
    """Per task: error; for our laws, and the bootstrap, ln-residuals and half widths at the test points."""

    errors: list[float]
    residuals: list[Array]
    halves: list[Array]
    seconds: list[float]


def read_tasks(path: Path) -> list[Task]:
    """The series of a benchmark file, rows sorted by images."""
    rows: dict[str, list[tuple[float, float, bool]]] = {}
    with open(path, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            name = f"{row['Task']} {row['Model']}"
            rows.setdefault(name, []).append(
                (float(row["Seen Examples"]), float(row["Loss"]), float(row["Training"]) == 1)
            )
    tasks = []
    for name, values in rows.items():
        table = np.array(sorted(values, key=lambda v: v[0]))
        train = table[:, 2] == 1
        tasks.append(Task(name, table[train, 0], table[train, 1], table[~train, 0], table[~train, 1]))
    return tasks


def few_points(task: Task, count: int, rng: np.random.Generator) -> Task:
    """``count`` log-spaced training points of the last two decades, with noise."""
    wanted = np.linspace(max(np.log(task.x.min()), np.log(task.x.max() / 100.0)), np.log(task.x.max()), count)
    at = np.unique([int(np.abs(np.log(task.x) - w).argmin()) for w in wanted])
    y = np.clip(task.y[at] * np.exp(NOISE * rng.normal(size=at.size)), 1e-4, 0.999)
    return Task(task.name, task.x[at], y, task.x_test, task.y_test)


def rmsle(predicted: Array, true: Array) -> float:
    """Root mean square of the difference of logarithms; predictions are cut to [1e-4, 1]."""
    return float(np.sqrt(np.mean((np.log(np.clip(predicted, 1e-4, 1.0)) - np.log(true)) ** 2)))


def run_ours(tasks: list[Task]) -> Outcome:
    """fit_law with its defaults."""
    out = Outcome([], [], [], [])
    for task in tasks:
        started = time.perf_counter()
        law = fit_law(task.x, task.y, kind="error", unit="fraction")
        mean, low, high = law.predict(task.x_test)
        out.seconds.append(time.perf_counter() - started)
        out.errors.append(rmsle(mean, task.y_test))
        truth = np.log(task.y_test)
        # An interval need not be symmetric in ln e: half of it, on the side where the truth lies
        half = np.where(truth > np.log(mean), np.log(high) - np.log(mean), np.log(mean) - np.log(low))
        out.residuals.append(np.log(mean) - truth)
        out.halves.append(half)
    return out


def run_bootstrap(tasks: list[Task], form: Form) -> Outcome:
    """Residual bootstrap of one form: refits to resampled residuals, plus a resampled residual as noise."""
    out = Outcome([], [], [], [])
    rng = np.random.default_rng(0)
    for task in tasks:
        reference = np.log(task.x).mean()
        u, z, u_test = np.log(task.x) - reference, np.log(task.y), np.log(task.x_test) - reference
        theta, cost = solve(
            form, form.starts(u, task.y), u, z, np.ones_like(u), iterations=200, sigma=0.02, prior_weight=1e-6
        )
        best = theta[cost.argmin()]
        fitted = np.log(form.error(best, u))
        residual = (z - fitted) * np.sqrt(u.size / max(u.size - best.size, 1))
        copies = fitted + residual[rng.integers(residual.size, size=(BOOTSTRAP, u.size))]
        thetas, _ = solve(
            form,
            np.tile(best, (BOOTSTRAP, 1)),
            u,
            copies,
            np.ones_like(u),
            iterations=40,
            sigma=0.02,
            prior_weight=1e-6,
        )
        curves = np.log(np.clip(form.error(thetas, u_test), 1e-4, 1.0))
        middle = np.log(np.clip(form.error(best, u_test), 1e-4, 1.0))
        spread = np.sqrt(((curves - middle) ** 2).mean(0) + (residual**2).mean())
        out.errors.append(rmsle(np.exp(middle), task.y_test))
        out.residuals.append(middle - np.log(task.y_test))
        out.halves.append(1.645 * spread)
    return out


def coverage(out: Outcome, factor: float = 1.0) -> float:
    """Share of test points inside, averaged over series."""
    inside = [np.mean(np.abs(r) <= factor * h) for r, h in zip(out.residuals, out.halves)]
    return float(np.mean(inside))


def width(out: Outcome) -> float:
    """Mean half width in ln error, averaged over series."""
    return float(np.mean([h.mean() for h in out.halves]))


def width_at(out: Outcome, wanted: float) -> float:
    """Mean half width after scaling the intervals so that they cover ``wanted``."""
    low, high = 1e-3, 1e3
    for _ in range(60):
        middle = np.sqrt(low * high)
        low, high = (middle, high) if coverage(out, middle) < wanted else (low, middle)
    return float(high * width(out))


def protocol(name: str, tasks: list[Task]) -> dict[str, object]:
    """Run every estimator on one protocol's tasks, print its part of the table, return its figures."""
    errors: dict[str, np.ndarray] = {}
    print(
        f"\n{name}: {len(tasks)} tasks\n{'estimator':<14}{'mean':>8}{'median':>8}{'worst':>8}{'> last':>8}{'s/fit':>8}"
    )
    for label, method in PUBLISHED.items():
        started = time.perf_counter()
        predictors = method([t.x for t in tasks], [t.y for t in tasks])
        seconds = (time.perf_counter() - started) / len(tasks)
        errors[label] = np.array([rmsle(p(t.x_test), t.y_test) for p, t in zip(predictors, tasks)])
        print_row(label, errors[label], errors["last value"], seconds)
    ours = run_ours(tasks)
    mine = np.array(ours.errors)
    print_row("ScalePrior", mine, errors["last value"], float(np.mean(ours.seconds)))
    published = {label: float(v.mean()) for label, v in errors.items()}
    best = min(published, key=published.__getitem__)
    # a form with as many parameters as points leaves no residual to resample
    fewest = min(t.x.size for t in tasks)
    eligible = [label for label, form in REFITTED.items() if len(get_form(form).parameters) < fewest]
    best_refitted = min(eligible, key=published.__getitem__)
    boot = run_bootstrap(tasks, get_form(REFITTED[best_refitted]))
    covered, mean_width = coverage(ours), width(ours)
    boot_width = width_at(boot, covered)
    print(f"90 % intervals cover {covered:.3f}, mean half width {mean_width:.4f} of ln error")
    print(
        f"residual bootstrap of {best_refitted} covers {coverage(boot):.3f} at {width(boot):.4f}; "
        f"scaled to cover {covered:.3f}: {boot_width:.4f}"
    )
    return {
        "mean": float(mine.mean()),
        "median": float(np.median(mine)),
        "published_mean": published,
        "published_median": {label: float(np.median(v)) for label, v in errors.items()},
        "best_published": best,
        "gain_on_best_published": 1.0 - float(mine.mean()) / published[best],
        "share_worse_than_last": float(np.mean(mine > errors["last value"])),
        "coverage": covered,
        "half_width": mean_width,
        "bootstrap_half_width_at_equal_coverage": boot_width,
        "seconds_mean": float(np.mean(ours.seconds)),
        "seconds_max": float(np.max(ours.seconds)),
        "hindsight_best_published": float(np.min(list(errors.values()), axis=0).mean()),
    }


def print_row(label: str, errors: np.ndarray, last: np.ndarray, seconds: float) -> None:
    print(
        f"{label:<14}{errors.mean():>8.4f}{np.median(errors):>8.4f}{errors.max():>8.3f}"
        f"{np.mean(errors > last):>8.2f}{seconds:>8.3f}",
        flush=True,
    )


def judge(full: dict, few: dict[int, dict]) -> dict[str, dict[str, object]]:
    """The issue's targets: name -> {target, value, met}."""
    five = few[5]
    checks: list[tuple[str, str, float, Callable[[float], bool]]] = [
        ("full_mean", "<= 0.025", full["mean"], lambda v: v <= 0.025),
        (
            "full_median_over_best_baseline_median",
            "< 1",
            full["median"] / min(full["published_median"].values()),
            lambda v: v < 1,
        ),
        ("seconds_a_fit", "<= 0.5", full["seconds_mean"], lambda v: v <= 0.5),
        ("five_points_gain_on_best_published", ">= 0.15", five["gain_on_best_published"], lambda v: v >= 0.15),
        (
            "few_share_worse_than_last",
            "<= 0.25",
            max(r["share_worse_than_last"] for r in few.values()),
            lambda v: v <= 0.25,
        ),
        ("full_coverage", "0.85 to 0.95", full["coverage"], lambda v: 0.85 <= v <= 0.95),
        *((f"few_{k}_coverage", "0.85 to 0.95", r["coverage"], lambda v: 0.85 <= v <= 0.95) for k, r in few.items()),
        *(
            (
                f"{k}_width_over_bootstrap",
                "< 1",
                r["half_width"] / r["bootstrap_half_width_at_equal_coverage"],
                lambda v: v < 1,
            )
            for k, r in [("full", full), *((f"few_{k}", r) for k, r in few.items())]
        ),
    ]
    return {
        name: {"target": text, "value": round(value, 4), "met": bool(ok(value))} for name, text, value, ok in checks
    }


def commit() -> str:
    """The repository's commit, "unknown" outside one; "+" marks uncommitted changes."""
    here = Path(__file__).resolve().parent
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=here, capture_output=True, text=True, check=True).stdout.strip()
            for command in (("rev-parse", "--short", "HEAD"), ("status", "--porcelain"))
        )
        return head + ("+" if changes else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def main() -> None:
    root = os.environ.get("SCALEPRIOR_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data")
    default = Path(root) / "scaling_benchmark" / "benchmark.vision.dev.csv"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=default, help="benchmark CSV (default: the shared data folder's)")
    parser.add_argument("--repeats", type=int, default=6, help="noise draws per series in the few-point protocol")
    args = parser.parse_args()
    if not args.data.is_file():
        raise UserError(f"no benchmark file at {args.data}", hint="set SCALEPRIOR_TEST_DATA or give --data")
    tasks = read_tasks(args.data)
    started = time.perf_counter()
    full = protocol("full", tasks)
    few = {}
    for count in FEW:
        drawn = [
            few_points(task, count, np.random.default_rng([i, r, count]))
            for i, task in enumerate(tasks)
            for r in range(args.repeats)
        ]
        few[count] = protocol(f"{count} points", drawn)
    targets = judge(full, few)
    print("\ntargets")
    for name, row in targets.items():
        print(f"  {name:<40}{row['target']:>14}{row['value']:>10}  {'met' if row['met'] else 'NOT met'}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    figures = {"full": full, **{f"few_{k}": v for k, v in few.items()}}
    met = all(row["met"] for row in targets.values())
    print(json.dumps({"bench": "laws", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


if __name__ == "__main__":
    main()
