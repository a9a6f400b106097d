"""Do two ladders (two depths, two recipes) gain differently from data? Estimate, interval, verdict in words."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from scaleprior.errors import UserError
from scaleprior.laws.answers import Estimate
from scaleprior.laws.forms.form import Array
from scaleprior.laws.law import Law
from scaleprior.laws.noise import shared_noise
from scaleprior.laws.posterior import posterior
from scaleprior.laws.process import condition
from scaleprior.laws.settling import OpenDifference, Settling, settling, settling_words
from scaleprior.laws.words import chance, decimals, judged, number, number_key, percent

__all__ = ["Comparison", "compare_laws"]

_GUESS_DOF = 4.0  # what the prior of the noise is worth in degrees of freedom, about: its logarithm spreads by 0.8


@dataclass(frozen=True)
class Comparison:
    """First law minus second, positive where the first is better.

    Attributes:
        per_decade: difference of the gains per factor 10 over the decade both ladders measured last.
        at: N -> difference of the metric at N.
        paired: seeds in common whose noise was taken as shared; 0 when the laws count as independent.
        correlation: of the noise of their runs.
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
            "at": {number_key(n): e.to_dict() for n, e in self.at.items()},
            "paired_seeds": self.paired,
            "correlation": self.correlation,
            "verdict": self.verdict,
            "more_seeds": self.more_seeds,
            "more_rungs": self.more_rungs,
            "visible": self.visible,
            "range": {"from": self.images[0], "to": self.images[1]},
        }


def _together(a: Law, b: Law) -> tuple[Law, Law]:
    """Both with joint draws: as they are where they were fitted together, else conditioned on each other's data."""
    if a.process is b.process and a is not b:
        return a, b
    # in an order of their own, so that the numbers of "b against a" mirror those of "a against b"
    pair = sorted((a, b), key=lambda law: law.data.rank)
    process = condition([law.data for law in pair], correlation=shared_noise([a.data, b.data]))
    drawn = posterior(process, [law.forms for law in pair], [law.level_variance for law in pair], min(a.seed, b.seed))
    first, second = (replace(law, curves=curves, process=process) for law, curves in zip(pair, drawn))
    return (first, second) if pair[0] is a else (second, first)


def _level_draws(law: Law, n: float) -> tuple[float, Array]:
    """How good the metric is at n images, and its draws [S]; of an error, its negative."""
    sign = 1.0 if law.kind == "score" else -1.0
    at = np.array([n])
    value, drawn = (law.unit.to_metric(np.exp(log_e)) for log_e in (law.log_error(at), law.curves.at(at)))
    return sign * float(value[0]), sign * drawn[:, 0]


def _settling(value: float, drawn: Array, a: Law, b: Law) -> Settling:
    """What would settle an open difference of gains per factor of ten, which ``drawn`` are draws of.

    Runs without number at the fractions of both ladders would leave the part of its variance that the draws' values
    there do not explain.
    """
    known = np.concatenate([law.curves.at(law.data.sizes) for law in (a, b)], axis=1)
    known = known - known.mean(0)
    weights = np.linalg.lstsq(known, drawn - drawn.mean(), rcond=1e-6)[0]
    noise, variance = float((known @ weights).var()), float(drawn.var())
    spare = sum(law.data.n.size - law.data.sizes.size for law in (a, b))
    shorter = min((a, b), key=lambda law: law.data.sizes.size)
    runs = min(law.data.n.size / law.data.sizes.size for law in (a, b))
    difference = OpenDifference(value, noise, max(variance - noise, 0.0), spare + _GUESS_DOF)
    return settling(difference, shorter.data.sizes, runs)


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
        UserError: what is no law, laws of different kinds, units or levels, ladders that share no range, or no images
            in ``at``.
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
    if a.level != b.level:
        raise UserError(
            f"a law with {percent(a.level)} intervals and one with {percent(b.level)} intervals cannot be compared",
            hint="fit both at one level",
        )
    end = float(min(a.data.n.max(), b.data.n.max()))
    start = float(max(a.data.n.min(), b.data.n.min(), end / 10.0))
    if start >= end or math.isclose(start, end, rel_tol=1e-8):
        raise UserError("the two ladders share no range of images", hint="compare ladders that overlap")
    seeds_of = [set(law.data.group_labels) for law in (a, b)]
    correlation, paired = shared_noise([a.data, b.data]), len(seeds_of[0] & seeds_of[1])
    a, b = _together(a, b)
    decades = math.log10(end / start)
    gains = [law.gain_draws(start, end) for law in (a, b)]
    value, drawn = (gains[0][0] - gains[1][0]) / decades, (gains[0][1] - gains[1][1]) / decades
    per_decade = a.estimate(value, drawn)
    levels = {}
    for n in at or (end,):
        (level_a, drawn_a), (level_b, drawn_b) = (_level_draws(law, n) for law in (a, b))
        levels[float(n)] = a.estimate(level_a - level_b, drawn_a - drawn_b)
    settled = judged(per_decade.probability) in ("gains", "loses")
    ways = None if settled else _settling(value, drawn, a, b)
    verdict = _verdict(per_decade, names, (start, end), ways, decimals(a), a.level)
    seeds, rungs, visible = (0, 0, None) if ways is None else (ways.seeds, ways.rungs, ways.visible)
    paired = paired if correlation else 0
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
