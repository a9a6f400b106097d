"""Simulated studies with a known truth: ladders of fractions, seeds and two architectures, in families of truth.

x = log10(n / n_min) is in decades from the smallest fraction; AP is in percent. A family draws its parameters so that
curves look like those of detectors that are fine-tuned from more and more pretraining data: they start at 2 to 30 AP
and gain about 1 to 8 AP over a ladder of 1 to 2.5 decades.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from scaleprior.laws.forms.form import Array

__all__ = ["FALLING", "FAMILIES", "Ladder", "Study", "Truth", "draw_study", "quickstart_study"]

Truth = Callable[[Array], Array]
"""AP at x decades above the smallest fraction."""


def _size(rng: np.random.Generator) -> tuple[float, float]:
    """(AP at the smallest fraction, gain per decade), the latter log-uniform in 0.8 to 6."""
    return rng.uniform(2.0, 30.0), float(np.exp(rng.uniform(np.log(0.8), np.log(6.0))))


def power(rng: np.random.Generator, span: float) -> Truth:
    """e = e_inf + b n^-c with c in 0.15 to 1 (a third to a tenth of the way left after a decade)."""
    level, gain = _size(rng)
    c = np.exp(rng.uniform(np.log(0.15), np.log(1.0))) * np.log(10.0)
    rise = gain * span / (1.0 - np.exp(-c * span))
    return lambda x: level + rise * (1.0 - np.exp(-c * x))


def log_linear(rng: np.random.Generator, span: float) -> Truth:
    """Equal gain per decade."""
    level, gain = _size(rng)
    return lambda x: level + gain * x


def sigmoid(rng: np.random.Generator, span: float) -> Truth:
    """A logistic step in log n, its middle anywhere from the smallest fraction to a quarter of the span beyond."""
    level, gain = _size(rng)
    steep, middle = rng.uniform(2.0, 6.0) / span, rng.uniform(0.0, 1.25) * span
    rise = 1.5 * gain * span
    return lambda x: level + rise * (1.0 / (1.0 + np.exp(-steep * (x - middle))) - 1.0 / (1.0 + np.exp(steep * middle)))


def broken(rng: np.random.Generator, span: float) -> Truth:
    """Two slopes with a smooth break; the later one is between none and twice the earlier."""
    level, gain = _size(rng)
    ratio, at, width = rng.uniform(0.0, 2.0), rng.uniform(0.2, 1.3) * span, rng.uniform(0.05, 0.3)

    def bend(x: Array) -> Array:
        return width * np.logaddexp(0.0, (x - at) / width)

    return lambda x: level + gain * (x + (ratio - 1.0) * (bend(x) - bend(np.zeros(()))))


def saturating(rng: np.random.Generator, span: float) -> Truth:
    """Log-linear up to 0 to 0.3 decades behind the largest fraction, where it stops for good."""
    level, gain = _size(rng)
    ceiling, width = span + rng.uniform(0.0, 0.3), rng.uniform(0.02, 0.1)

    def cut(x: Array) -> Array:
        return x - width * np.logaddexp(0.0, (x - ceiling) / width)

    return lambda x: level + gain * (cut(x) - cut(np.zeros(())))


def levelling(rng: np.random.Generator, span: float) -> Truth:
    """M3, e = beta (1/n + gamma)^c: a power law of the error that turns flat within or just behind the ladder."""
    level, gain = _size(rng)
    c, knee = rng.uniform(0.1, 0.5), rng.uniform(0.4, 1.5) * span

    def shape(x: Array) -> Array:
        return 1.0 - ((10.0**-x + 10.0**-knee) / (1.0 + 10.0**-knee)) ** c

    rise = gain * span / shape(np.asarray(span))
    return lambda x: level + rise * shape(x)


FAMILIES: dict[str, Callable[[np.random.Generator, float], Truth]] = {
    "power": power,
    "log-linear": log_linear,
    "sigmoid": sigmoid,
    "broken": broken,
    "saturating": saturating,
    "levelling": levelling,
}
"""The truths that coverage is asked for."""

FALLING = (0.0, -1.0, -2.0, -4.0)
"""AP per decade of truths that are flat or fall."""


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
    """Two architectures on one ladder; ``same``: their truths differ in level alone."""

    family: str
    first: Ladder
    second: Ladder
    same: bool
    noise: float


def _measure(
    truth: Truth, n: Array, seeds: int, noise: float, share: float, common: Array, rng: np.random.Generator
) -> Ladder:
    own = rng.normal(size=(n.size, seeds))
    mixed = np.sqrt(share) * common + np.sqrt(1.0 - share) * own
    ap = truth(np.log10(n / n[0]))[:, None] + noise * mixed
    return Ladder(np.repeat(n, seeds), np.clip(ap, 0.0, 100.0).ravel(), [*range(seeds)] * n.size, truth)


def _pair(family: str, truths: tuple[Truth, Truth], n: Array, seeds: int, noise: float, same: bool,
          rng: np.random.Generator) -> Study:  # fmt: skip
    share = 0.3 if rng.random() < 0.5 else 0.0  # of the noise's variance, common to runs of one seed and fraction
    common = rng.normal(size=(n.size, seeds))
    first, second = (_measure(truth, n, seeds, noise, share, common, rng) for truth in truths)
    return Study(family, first, second, same, noise)


def draw_study(family: str, rng: np.random.Generator, slope: float | None = None) -> Study:
    """4 to 6 log-spaced fractions over 1 to 2.5 decades, 2 or 3 seeds, noise of 0.3 to 1.5 AP (log-uniform).

    Args:
        family: a key of :data:`FAMILIES`, or "linear" for a straight truth of the given ``slope``.
        slope: AP per decade of "linear".
    """
    rungs, seeds, span = int(rng.integers(4, 7)), int(rng.integers(2, 4)), rng.uniform(1.0, 2.5)
    noise = float(np.exp(rng.uniform(np.log(0.3), np.log(1.5))))
    n = np.geomspace(1000.0, 1000.0 * 10.0**span, rungs).round()
    same = bool(rng.random() < 0.5)
    if family == "linear":
        level = rng.uniform(15.0, 30.0)
        first: Truth = lambda x: level + (slope or 0.0) * x  # noqa: E731
        other = first
        same = True
    else:
        first, other = FAMILIES[family](rng, span), FAMILIES[family](rng, span)
    offset = rng.uniform(-2.0, 4.0)
    second: Truth = (lambda x: first(x) + offset) if same else other
    return _pair(family, (first, second), n, seeds, noise, same, rng)


def quickstart_study(rng: np.random.Generator) -> Study:
    """The quickstart's own design: 32, 256 and 2,048 images, 2 seeds, noise of 0.75 AP, one truth for both depths."""
    n = np.array([32.0, 256.0, 2048.0])
    gain = rng.uniform(2.0, 6.0)
    bend = rng.uniform(-0.5, 1.0)
    truth: Truth = lambda x: 5.0 + gain * x + bend * x * x  # noqa: E731
    return _pair("quickstart", (truth, truth), n, 2, 0.75, True, rng)
