"""What laws that are fitted together say of a third architecture, and of runs that are yet to be made.

    python benchmarks/laws_joint.py            # two minutes on one core
    python benchmarks/laws_joint.py --studies 20

Between: R-50 and R-152 are measured (five fractions from 1e4 to 1e6 images, two seeds, noise of 0.3 to 1 AP), R-101 is
left out. How often do the 90 % intervals of its law hold its truth, at the largest fraction, at three times as many
images and for the gain of the last decade, and how wide are they beside those of the measured ones? Gains decay
exponentially; level and gain depend on u, the place between the two in log(parameters), as a power of u (smooth), as a
parabola (hump), or as a random walk of 4 AP (irregular).

Plan: runs are planned for R-152 at three times its largest fraction, its own or those of R-50 at a tenth of the cost,
and then made. How wide is the interval before, as planned, and after?
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.commit import commit
from scaleprior.laws import fit_laws, law_between, plan
from scaleprior.laws.answers import Answers
from scaleprior.laws.capacities import PARAMETERS

FAMILIES = ("smooth", "hump", "irregular")
MEASURED, LEFT_OUT = ("R-50", "R-152"), "R-101"
SIZES = np.geomspace(1e4, 1e6, 5)
PLACES = np.log([PARAMETERS[name] for name in (MEASURED[0], LEFT_OUT, MEASURED[1])])
U = (PLACES - PLACES[0]) / (PLACES[2] - PLACES[0])

Curve = Callable[[np.ndarray], np.ndarray]


def curve(level: float, gain: float, decay: float) -> Curve:
    """AP at n images: ``level`` at 1e4, ``gain`` more at 1e6, the gain decaying at ``decay`` per decade."""
    return lambda n: level + gain * -np.expm1(-decay * np.log10(n / 1e4)) / -np.expm1(-2.0 * decay)


def over_capacity(family: str, size: float, rng: np.random.Generator) -> np.ndarray:
    """How much is added at each place of :data:`U`: 0 at the first, of the order of ``size`` at the last."""
    if family == "smooth":
        return size * rng.uniform() * U ** np.exp(rng.uniform(-0.7, 0.7))
    if family == "hump":
        return size * (rng.uniform(-0.5, 1.0) * U + rng.uniform(-1.0, 1.0) * U * (1.0 - U))
    return size * 2.0 / 3.0 * np.cumsum(np.append(0.0, rng.normal(size=2) * np.sqrt(np.diff(U))))


def study(family: str, rng: np.random.Generator) -> tuple[list[Curve], float]:
    """The truths at :data:`U`, and the noise."""
    levels = rng.uniform(15.0, 35.0) + over_capacity(family, 6.0, rng)
    gains = rng.uniform(2.0, 12.0) * (1.0 + over_capacity(family, 0.5, rng))
    decay = float(np.exp(rng.uniform(np.log(0.1), np.log(1.5))))
    return [curve(level, gain, decay) for level, gain in zip(levels, gains)], rng.uniform(0.3, 1.0)


def measure(truth: Curve, sizes: np.ndarray, noise: float, rng: np.random.Generator) -> tuple[list, list, list]:
    """(images, AP, seeds) of two runs at each size."""
    n = np.repeat(sizes, 2)
    return n.tolist(), (truth(n) + noise * rng.normal(size=n.size)).tolist(), [0, 1] * sizes.size


def half_width(law: Answers, n: float) -> float:
    _, low, high = law.predict(n, noise=False)
    return float(high - low) / 2.0


def between(family: str, studies: int) -> dict[str, float | str]:
    """Coverage of the left-out architecture, and how wide its interval is beside the measured ones'."""
    rng = np.random.default_rng([5, FAMILIES.index(family)])
    top = SIZES[-1]
    held, ratios, errors = [], [], []
    for _ in range(studies):
        truths, noise = study(family, rng)
        ladders = {name: measure(truth, SIZES, noise, rng) for name, truth in zip(MEASURED, truths[::2])}
        laws = fit_laws(ladders, unit="percent")
        found = law_between(laws, {name: PARAMETERS[name] for name in MEASURED}, PARAMETERS[LEFT_OUT])
        true = truths[1](np.array([top, 3.0 * top, top / 10.0]))
        mean, low, high = found.predict([top, 3.0 * top], noise=False)
        gain = found.per_decade
        held.append([*((low < true[:2]) & (true[:2] < high)), gain.low < true[0] - true[2] < gain.high])
        ratios.append(half_width(found, top) / max(half_width(law, top) for law in laws.values()))
        errors.append(abs(mean[0] - true[0]))
    top_held, far_held, gain_held = np.mean(held, axis=0)
    return {
        "family": family, "studies": studies, "top": top_held, "three_times": far_held, "per_decade": gain_held,
        "width_over_measured": float(np.median(ratios)), "error": float(np.mean(errors)),
    }  # fmt: skip


def planned(studies: int) -> dict[str, float]:
    """Median half widths at three times the largest fraction: planned over before, and actual over planned."""
    rng = np.random.default_rng(6)
    sizes, target = SIZES[:-1], 3.0 * SIZES[-2]
    before, promised, kept, lent = [], [], [], []
    for _ in range(studies):
        truths, noise = study("smooth", rng)
        ladders = {name: measure(truth, sizes, noise, rng) for name, truth in zip(MEASURED, truths[::2])}
        laws = fit_laws(ladders, unit="percent")
        costs = {n: n / sizes[-1] for n in (*sizes[1:], target)}
        others = {MEASURED[0]: (laws[MEASURED[0]], {n: cost / 10.0 for n, cost in costs.items()})}
        runs = plan(laws[MEASURED[1]], target=target, costs=costs, budget=5.0, others=others, most_runs=4)
        if not runs:
            continue
        for i, run in enumerate(runs):
            name = run.law or MEASURED[1]
            truth = dict(zip(MEASURED, truths[::2]))[name]
            images, ap, seeds = ladders[name]
            images.append(run.images)
            ap.append(float(truth(np.array([run.images]))[0] + noise * rng.normal()))
            seeds.append(100 + i)
        before.append(half_width(laws[MEASURED[1]], target))
        promised.append(runs[-1].half_width)
        kept.append(half_width(fit_laws(ladders, unit="percent")[MEASURED[1]], target))
        lent.append(sum(run.law == MEASURED[0] for run in runs) / len(runs))
    return {
        "studies": len(before), "planned_over_before": float(np.median(np.divide(promised, before))),
        "actual_over_planned": float(np.median(np.divide(kept, promised))), "runs_of_the_other": float(np.mean(lent)),
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=100, help="of each family, and of plans (default: 100)")
    studies = parser.parse_args().studies
    print("| over capacity | top | 3x | per decade | width over the measured | error |\n|" + " --- |" * 6)
    rows = [between(family, studies) for family in FAMILIES]
    for row in rows:
        print(
            "| {family} | {top:.2f} | {three_times:.2f} | {per_decade:.2f} | {width_over_measured:.1f} | "
            "{error:.2f} AP |".format(**row)
        )
    plans = planned(studies)
    print(
        "plans: half width planned over before {planned_over_before:.2f}, actual over planned {actual_over_planned:.2f}"
        " (medians of {studies}); share of runs of the other architecture {runs_of_the_other:.2f}".format(**plans)
    )
    print(json.dumps({"bench": "laws_joint", "between": rows, "plan": plans, "commit": commit()}))


if __name__ == "__main__":
    main()
