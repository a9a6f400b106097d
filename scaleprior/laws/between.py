"""The law of an architecture that was not measured, between measured ones: AP over images and capacity.

c is log10 of the capacity, usually the number of parameters. As a function of c, curves are taken as a Brownian motion:
given those of the neighbours c_1 < c < c_2, the curve at c is their mean, weighted by how close they are, and strays by

    v(c) = (c - c_1) (c_2 - c) / (c_2 - c_1) / 2     between them, and   v(c) = |c - c_1|   outside,

times a variance per decade of capacity: of the level, what the measured levels differ by; of the shape, what the shapes
of the joint fit do not share, 2 (1 - rho) s^2 [...] (process.py) at the mean distance of two of its ladders. The joint
fit itself is none the wiser for capacities: measured laws are the same with and without. S draws, G points of a grid.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scaleprior.errors import UserError
from scaleprior.laws.answers import Answers
from scaleprior.laws.forms.form import Array
from scaleprior.laws.law import Law
from scaleprior.laws.observations import Unit
from scaleprior.laws.posterior import Curves
from scaleprior.laws.process import Process

__all__ = ["LawBetween", "law_between"]

# ln e of a level changes by this per root of a decade of parameters, before any level is seen: the root mean square of
# Faster R-CNN's three R-50 to R-101 pairs (C4, DC5, FPN; 3x schedule) in Detectron2's MODEL_ZOO.md. Worth one pair.
_USUAL_STEP = 0.07
# Between neighbours half of the variance is regular, a trend that their mean follows. Of two measured architectures
# nobody knows; simulated ones are covered in docs/laws.md, smooth and irregular.
_IRREGULAR = 0.5


@dataclass(frozen=True)
class LawBetween(Answers):
    """What the metric of an architecture without measurements does with more images. Made by :func:`law_between`.

    Predictions, gains and images for a target are asked for as of a :class:`scaleprior.laws.Law`. It has no forms and
    no measurements, so it is not compared or drawn; its draws are joint with those of its neighbours, so that
    :func:`scaleprior.laws.plan` can say which runs would make its forecast sharper.

    Attributes:
        capacity: of the architecture.
        neighbours: the measured laws that it lies between (one, where it lies outside), by name.
        weights: of the neighbours; they sum to 1.
        curves: the draws.
    """

    capacity: float
    neighbours: Mapping[str, Law] = field(repr=False)
    weights: tuple[float, ...]
    curves: Curves = field(repr=False)
    sigma: float
    raw_sigma: float
    level: float
    seed: int
    process: Process = field(repr=False)

    @property
    def unit(self) -> Unit:
        """What the metric is."""
        return next(iter(self.neighbours.values())).unit

    @property
    def first(self) -> float:
        """The smallest number of images from which all neighbours were measured."""
        return max(law.first for law in self.neighbours.values())

    @property
    def last(self) -> float:
        """The largest number of images up to which all neighbours were measured."""
        return min(law.last for law in self.neighbours.values())

    @property
    def why(self) -> str:
        """What it is, in words."""
        shares = " and ".join(f"{weight:.2f} of {name}" for name, weight in zip(self.neighbours, self.weights))
        where = "between" if len(self.neighbours) > 1 else "beside"
        return (
            f"No run was measured: {where} its neighbours by the logarithm of capacity, {shares}, as far off as "
            "measured architectures are from each other at such a distance."
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready description."""
        return {
            "capacity": self.capacity,
            "neighbours": dict(zip(self.neighbours, self.weights)),
            "why": self.why,
            "level": self.level,
            "per_decade": self.per_decade.to_dict(),
        }


def law_between(laws: Mapping[str, Law], capacity: Mapping[str, float], at: float) -> LawBetween:
    """The law of an architecture of capacity ``at``, from those of measured ones that were fitted together.

    Between two measured capacities it is their mean by log10(capacity), with an interval that is wider than theirs; a
    little outside it is the nearest one's, with an interval that grows: no trend is carried on.

    Args:
        laws: of one :func:`scaleprior.laws.fit_laws` or ``fit_table``.
        capacity: name -> capacity, > 0, of at least two of the laws; the others are not used. Parameters, or any size
            by which the architectures are ordered.
        at: the capacity asked for, no further outside the known ones than those are apart.

    Raises:
        UserError: a capacity that is none, twice the same, or too far away; a name without a law; laws that were not
            fitted together or whose ladders do not overlap.
    """
    known = _known(laws, capacity)
    names = list(known)
    c = np.log10([capacity[name] for name in names])
    place = math.log10(_positive("the architecture asked for", at))
    _check_place(at, {name: capacity[name] for name in names})
    right = int(np.searchsorted(c, place))
    near = [i for i in (right - 1, right) if 0 <= i < len(names)]
    if len(near) == 2:
        share = (place - c[near[0]]) / (c[near[1]] - c[near[0]])
        weights, stray = (1.0 - share, share), _IRREGULAR * share * (c[near[1]] - place)
    else:
        weights, stray = (1.0,), abs(place - c[near[0]])
    beside = {names[i]: known[names[i]] for i in near}
    if max(law.first for law in beside.values()) >= min(law.last for law in beside.values()):
        raise UserError(
            f"the ladders of {' and '.join(beside)} share no range of images", hint="take ones that overlap"
        )
    some = next(iter(known.values()))
    drawn = np.tensordot(weights, [law.curves.log_e for law in beside.values()], 1)
    centre = np.tensordot(weights, [law.curves.centre for law in beside.values()], 1)
    rng = np.random.default_rng([some.seed, int(np.float64(at).view(np.uint64))])
    strays = math.sqrt(stray) * (_levels(list(known.values()), c, rng)[:, None] + _shapes(some, c, rng))
    curves = Curves(
        some.curves.x, drawn + strays - strays.mean(0), centre, some.curves.noise, some.curves.cells,
        some.curves.ceiling,
    )  # fmt: skip
    raw = max(law.raw_sigma for law in beside.values())
    shares = tuple(map(float, weights))
    return LawBetween(float(at), beside, shares, curves, some.sigma, raw, some.level, some.seed, some.process)


def _levels(laws: list[Law], c: Array, rng: np.random.Generator) -> Array:
    """How far a level strays over a decade of capacity: draws [S], each by what its own levels differ."""
    start = np.array([max(law.first for law in laws)])
    levels = np.column_stack([law.curves.at(start) for law in laws])
    steps = (np.diff(levels, axis=1) ** 2 / np.diff(c)).sum(1)
    return np.sqrt((_USUAL_STEP**2 + steps) / len(laws)) * rng.normal(size=len(levels))


def _shapes(law: Law, c: Array, rng: np.random.Generator) -> Array:
    """How far a shape strays over a decade of capacity: draws [S, G]."""
    distance = float(np.mean([b - a for a, b in itertools.combinations(c, 2)]))
    apart = law.process.strangers(law.curves.x - law.process.origin, law.curves.cells, rng)
    return math.sqrt(2.0 / distance) * apart


def _known(laws: Mapping[str, Law], capacity: Mapping[str, float]) -> dict[str, Law]:
    """The laws whose capacities are known, by rising capacity."""
    for name, size in capacity.items():
        if name not in laws:
            raise UserError(f"capacity of {name!r}, which is no law", hint=f"there are {', '.join(laws) or 'none'}")
        _positive(name, size)
    names = sorted(capacity, key=lambda name: capacity[name])
    if len(names) < 2:
        raise UserError(
            f"capacities of {len(names)} measured architecture(s)", hint="name those of at least two that have a law"
        )
    for one, other in itertools.pairwise(names):
        if _alike(capacity[one], capacity[other]):
            raise UserError(
                f"{one} and {other} have one capacity, {capacity[one]:g}", hint="name only one of them for it"
            )
        if laws[one].process is not laws[other].process:
            raise UserError(
                f"{one} and {other} were not fitted together: their draws say nothing of what is between",
                hint="fit_table and fit_laws fit laws together",
            )
    return {name: laws[name] for name in names}


def _positive(name: str, size: float) -> float:
    if not (math.isfinite(size) and size > 0):
        raise UserError(f"the capacity of {name} is {size!r}", hint="give a number above 0, such as that of parameters")
    return size


def _alike(one: float, other: float) -> bool:
    """Whether two capacities are one but for rounding."""
    return math.isclose(one, other, rel_tol=1e-9)


def _check_place(at: float, known: Mapping[str, float]) -> None:
    """Refuse what is measured, and what is too far from anything that is."""
    for name, size in known.items():
        if _alike(at, size):
            raise UserError(f"capacity {at:g} is that of {name}", hint="ask the law of that")
    low, high = min(known.values()), max(known.values())
    if not low / (high / low) <= at <= high * (high / low):
        raise UserError(
            f"capacity {at:g} is further outside the known ones ({low:g} to {high:g}) than they are apart",
            hint="measure a ladder nearer to it",
        )
