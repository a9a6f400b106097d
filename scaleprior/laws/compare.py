"""Do two ladders (two depths, two recipes) gain differently from data? Estimate, interval, verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import stats

from scaleprior.errors import UserError
from scaleprior.laws.law import Estimate, Law
from scaleprior.laws.words import decimals, number

__all__ = ["Comparison", "compare_laws"]

_MOST_RUNGS = 6
_MOST_SEEDS = 100  # per fraction; beyond, "seeds alone will not settle it"


@dataclass(frozen=True)
class Comparison:
    """First law minus second, positive where the first is better.

    Attributes:
        per_decade: difference of the gains per factor 10 over the decade both ladders measured last.
        at: N -> difference of the metric at N.
        paired: seeds in common whose noise was taken as shared; 0 when the laws count as independent.
        correlation: of the paired residuals.
        verdict: one or two sentences.
        more_seeds, more_rungs: runs that would settle an open difference in gain (seeds for each fraction of each
            ladder; rungs atop both); 0 when it is settled, None when that alone would not do.
        images: the range, from and to, over which the gains of ``per_decade`` are taken.
    """

    per_decade: Estimate
    at: dict[float, Estimate]
    paired: int
    correlation: float
    verdict: str
    more_seeds: int | None
    more_rungs: int | None
    images: tuple[float, float]

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
            "range": {"from": self.images[0], "to": self.images[1]},
        }


@dataclass(frozen=True)
class _Difference:
    """A difference with its two variances; ``half(noise_share)`` is half its interval with the noise part scaled."""

    value: float
    noise: float
    forms: float
    dof: float
    level: float

    def half(self, noise_share: float = 1.0, dof: float | None = None) -> float:
        tail = 0.5 + self.level / 2.0
        t = stats.t.ppf(tail, self.dof if dof is None else dof)
        return math.sqrt(t**2 * self.noise * noise_share + stats.norm.ppf(tail) ** 2 * self.forms)

    def estimate(self, factor: float = 1.0) -> Estimate:
        half = self.half()
        return Estimate(factor * self.value, factor * (self.value - half), factor * (self.value + half))


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


def _settling(difference: _Difference, a: Law, b: Law, start: float, end: float) -> tuple[int | None, int | None]:
    """(more seeds, more rungs) after which a difference of this size would exclude 0, all else equal."""
    per_fraction = min(law.data.n.size / law.data.sizes.size for law in (a, b))
    fractions = min(law.data.sizes.size for law in (a, b))
    seeds = rungs = None
    for more in range(1, _MOST_SEEDS + 1):
        dof = difference.dof + 2 * fractions * more
        if difference.half(per_fraction / (per_fraction + more), dof) < abs(difference.value):
            seeds = more
            break
    u = np.log(a.data.sizes)
    step = (u[-1] - u[0]) / (u.size - 1)
    spread = ((u - u.mean()) ** 2).sum()
    for more in range(1, _MOST_RUNGS + 1):
        longer = np.concatenate([u, u[-1] + step * np.arange(1, more + 1)])
        share = spread / ((longer - longer.mean()) ** 2).sum()
        if difference.half(share, difference.dof + 2 * more) < abs(difference.value):
            rungs = more
            break
    return seeds, rungs


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
        UserError: what is no law, laws of different kinds or units, or ladders that share no range.
    """
    for given in (a, b):
        if not isinstance(given, Law):
            raise UserError(f"{given!r} is not a law", hint="fit_law makes one of measurements")
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
    settled = per_decade.low > 0 or per_decade.high < 0
    seeds, rungs = (0, 0) if settled else _settling(slope, a, b, start, end)
    verdict = _verdict(per_decade, names, start, end, settled, seeds, rungs, decimals(a))
    return Comparison(per_decade, levels, paired, correlation, verdict, seeds, rungs, (start, end))


def _verdict(
    d: Estimate,
    names: tuple[str, str],
    start: float,
    end: float,
    settled: bool,
    seeds: int | None,
    rungs: int | None,
    places: int,
) -> str:
    span = f"between {number(start)} and {number(end)} images"
    if settled:
        # the numbers are those of the sentence, "winner minus loser": the interval turns round with the names
        winner, loser = names if d.value > 0 else names[::-1]
        value, low, high = (d.value, d.low, d.high) if d.value > 0 else (-d.value, -d.high, -d.low)
        return (
            f"{winner} gains more from data than {loser} {span}: by {value:.{places}f} per factor of ten "
            f"(interval of the difference {low:+.{places}f} to {high:+.{places}f})."
        )
    interval = f"{d.low:+.{places}f} to {d.high:+.{places}f}"
    ways = []
    if seeds is not None:
        ways.append(f"{seeds} more seed(s) for every fraction of both")
    if rungs is not None:
        ways.append(f"{rungs} more rung(s) at the top of both ladders")
    settle = (
        f"a difference of this size would be settled by about {' or '.join(ways)}"
        if ways
        else ("a difference this small would not be settled by 100 more seeds a fraction or by 6 more rungs")
    )
    return (
        f"Open {span}: {names[0]} against {names[1]} differ by {d.value:+.{places}f} per factor of ten, "
        f"interval {interval}; {settle}."
    )
