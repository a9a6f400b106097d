"""Forecast benchmark of the laws room against every single form, published and ours, on public learning curves.

    python benchmarks/laws.py [--data benchmark.vision.dev.csv] [--repeats 6]

Protocols: "full" fits on all rows with Training == 1; "few" on 4, 5 and 6 log-spaced ones of their last two decades
with the benchmark's noise (0.018 of ln error) added. Both predict the rows with Training == 0. Error of a series: root
mean square of ln(predicted) - ln(true). "our X" is form X as ``fit_law`` fits it, alone (n^4: its late points count).

"Five rungs" cuts the curves at a tenth of their largest size, so that what lies 3 and 10 times beyond is on record, and
fits 5 log-spaced points, each with noise of two seeds. What is on record is itself measured: the truth is taken to be
a line through the four nearest points, so these coverages are too low by what that line errs, and have no target.

Prints tables, then one line of JSON. Seconds are those of a processor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from benchmarks.published import PUBLISHED
from benchmarks.simulated import Ladder
from benchmarks.study_answers import OF_ONE, Answer, asked
from scaleprior.errors import UserError
from scaleprior.laws import fit_law, get_form
from scaleprior.laws.forms.form import Array, Form
from scaleprior.laws.solver import solve

NOISE = 0.018
FEW = (4, 5, 6)
BOOTSTRAP = 40
RUNGS, SEEDS = 5, 2  # of ladders cut from real curves
CUT = 10.0  # how far the record goes beyond them
NEAREST = 4
LEVEL = 0.9
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
    """Per task: error; for our laws, and the bootstrap, ln-residuals and half widths at the test points.

    For our laws also: label of a form fitted alone -> its errors, of the tasks that it was fitted to.
    """

    errors: list[float] = field(default_factory=list)
    residuals: list[Array] = field(default_factory=list)
    halves: list[Array] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    singles: dict[str, list[float]] = field(default_factory=dict)


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
    out = Outcome()
    for task in tasks:
        started = time.process_time()
        law = fit_law(task.x, task.y, kind="error", unit="fraction")
        mean, low, high = law.predict(task.x_test)
        out.seconds.append(time.process_time() - started)
        out.errors.append(rmsle(mean, task.y_test))
        truth = np.log(task.y_test)
        # An interval need not be symmetric in ln e: half of it, on the side where the truth lies
        half = np.where(truth > np.log(mean), np.log(high) - np.log(mean), np.log(mean) - np.log(low))
        out.residuals.append(np.log(mean) - truth)
        out.halves.append(half)
        for candidate, curve in zip(law.candidates, law.form_curves(task.x_test)):
            label = f"our {candidate.form.name}" + (f" n^{candidate.power:g}" if candidate.power else "")
            out.singles.setdefault(label, []).append(rmsle(np.exp(curve), task.y_test))
    return out


def cut_ladder(task: Task, rng: np.random.Generator) -> Ladder | None:
    """RUNGS points of a series' curve up to a CUT-th of its largest size, SEEDS times with noise; None of too few.

    Errors become scores in percent. Its truth is the curve itself: of ln error a line through the NEAREST points.
    """
    x, y = np.concatenate([task.x, task.x_test]), np.concatenate([task.y, task.y_test])
    low = x <= x.max() / CUT
    if np.unique(x[low]).size < 2 * RUNGS:
        return None
    runs = [few_points(Task(task.name, x[low], y[low], x, y), RUNGS, rng) for _ in range(SEEDS)]
    first = float(runs[0].x.min())

    def truth(decades: Array) -> Array:
        apart = np.log(x) - np.log(first * 10.0 ** np.asarray(decades))[..., None]
        nearest = np.argsort(np.abs(apart), axis=-1)[..., :NEAREST]
        u, z = np.take_along_axis(apart, nearest, -1), np.log(y[nearest])
        middle = u.mean(-1, keepdims=True)
        slope = ((u - middle) * z).sum(-1) / ((u - middle) ** 2).sum(-1)
        return 100.0 * (1.0 - np.exp(z.mean(-1) - slope * middle[..., 0]))

    seeds = [seed for seed, run in enumerate(runs) for _ in run.x]
    scores = [100.0 * (1.0 - run.y) for run in runs]
    return Ladder(np.concatenate([run.x for run in runs]), np.concatenate(scores), seeds, truth)


def five_rungs(tasks: list[Task], repeats: int) -> dict[str, dict[str, float]]:
    """Coverage, mean width, interval score and error of the centre of what is asked of ladders cut from real curves."""
    said: dict[str, list[Answer]] = {}
    for i, task in enumerate(tasks):
        for r in range(repeats):
            if (ladder := cut_ladder(task, np.random.default_rng([i, r, RUNGS, 1]))) is None:
                continue
            law = fit_law(ladder.n, ladder.metric, groups=ladder.seeds, unit="percent", level=LEVEL)
            for quantity, truth, estimate in asked(law, ladder, np.zeros(2)):
                one = Answer("real", i, SEEDS, True, False, quantity, truth, estimate)
                said.setdefault(quantity, []).append(one)
    found = {}
    for quantity in OF_ONE if said else ():
        of = said[quantity]
        errors = np.array([a.estimate.value - a.truth for a in of])
        found[quantity] = {
            "coverage": float(np.mean([a.covered for a in of])),
            "width": float(np.mean([a.width for a in of])),
            "score": float(np.mean([a.score for a in of])),
            "centre": float(np.sqrt(np.mean(errors**2))),
        }
    count, series = (len(said["3x"]), len({a.study for a in said["3x"]})) if said else (0, 0)
    print(f"\nfive rungs: {count} ladders cut from {series} series, score in percent")
    print(f"{'asked':<18}{'coverage':>9}{'width':>8}{'score':>8}{'centre':>8}")
    for quantity, row in found.items():
        print("{:<18}{coverage:>9.3f}{width:>8.2f}{score:>8.2f}{centre:>8.3f}".format(quantity, **row), flush=True)
    return found


def run_bootstrap(tasks: list[Task], form: Form) -> Outcome:
    """Residual bootstrap of one form: refits to resampled residuals, plus a resampled residual as noise."""
    out = Outcome()
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
        f"\n{name}: {len(tasks)} tasks\n{'estimator':<18}{'mean':>8}{'median':>8}{'worst':>8}{'> last':>8}{'s/fit':>8}"
    )
    for label, method in PUBLISHED.items():
        started = time.process_time()
        predictors = method([t.x for t in tasks], [t.y for t in tasks])
        seconds = (time.process_time() - started) / len(tasks)
        errors[label] = np.array([rmsle(p(t.x_test), t.y_test) for p, t in zip(predictors, tasks)])
        print_row(label, errors[label], errors["last value"], seconds)
    ours = run_ours(tasks)
    mine = np.array(ours.errors)
    print_row("ScalePrior", mine, errors["last value"], float(np.mean(ours.seconds)))
    published = {label: float(v.mean()) for label, v in errors.items()}
    best = min(published, key=published.__getitem__)
    # a late weighting is fitted to dense series alone; what was not fitted to every task is not compared
    alone = {label: np.array(v) for label, v in ours.singles.items() if len(v) == len(tasks)}
    for label, of_form in alone.items():
        print_row(label, of_form, errors["last value"], float("nan"))
    single = {**published, **{label: float(v.mean()) for label, v in alone.items()}}
    best_single = min(single, key=single.__getitem__)
    # a form with as many parameters as points leaves no residual to resample
    fewest = min(t.x.size for t in tasks)
    eligible = [label for label, form in REFITTED.items() if len(get_form(form).parameters) < fewest]
    best_refitted = min(eligible, key=published.__getitem__)
    boot = run_bootstrap(tasks, get_form(REFITTED[best_refitted]))
    covered, mean_width, scaled = coverage(ours), width(ours), width_at(ours, LEVEL)
    boot_width = width_at(boot, covered)
    print(
        f"90 % intervals cover {covered:.3f}, mean half width {mean_width:.4f} of ln error; "
        f"scaled to cover {LEVEL:.3f}: {scaled:.4f}"
    )
    print(f"best single form: {best_single}, {single[best_single]:.4f}")
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
        "single_mean": single,
        "best_single": best_single,
        "gain_on_best_single": 1.0 - float(mine.mean()) / single[best_single],
        "share_worse_than_last": float(np.mean(mine > errors["last value"])),
        "coverage": covered,
        "half_width": mean_width,
        "half_width_scaled_to_0.90": scaled,
        "bootstrap_half_width_at_equal_coverage": boot_width,
        "seconds_mean": float(np.mean(ours.seconds)),
        "seconds_max": float(np.max(ours.seconds)),
        "hindsight_best_published": float(np.min(list(errors.values()), axis=0).mean()),
    }


def print_row(label: str, errors: np.ndarray, last: np.ndarray, seconds: float) -> None:
    print(
        f"{label:<18}{errors.mean():>8.4f}{np.median(errors):>8.4f}{errors.max():>8.3f}"
        f"{np.mean(errors > last):>8.2f}{seconds:>8.3f}",
        flush=True,
    )


def judge(full: dict, few: dict[int, dict]) -> dict[str, dict[str, object]]:
    """The targets: name -> {target, value, met}. Values are judged as they are printed, to four digits."""
    every = [("full", full), *((f"few_{k}", r) for k, r in few.items())]
    worse = max(r["share_worse_than_last"] for r in few.values())
    over_median = full["median"] / min(full["published_median"].values())
    checks: list[tuple[str, str, float, Callable[[float], bool]]] = [
        ("full_mean", "<= 0.0246", full["mean"], lambda v: v <= 0.0246),
        ("five_points_mean", "<= 0.0314", few[5]["mean"], lambda v: v <= 0.0314),
        ("full_median_over_best_baseline_median", "< 1", over_median, lambda v: v < 1),
        *(
            (f"few_{k}_gain_on_best_published", ">= 0.15", r["gain_on_best_published"], lambda v: v >= 0.15)
            for k, r in few.items()
        ),
        ("few_share_worse_than_last", "<= 0.25", worse, lambda v: v <= 0.25),
        *((f"{k}_coverage", "0.86 to 0.95", r["coverage"], lambda v: 0.86 <= v <= 0.95) for k, r in every),
        *(
            (
                f"{k}_width_over_bootstrap",
                "< 1",
                r["half_width"] / r["bootstrap_half_width_at_equal_coverage"],
                lambda v: v < 1,
            )
            for k, r in every
        ),
        ("seconds_a_fit", "<= 0.2", max(r["seconds_mean"] for _, r in every), lambda v: v <= 0.2),
    ]
    rounded = [(name, text, round(value, 4), ok) for name, text, value, ok in checks]
    return {name: {"target": text, "value": value, "met": bool(ok(value))} for name, text, value, ok in rounded}


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
    real = five_rungs(tasks, args.repeats)
    targets = judge(full, few)
    print("\ntargets")
    for name, row in targets.items():
        print(f"  {name:<40}{row['target']:>14}{row['value']:>10}  {'met' if row['met'] else 'NOT met'}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    figures = {"full": full, **{f"few_{k}": v for k, v in few.items()}, "five_rungs": real}
    met = all(row["met"] for row in targets.values())
    print(json.dumps({"bench": "laws", "figures": figures, "targets": targets, "met": met, "commit": commit()}))


if __name__ == "__main__":
    main()
