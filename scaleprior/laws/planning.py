"""Which runs to buy next: those that shrink a forecast's interval most for their cost."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from scaleprior.errors import UserError
from scaleprior.laws.law import Law

__all__ = ["PlannedRun", "plan"]


@dataclass(frozen=True)
class PlannedRun:
    """One run of a plan: ``images`` of a new measurement, its cost, the cost so far, and the forecast's interval after.

    ``half_width`` is half the law's interval (without a new measurement's noise) at the target, in the metric's unit.
    """

    images: float
    cost: float
    total_cost: float
    half_width: float


def plan(
    law: Law, *, target: float, costs: Mapping[float, float], budget: float, most_runs: int = 20
) -> list[PlannedRun]:
    """Choose runs one by one, each the one that shrinks the interval at ``target`` most per unit of cost.

    What is not yet known of ln e is taken as a Gaussian process over the numbers of images, with the covariance of the
    law's own deviations (refits, disagreement, drift); a run at n is a measurement with the law's noise, and
    conditioning on it does not depend on its value, so the whole plan can be made before any run.

    Args:
        law: what is known now.
        target: images at which the forecast is to be sharper.
        costs: cost of one run (one seed) per number of images, > 0; the rungs to choose from.
        budget: the most the plan may cost, in the same unit.
        most_runs: the most runs to plan.

    Returns:
        The runs in order; empty if nothing fits the budget. ``images`` may repeat: another seed.

    Raises:
        UserError: a cost, the budget or a number of images that is not positive.
    """
    rungs = np.array(sorted(costs), dtype=float)
    prices = np.array([costs[n] for n in sorted(costs)], dtype=float)
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
    points = np.append(rungs, target)
    mean, from_noise, from_forms = law.deviations(points)
    noise, forms = from_noise.T @ from_noise, from_forms.T @ from_forms
    metric = law.data.scale * math.exp(mean[-1])
    runs: list[PlannedRun] = []
    spent = 0.0
    while len(runs) < most_runs:
        total = noise + forms
        drop = total[:-1, -1] ** 2 / (np.diag(total)[:-1] + law.raw_sigma**2)
        value = np.where(spent + prices <= budget * (1 + 1e-9), drop / prices, -np.inf)
        best = int(np.argmax(value))
        if not value[best] > 1e-12 * total[-1, -1] / prices[best]:
            break
        spent += float(prices[best])
        gain = total[:, best] / (total[best, best] + law.raw_sigma**2)
        # Each part is conditioned with the gain of the whole (Joseph's form), so that both stay covariances
        keep = np.eye(points.size)
        keep[:, best] -= gain
        noise = keep @ noise @ keep.T + law.raw_sigma**2 * np.outer(gain, gain)
        forms = keep @ forms @ keep.T
        half = metric * float(law.reach(noise[-1, -1], forms[-1, -1]))
        runs.append(PlannedRun(float(rungs[best]), float(prices[best]), spent, half))
    return runs
