"""What laws answer of a simulated study, beside the truth: the material of ``benchmarks/laws_studies.py``.

A study's two architectures are fitted together, as reports and the command line do, and each alone. What is asked of
each: the law between its two middle fractions, its gain per decade, its value at 3 and 10 times the largest fraction,
the gain of the next decade, and what a new run there would measure; of both: how much more the first gains per decade,
and by how much it is better at the largest fraction.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

import numpy as np

from benchmarks.simulated import FALLING, FAMILIES, Ladder, Study, draw_study, falling_study, quickstart_study
from scaleprior.laws import Estimate, Law, compare_laws, fit_law
from scaleprior.laws.fit import fit_together
from scaleprior.laws.forms.form import Array
from scaleprior.laws.observations import Observations, observe

__all__ = [
    "BEYOND",
    "FLAT",
    "KINDS",
    "LEVEL",
    "OF_ONE",
    "OF_TWO",
    "QUANTITIES",
    "QUICKSTART",
    "SLOPES",
    "Answer",
    "answers",
    "asked",
    "simulate",
]

LEVEL = 0.9
BEYOND = (3.0, 10.0)
"""Factors beyond the largest fraction that are forecast."""
OF_ONE = ("between", "per decade", "3x", "10x", "next decade")
NEW_RUN = ("new run 3x", "new run 10x")
OF_TWO = ("difference", "at the top")
QUANTITIES = (*OF_ONE, *OF_TWO, *NEW_RUN)

FLAT, QUICKSTART = "flat", "quickstart"
SLOPES = {FLAT if slope == 0.0 else f"{slope:g} AP": slope for slope in FALLING}
"""Kind of study -> AP per decade of its truths."""
KINDS = (*FAMILIES, *SLOPES, QUICKSTART)


@dataclass(frozen=True)
class Answer:
    """A law's answer to one question about one study.

    Attributes:
        kind: of :data:`KINDS`.
        study: its index among those of its kind.
        seeds: per fraction.
        same: the study's two truths differ in level alone.
        together: the study's architectures were fitted together.
        quantity: of :data:`QUANTITIES`, in AP.
        truth: the right answer.
        estimate: the law's; of a value, its probability is nan.
    """

    kind: str
    study: int
    seeds: int
    same: bool
    together: bool
    quantity: str
    truth: float
    estimate: Estimate

    @property
    def covered(self) -> bool:
        """Whether the interval holds the truth."""
        return self.estimate.low <= self.truth <= self.estimate.high

    @property
    def width(self) -> float:
        """Of the interval."""
        return self.estimate.high - self.estimate.low

    @property
    def score(self) -> float:
        """The interval score (Gneiting & Raftery 2007), the less the better.

        The width, and 2 / (1 - level) times as much as the truth is outside.
        """
        outside = max(self.estimate.low - self.truth, 0.0, self.truth - self.estimate.high)
        return self.width + 2.0 / (1.0 - LEVEL) * outside


def simulate(kind: str, index: int, seed: int) -> tuple[Study, Array]:
    """A study, and the noise [2, 2] in AP of new runs of either architecture at :data:`BEYOND`.

    Args:
        kind: of :data:`KINDS`.
        index: of the study among its kind.
        seed: of the benchmark.
    """
    rng = np.random.default_rng([seed, KINDS.index(kind), index])
    if kind in SLOPES:
        study = falling_study(SLOPES[kind], rng)
    else:
        study = quickstart_study(rng) if kind == QUICKSTART else draw_study(kind, rng)
    return study, study.noise * rng.normal(size=(2, len(BEYOND)))


def answers(kind: str, index: int, seed: int) -> tuple[list[Answer], list[float]]:
    """All answers of a study, and the seconds of one core that each law took that was fitted alone."""
    study, noise = simulate(kind, index, seed)
    ladders = (study.first, study.second)
    alone, seconds = [], []
    for i, ladder in enumerate(ladders):
        started = time.process_time()
        # seeds of their own, so that draws of one law tell nothing of the other's
        alone.append(
            fit_law(ladder.n, ladder.metric, groups=ladder.seeds, unit="percent", level=LEVEL, seed=i),
        )
        seconds.append(time.process_time() - started)
    observed = {name: _observed(ladder) for name, ladder in zip("ab", ladders)}
    together = list(fit_together(observed, level=LEVEL).values())
    found = []
    for laws, jointly in ((together, True), (alone, False)):
        said = [row for law, ladder, new in zip(laws, ladders, noise) for row in asked(law, ladder, new)]
        said += _compared(laws, ladders) if jointly else _subtracted(laws, ladders)
        found += [Answer(kind, index, study.seeds, study.same, jointly, *row) for row in said]
    return found, seconds


def _observed(ladder: Ladder) -> Observations:
    return observe(ladder.n, ladder.metric, kind="score", weights=None, groups=ladder.seeds, unit="percent")


def asked(law: Law, ladder: Ladder, noise: Array) -> list[tuple[str, float, Estimate]]:
    """(quantity, truth, answer) of one law.

    Args:
        law: fitted to the ladder.
        ladder: and its truth.
        noise: [2] of new runs at :data:`BEYOND`, in AP.
    """
    sizes = np.unique(ladder.n)
    middle = float(np.sqrt(sizes[sizes.size // 2 - 1] * sizes[sizes.size // 2]))
    start, top, decades = _last_decade(ladder)
    beyond = top * np.array(BEYOND)
    rise = ladder.at(np.array([start, top, 10.0 * top]))
    found = [
        ("per decade", float(rise[1] - rise[0]) / decades, law.per_decade),
        ("next decade", float(rise[2] - rise[1]), law.gain(top, 10.0 * top)),
    ]
    points = np.array([middle, *beyond])
    found += zip(("between", "3x", "10x"), ladder.at(points).tolist(), _forecasts(law, points, noise=False))
    measured = np.clip(ladder.at(beyond) + noise, 0.0, 100.0)
    found += zip(NEW_RUN, measured.tolist(), _forecasts(law, beyond, noise=True))
    return found


def _forecasts(law: Law, n: Array, *, noise: bool) -> list[Estimate]:
    return [Estimate(*map(float, row)) for row in zip(*law.predict(n, noise=noise))]


def _last_decade(ladder: Ladder) -> tuple[float, float, float]:
    """(from, to, decades between) of the gain per decade."""
    top = float(ladder.n.max())
    start = max(top / 10.0, float(ladder.n.min()))
    return start, top, math.log10(top / start)


def _true_differences(ladders: tuple[Ladder, Ladder]) -> tuple[float, float]:
    """(of gains per decade, at the largest fraction), first minus second."""
    start, top, decades = _last_decade(ladders[0])
    (low_a, high_a), (low_b, high_b) = (ladder.at(np.array([start, top])).tolist() for ladder in ladders)
    return ((high_a - low_a) - (high_b - low_b)) / decades, high_a - high_b


def _compared(laws: list[Law], ladders: tuple[Ladder, Ladder]) -> list[tuple[str, float, Estimate]]:
    """Differences by :func:`~scaleprior.laws.compare_laws`."""
    found = compare_laws(laws[0], laws[1])
    return [*zip(OF_TWO, _true_differences(ladders), (found.per_decade, next(iter(found.at.values()))))]


def _subtracted(laws: list[Law], ladders: tuple[Ladder, Ladder]) -> list[tuple[str, float, Estimate]]:
    """Differences of laws that know nothing of each other: of independent draws.

    Not by ``compare_laws``, which would condition both on all data.
    """
    start, top, decades = _last_decade(ladders[0])
    (gain_a, gains_a), (gain_b, gains_b) = (law.gain_draws(start, top) for law in laws)
    at = np.array([top])
    level_a, level_b = (float(law.predict(top, noise=False)[0]) for law in laws)
    levels_a, levels_b = (law.data.to_metric(np.exp(law.curves.at(at)))[:, 0] for law in laws)
    estimates = (
        laws[0].estimate((gain_a - gain_b) / decades, (gains_a - gains_b) / decades),
        laws[0].estimate(level_a - level_b, levels_a - levels_b),
    )
    return [*zip(OF_TWO, _true_differences(ladders), estimates)]
