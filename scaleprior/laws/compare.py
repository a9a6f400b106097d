"""Do two ladders (two depths, two recipes) gain differently from data? Estimate, interval, verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from scaleprior.errors import UserError
from scaleprior.laws.intervals import above_zero
from scaleprior.laws.law import Estimate, Law
from scaleprior.laws.settling import OpenDifference, Settling, settling, settling_words
from scaleprior.laws.words import chance, decimals, judged, number, percent

__all__ = ["Comparison", "compare_laws"]


@dataclass(frozen=True)
class Comparison:
    """First law minus second, positive where the first is better.

    Attributes:
        per_decade: difference of the gains per factor 10 over the decade both ladders measured last.
        at: N -> difference of the metric at N.
        paired: seeds in common whose noise was taken as shared; 0 when the laws count as independent.
        correlation: of the paired residuals.
        verdict: one or two sentences.
        more_seeds, more_rungs: runs that would settle an open difference in gain with a chance of 3 in 4 (seeds for
            each fraction of each ladder; rungs atop both); 0 when it is settled, None where that is not likely.
        images: the range, from and to, over which the gains of ``per_decade`` are taken.
        visible: the true difference per decade that is settled in 80 % of such studies; None when this one is settled.
    """

    per_decade: Estimate
    at: dict[float, Estimate]
    paired: int
    correlation: float
    verdict: str
    more_seeds: int | None
    more_rungs: int | None
    images: tuple[float, float]
    visible: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "per_decade": self.per_decade.to_dict(),
            "at": {f"{n:g}": e.to_dict() for n, e in self.at.items()},
            "paired_seeds": self.paired,
            "correlation": self.correlation,
            "verdict": self.verdict,
            "more_seeds": self.more_seeds,
            "more_rungs": self.more_rungs,
            "visible": self.visible,
            "range": {"from": self.images[0], "to": self.images[1]},
        }


@dataclass(frozen=True)
class _Difference:
    """A difference with its two variances."""

    value: float
    noise: float
    forms: float
    dof: float
    level: float

    def half(self) -> float:
        """Half its interval."""
        tail = 0.5 + self.level / 2.0
        return math.sqrt(stats.t.ppf(tail, self.dof) ** 2 * self.noise + stats.norm.ppf(tail) ** 2 * self.forms)

    def estimate(self, factor: float = 1.0) -> Estimate:
        half, probability = self.half(), above_zero(self.value, self.noise, self.forms, self.dof)
        return Estimate(factor * self.value, factor * (self.value - half), factor * (self.value + half), probability)


def _pairing(a: Law, b: Law) -> tuple[int, float]:
    """(common seeds, correlation of the residuals of ln e where both laws have the same images and seed)."""

    def residuals(law: Law) -> dict[tuple[float, Any], float]:
        left = np.log(law.data.e) - law.log_error(law.data.n)
        return {
            (float(n), law.data.group_labels[g]): float(r)
            for n, g, r in zip(law.data.n, law.data.group, left)
            if g >= 0
        }

    first, second = residuals(a), residuals(b)
    cells = sorted(set(first) & set(second), key=str)
    seeds = {seed for _, seed in cells}
    if len(cells) < 4 or len(seeds) < 2:
        return 0, 0.0
    x, y = (np.array([r[c] for c in cells]) for r in (first, second))
    spread = math.sqrt(float((x**2).sum() * (y**2).sum()))
    # shrunk toward independence: a correlation of a handful of residuals is itself a guess
    correlation = float((x * y).sum()) / spread * len(cells) / (len(cells) + 4) if spread > 0 else 0.0
    return len(seeds), correlation


def _subtract(
    parts_a: tuple[float, ...], parts_b: tuple[float, ...], correlation: float, a: Law, b: Law
) -> _Difference:
    (value_a, noise_a, forms_a), (value_b, noise_b, forms_b) = parts_a, parts_b
    noise = noise_a + noise_b - 2.0 * correlation * math.sqrt(noise_a * noise_b)
    # Welch's degrees of freedom: the noises are estimated separately
    dof = (
        (noise_a + noise_b) ** 2 / max(noise_a**2 / a.dof + noise_b**2 / b.dof, 1e-300) if noise_a + noise_b else a.dof
    )
    return _Difference(value_a - value_b, max(noise, 0.0), forms_a + forms_b, max(dof, 1.0), a.level)


def _level_parts(law: Law, n: float) -> tuple[float, float, float]:
    mean, from_noise, from_forms = law.deviations(np.array([n]))
    slope = law.data.scale * math.exp(mean[0])
    better = law.data.scale - slope if law.kind == "score" else -slope
    return better, float((from_noise**2).sum()) * slope**2, float((from_forms**2).sum()) * slope**2


def _settling(difference: _Difference, a: Law, b: Law, decades: float) -> Settling:
    """What would settle an open difference of gains, per factor of ten."""
    d, unit = difference, decades**2
    shorter = min((a, b), key=lambda law: law.data.sizes.size)
    runs = min(law.data.n.size / law.data.sizes.size for law in (a, b))
    return settling(OpenDifference(d.value / decades, d.noise / unit, d.forms / unit, d.dof), shorter.data.sizes, runs)


def compare_laws(
    a: Law, b: Law, *, at: tuple[float, ...] = (), names: tuple[str, str] = ("the first", "the second")
) -> Comparison:
    """Compare two laws of the same metric.

    Args:
        a: one law; where both are fitted with ``groups`` set to seeds, common seeds pair their measurements.
        b: the other.
        at: numbers of images at which to compare the metric; the largest fraction of both by default.
        names: what to call them in the verdict.

    Raises:
        UserError: what is no law, laws of different kinds or units, ladders that share no range, or no images in
            ``at``.
    """
    for given in (a, b):
        if not isinstance(given, Law):
            raise UserError(f"{given!r} is not a law", hint="fit_law makes one of measurements")
    for n in at:
        if not (math.isfinite(n) and n > 0):
            raise UserError(f"cannot compare at {n:g} images", hint="give images > 0")
    if a.kind != b.kind or (a.data.scale != b.data.scale and a.data.bounded):
        raise UserError(
            f"laws of a {a.kind} (scale {a.data.scale:g}) and a {b.kind} (scale {b.data.scale:g}) cannot be compared",
            hint="fit both to the same metric in the same unit",
        )
    end = float(min(a.data.n.max(), b.data.n.max()))
    start = float(max(a.data.n.min(), b.data.n.min(), end / 10.0))
    if start >= end:
        raise UserError("the two ladders share no range of images", hint="compare ladders that overlap")
    paired, correlation = _pairing(a, b)
    decades = math.log10(end / start)
    slope = _subtract(a.gain_parts(start, end), b.gain_parts(start, end), correlation, a, b)
    per_decade = slope.estimate(1.0 / decades)
    levels = {
        float(n): _subtract(_level_parts(a, n), _level_parts(b, n), correlation, a, b).estimate()
        for n in (at or (end,))
    }
    settled = judged(per_decade.probability) in ("gains", "loses")
    ways = None if settled else _settling(slope, a, b, decades)
    verdict = _verdict(per_decade, names, (start, end), ways, decimals(a), a.level)
    seeds, rungs, visible = (0, 0, None) if ways is None else (ways.seeds, ways.rungs, ways.visible)
    return Comparison(per_decade, levels, paired, correlation, verdict, seeds, rungs, (start, end), visible)


def _verdict(
    d: Estimate,
    names: tuple[str, str],
    images: tuple[float, float],
    ways: Settling | None,
    places: int,
    level: float,
) -> str:
    """In words that follow the probability; ``ways`` would settle a difference, None for one that is settled."""
    span = f"between {number(images[0])} and {number(images[1])} images"
    settle = "" if ways is None else f"; {settling_words(ways, places)}"
    if judged(d.probability) == "open":
        return (
            f"Open {span}: {names[0]} against {names[1]} differ by {d.value:+.{places}f} per factor of ten "
            f"({percent(level)} interval {d.low:+.{places}f} to {d.high:+.{places}f}; probability that {names[0]} "
            f"gains more {chance(d.probability)}){settle}."
        )
    # the numbers are those of the sentence, "winner minus loser": the interval turns round with the names
    (winner, loser), value, low, high, probability = names, d.value, d.low, d.high, d.probability
    if probability < 0.5:
        (loser, winner), value, low, high, probability = names, -value, -high, -low, 1.0 - probability
    return (
        f"{winner} {judged(probability)} more from data than {loser} {span}: by {value:.{places}f} per factor of ten "
        f"({percent(level)} interval of the difference {low:+.{places}f} to {high:+.{places}f}; probability that it "
        f"gains more {chance(probability)}){settle}."
    )
