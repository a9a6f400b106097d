"""Which runs to buy next: those that shrink a forecast's interval most for their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scaleprior.errors import UserError
from scaleprior.laws.answers import Answers
from scaleprior.laws.forms.form import Array

__all__ = ["PlannedRun", "plan"]

# A run that takes less than this share of the variance at the target tells nothing, however little it costs: 3,000
# draws of unrelated laws correlate by a fiftieth, which is a share of 0.0004.
_WORTH = 0.01


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: ``images`` of a new measurement, its cost, the cost so far, and the forecast's interval after.

    ``half_width`` is half the law's interval (without a new measurement's noise) at the target, in the metric's unit.
    ``law`` is the name of another law, whose run it is; "" for the forecast's own.
    """

    images: float
    cost: float
    total_cost: float
    half_width: float
    law: str = ""


def plan(
    law: Answers,
    *,
    target: float,
    costs: Mapping[float, float],
    budget: float,
    most_runs: int = 20,
    others: Mapping[str, tuple[Answers, Mapping[float, float]]] | None = None,
) -> list[PlannedRun]:
    """Choose runs one by one, each the one that shrinks the interval at ``target`` most per unit of cost.

    What is not yet known of ln e is taken as a Gaussian process over the numbers of images, with the covariance of the
    law's own draws; a run at n is a measurement with the law's noise, and conditioning on it does not depend on its
    value, so the whole plan can be made before any run.

    Args:
        law: what is known now; also of an architecture that was not measured (:func:`scaleprior.laws.law_between`).
        target: images at which the forecast is to be sharper.
        costs: cost of one run (one seed) per number of images, > 0; the rungs to choose from.
        budget: the most the plan may cost, in the same unit.
        most_runs: the most runs to plan.
        others: name -> (law, costs of its runs): a run of a smaller network may tell as much for less. Only laws that
            were fitted together with ``law`` have joint draws with it.

    Returns:
        The runs in order, as long as the budget lasts and a run takes 1 % of what variance is left; empty if none
        does. ``images`` may repeat: another seed.

    Raises:
        UserError: a cost, the budget or a number of images that is not positive; a law that was fitted alone, or
            has no name.
    """
    others = dict(others or {})
    if "" in others:
        raise UserError("a law without a name in a plan", hint='"" stands for the law of the forecast')
    for name, (other, _) in others.items():
        if other.process is not law.process:
            raise UserError(
                f"law {name!r} was not fitted together with the law of the forecast, whose draws say nothing of it",
                hint="fit_table and fit_laws fit laws together",
            )
    candidates = [("", law, costs), *((name, other, its) for name, (other, its) in others.items())]
    names, rungs, prices = _runs(candidates)
    _check(rungs, prices, target, budget)
    drawn = np.column_stack([*(one.curves.at(np.array(sorted(its))) for _, one, its in candidates)])
    at_target = law.curves.at(np.array([target]))
    covariance = np.cov(np.column_stack([drawn, at_target]), rowvar=False)
    noise = np.array([one.raw_sigma**2 for _, one, its in candidates for _ in its])
    # of a metric m = scale e, dm = m d(ln e)
    unit = law.unit.scale * math.exp(float(law.log_error(np.array([target]))[0]))
    reach = unit * float(stats.norm.ppf(0.5 + law.level / 2.0))
    runs: list[PlannedRun] = []
    spent = 0.0
    while len(runs) < most_runs:
        variance = np.diag(covariance)[:-1] + noise
        drop = covariance[:-1, -1] ** 2 / variance
        worth = (spent + prices <= budget * (1 + 1e-9)) & (drop > _WORTH * covariance[-1, -1])
        if not worth.any():
            break
        best = int(np.argmax(np.where(worth, drop / prices, 0.0)))
        spent += float(prices[best])
        covariance = covariance - np.outer(covariance[:, best], covariance[best]) / variance[best]
        half = reach * math.sqrt(max(float(covariance[-1, -1]), 0.0))
        runs.append(PlannedRun(float(rungs[best]), float(prices[best]), spent, half, names[best]))
    return runs


def _runs(candidates: Sequence[tuple[str, Answers, Mapping[float, float]]]) -> tuple[list[str], Array, Array]:
    """(law, images, cost) of every run that may be bought, each [R]."""
    listed = [(name, n, costs[n]) for name, _, costs in candidates for n in sorted(costs)]
    return [name for name, _, _ in listed], np.array([n for _, n, _ in listed]), np.array([c for _, _, c in listed])


def _check(rungs: Array, prices: Array, target: float, budget: float) -> None:
    for name, values in (
        ("images", rungs),
        ("cost", prices),
        ("target", np.array([target])),
        ("budget", np.array([budget])),
    ):
        if values.size == 0 or not (np.isfinite(values).all() and (values > 0).all()):
            raise UserError(
                f"{name} in a plan must be positive numbers, got {values.tolist()}", hint="check the plan's input"
            )
