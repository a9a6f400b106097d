"""Simulated studies whose truth is known: two architectures on one ladder of fractions, with seeds and noise.

x = log10(n / n_min) is in decades from the smallest fraction, and AP is in percent. The curves look like those of
detectors that are fine-tuned from more and more pretraining data: they start at 2 to 30 AP, of every height equally
often, and gain ``gain``, 0.8 to 6 AP (log-uniform), for each of the 1 to 2.5 decades (``span``) of the ladder, or as
their family says. The first line of each family's docstring is what documentation says of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaleprior.laws.forms.form import Array

__all__ = [
    "FALLING",
    "FAMILIES",
    "Ladder",
    "Study",
    "Truth",
    "draw_study",
    "falling_study",
    "families_in_words",
    "quickstart_study",
]

Truth = Callable[[Array], Array]
"""AP at x decades above the smallest fraction."""

START = 1000.0
"""Images of the smallest fraction; laws do not depend on it."""
SHARED = 0.3
"""Of the noise's variance, what both architectures' runs of one seed and fraction share, in half of the studies."""


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def _size(rng: np.random.Generator) -> tuple[float, float]:
    """(AP at the smallest fraction, gain per decade)."""
    return rng.uniform(2.0, 30.0), _log_uniform(rng, 0.8, 6.0)


def power(rng: np.random.Generator, span: float) -> Truth:
    """A power law: of what is left to gain, 10 to 71 % are left a decade later.

    e = e_inf + b n^-c with c log-uniform in 0.15 to 1; it gains ``gain`` per decade on average over the ladder.
    """
    level, gain = _size(rng)
    c = _log_uniform(rng, 0.15, 1.0) * np.log(10.0)
    rise = gain * span / (1.0 - np.exp(-c * span))

    def ap(x: Array) -> Array:
        return level + rise * (1.0 - np.exp(-c * x))

    return ap


def log_linear(rng: np.random.Generator, span: float) -> Truth:
    """The paper's law: every decade gains as much as any other."""
    level, gain = _size(rng)

    def ap(x: Array) -> Array:
        return level + gain * x

    return ap


def sigmoid(rng: np.random.Generator, span: float) -> Truth:
    """A logistic step in log n whose middle lies anywhere from the smallest fraction to a quarter of the ladder beyond.

    The whole step is one and a half times ``gain`` per decade of the ladder, and 2 to 6 of its widths make a ladder.
    """
    level, gain = _size(rng)
    steepness, middle = rng.uniform(2.0, 6.0) / span, rng.uniform(0.0, 1.25) * span
    step = 1.5 * gain * span

    def risen(x: Array | float) -> Array:
        return 1.0 / (1.0 + np.exp(-steepness * (x - middle)))

    def ap(x: Array) -> Array:
        return level + step * (risen(x) - risen(0.0))

    return ap


def broken(rng: np.random.Generator, span: float) -> Truth:
    """Two slopes with a smooth break on the ladder or just behind it; the later is 0 to 2 times the earlier.

    The break is at 0.2 to 1.3 of the span, softened over 0.05 to 0.3 decades; the earlier slope is ``gain``.
    """
    level, gain = _size(rng)
    ratio, at, width = rng.uniform(0.0, 2.0), rng.uniform(0.2, 1.3) * span, rng.uniform(0.05, 0.3)

    def behind(x: Array | float) -> Array:
        return _ramp(x, at, width) - _ramp(0.0, at, width)

    def ap(x: Array) -> Array:
        return level + gain * (x + (ratio - 1.0) * behind(x))

    return ap


def saturating(rng: np.random.Generator, span: float) -> Truth:
    """Equal gain of every decade up to 0 to 0.3 decades behind the largest fraction, where it stops for good."""
    level, gain = _size(rng)
    end, width = span + rng.uniform(0.0, 0.3), rng.uniform(0.02, 0.1)

    def ap(x: Array) -> Array:
        return level + gain * (x - _ramp(x, end, width) + _ramp(0.0, end, width))

    return ap


def levelling(rng: np.random.Generator, span: float) -> Truth:
    """A power law of the error that turns flat on the ladder or just behind it.

    M3 of Alabdulmohsin et al. 2022, e = beta (1/n + gamma)^c: c in 0.1 to 0.5, flat from about 0.4 to 1.5 of the span;
    it gains ``gain`` per decade on average over the ladder.
    """
    level, gain = _size(rng)
    c, knee = rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.5) * span

    def risen(x: Array | float) -> Array:
        return 1.0 - ((10.0 ** -np.asarray(x) + 10.0**-knee) / (1.0 + 10.0**-knee)) ** c

    rise = gain * span / risen(span)

    def ap(x: Array) -> Array:
        return level + rise * risen(x)

    return ap


def _ramp(x: Array | float, at: float, width: float) -> Array:
    """0 before ``at`` and x - at behind it, with a corner that is rounded over ``width``."""
    return width * np.logaddexp(0.0, (x - at) / width)


FAMILIES: dict[str, Callable[[np.random.Generator, float], Truth]] = {
    "power": power,
    "log-linear": log_linear,
    "sigmoid": sigmoid,
    "broken": broken,
    "saturating": saturating,
    "levelling": levelling,
}
"""The truths that coverage is asked for: each draws its parameters for a ladder of ``span`` decades."""

FALLING = (0.0, -1.0, -2.0, -4.0)
"""AP per decade of truths that are flat or fall."""


def families_in_words() -> dict[str, str]:
    """What each family is, in a sentence: the first line of its docstring."""
    return {name: (family.__doc__ or "").splitlines()[0] for name, family in FAMILIES.items()}


@dataclass(frozen=True)
class Ladder:
    """One architecture's measurements and truth.

    Attributes:
        n: [K] images, one per run; metric: [K] AP; seeds: [K].
        truth: AP at x = log10(n / n_min).
    """

    n: Array
    metric: Array
    seeds: list[int]
    truth: Truth

    def at(self, n: Array | float) -> Array:
        """The true AP at n images."""
        return self.truth(np.log10(np.asarray(n, dtype=float) / self.n.min()))


@dataclass(frozen=True)
class Study:
    """Two architectures on one ladder.

    Attributes:
        family: of their truths, or "linear" or "quickstart".
        first, second: the ladders.
        same: their truths differ in level alone.
        noise: standard deviation of AP of one run.
    """

    family: str
    first: Ladder
    second: Ladder
    same: bool
    noise: float

    @property
    def seeds(self) -> int:
        """Seeds per fraction."""
        return len(set(self.first.seeds))


def draw_study(family: str, rng: np.random.Generator) -> Study:
    """4 to 6 log-spaced fractions over 1 to 2.5 decades, 2 or 3 seeds, noise of 0.3 to 1.5 AP (log-uniform).

    In half of the studies both architectures have one truth, the second's shifted by -2 to 4 AP; in the others they are
    two draws of the family.

    Args:
        family: a key of :data:`FAMILIES`.
    """
    n, seeds, noise, same, span = _design(rng)
    first, other = FAMILIES[family](rng, span), FAMILIES[family](rng, span)
    offset = rng.uniform(-2.0, 4.0)
    second = _shifted(first, offset) if same else other
    return _measured(family, (first, second), n, seeds, noise, same, rng)


def falling_study(slope: float, rng: np.random.Generator) -> Study:
    """The design of :func:`draw_study`, and straight truths from 15 to 30 AP of one slope for both architectures.

    Args:
        slope: AP per decade, one of :data:`FALLING`.
    """
    n, seeds, noise, _, _ = _design(rng)
    level = rng.uniform(15.0, 30.0)

    def first(x: Array) -> Array:
        return level + slope * x

    second = _shifted(first, rng.uniform(-2.0, 4.0))
    return _measured("linear", (first, second), n, seeds, noise, True, rng)


def quickstart_study(rng: np.random.Generator) -> Study:
    """The quickstart's own design: 32, 256 and 2,048 images, 2 seeds, noise of 0.75 AP, one truth for both depths.

    A parabola from 5 AP on that first gains 2 to 6 AP per decade, by 1 less to 2 more with every further decade.
    """
    n = np.array([32.0, 256.0, 2048.0])
    gain = rng.uniform(2.0, 6.0)
    bend = rng.uniform(-0.5, 1.0)

    def truth(x: Array) -> Array:
        return 5.0 + gain * x + bend * x * x

    return _measured("quickstart", (truth, truth), n, 2, 0.75, True, rng)


def _design(rng: np.random.Generator) -> tuple[Array, int, float, bool, float]:
    """(images of the fractions, seeds, noise, whether both architectures have one truth, decades)."""
    rungs, seeds, span = int(rng.integers(4, 7)), int(rng.integers(2, 4)), rng.uniform(1.0, 2.5)
    noise = _log_uniform(rng, 0.3, 1.5)
    n = np.geomspace(START, START * 10.0**span, rungs).round()
    return n, seeds, noise, bool(rng.random() < 0.5), span


def _shifted(truth: Truth, offset: float) -> Truth:
    def ap(x: Array) -> Array:
        return truth(x) + offset

    return ap


def _measured(
    family: str,
    truths: tuple[Truth, Truth],
    n: Array,
    seeds: int,
    noise: float,
    same: bool,
    rng: np.random.Generator,
) -> Study:
    """Both ladders' runs; in every other study those of one seed and fraction have noise in common."""
    share = SHARED if rng.random() < 0.5 else 0.0
    common = rng.normal(size=(n.size, seeds))

    def measured(truth: Truth) -> Ladder:
        own = rng.normal(size=(n.size, seeds))
        scatter = noise * (np.sqrt(share) * common + np.sqrt(1.0 - share) * own)
        ap = np.clip(truth(np.log10(n / n[0]))[:, None] + scatter, 0.0, 100.0)
        return Ladder(np.repeat(n, seeds), ap.ravel(), [*range(seeds)] * n.size, truth)

    return Study(family, measured(truths[0]), measured(truths[1]), same, noise)
