"""What would settle an open difference of two laws: how many more runs, or how large a difference would have been seen.

Plain numbers in, none of a law. A difference d of two gains has a variance in two parts: one that more runs shrink (the
noise of runs, estimated with ``dof`` degrees of freedom) and one that they leave as it is (what forms disagree on). It
is settled where the probability of its sign is at least ``words.GAINS``.

Where d itself stands is not known: the estimate after more runs is a draw around today's, not today's again. So runs
are named only if they settle d with a chance of 3 in 4, all that is uncertain counted, and not beyond what people run;
that is never so where the sign's probability is below ``words.PROBABLY``.
docs/laws.md says how often that is where there is no difference.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from scaleprior.laws.forms.form import Array
from scaleprior.laws.words import GAINS

__all__ = ["OpenDifference", "Settling", "settling", "settling_words"]

_ASSURED = 0.75  # chance that the named runs settle the difference
_SEEN = 0.80  # share of studies in which a difference "would have been seen"
_MOST_SEEDS = 10  # more for each fraction
_MOST_RUNGS = 2  # more atop each ladder; a third is hardly ever within reach
_MOST_FOR_HALF = 100  # seeds; beyond, nothing is said
_NONE = 1e-300  # a variance of 0, as of measurements that lie on their laws to the last bit


@dataclass(frozen=True)
class OpenDifference:
    """A difference and what is not known of it.

    Attributes:
        value: the estimate.
        noise: variance that more runs shrink.
        other: variance that they do not.
        dof: degrees of freedom behind ``noise``.
    """

    value: float
    noise: float
    other: float
    dof: float

    def deviation(self, share: float = 1.0) -> float:
        """Standard deviation with the noise's variance shrunk to ``share`` of it."""
        return math.sqrt(max(self.noise * share + self.other, _NONE))

    def chance(self, share: float, more_dof: float) -> float:
        """That the difference is settled, with today's sign, once runs have shrunk the noise's variance to ``share``.

        Those runs move the estimate by a variance of noise x (1 - share), of which today's estimate of the noise tells.
        """
        beyond = abs(self.value) - self._bound(share, more_dof)
        return float(stats.t.cdf(beyond / math.sqrt(max(self.noise * (1.0 - share), _NONE)), self.dof))

    def visible(self, share: float = 1.0, more_dof: float = 0.0) -> float:
        """The smallest true difference that is settled in 80 % of studies like this one."""
        spread = stats.t.ppf(_SEEN, self._dof(share, more_dof)) * self.deviation(share)
        return self._bound(share, more_dof) + float(spread)

    def _dof(self, share: float, more_dof: float) -> float:
        """Satterthwaite's degrees of freedom of both parts together."""
        noise = max(self.noise * share, _NONE)
        ratio = (noise + self.other) / noise
        return (self.dof + more_dof) * ratio * ratio

    def _bound(self, share: float, more_dof: float) -> float:
        """The smallest estimate that is settled."""
        return float(stats.t.ppf(GAINS, self._dof(share, more_dof))) * self.deviation(share)


@dataclass(frozen=True)
class Settling:
    """What would settle an open difference.

    Attributes:
        seeds: more seeds for each fraction of each ladder; None where at most 10 give no chance of 3 in 4.
        rungs: more rungs atop both ladders; None where 2 give no such chance.
        visible: the true difference that would have been seen in 80 % of such studies, in the difference's unit.
        seeds_for_half: more seeds for each fraction with which half of ``visible`` would be; None above 100.
    """

    seeds: int | None
    rungs: int | None
    visible: float
    seeds_for_half: int | None


def settling(difference: OpenDifference, sizes: Array, runs: float) -> Settling:
    """What would settle a difference of two ladders.

    Args:
        difference: it.
        sizes: [K] distinct numbers of images of the shorter ladder.
        runs: measurements per fraction of each ladder.
    """
    more = np.arange(1, _MOST_FOR_HALF + 1)
    seeds = [(float(runs / (runs + k)), 2.0 * sizes.size * float(k)) for k in more]
    rungs = [(_share(sizes, k), 2.0 * runs * k) for k in range(1, _MOST_RUNGS + 1)]
    visible = difference.visible()

    def assured(ways: list[tuple[float, float]]) -> int | None:
        return _first(difference.chance(*way) >= _ASSURED for way in ways)

    return Settling(
        seeds=assured(seeds[:_MOST_SEEDS]),
        rungs=assured(rungs),
        visible=visible,
        seeds_for_half=_first(difference.visible(*way) <= visible / 2.0 for way in seeds),
    )


def _first(met: Iterable[bool]) -> int | None:
    """1 for the first, 2 for the second, ... that is met."""
    return next((k for k, does in enumerate(met, 1) if does), None)


def _share(sizes: Array, more: int) -> float:
    """What is left of a slope's variance when a ladder goes on by ``more`` rungs, a mean step apart in log n."""
    u = np.log(sizes)
    step = (u[-1] - u[0]) / (u.size - 1)
    longer = np.concatenate([u, u[-1] + step * np.arange(1, more + 1)])
    return float(((u - u.mean()) ** 2).sum() / ((longer - longer.mean()) ** 2).sum())


def settling_words(found: Settling, places: int) -> str:
    """The clause that follows "Open ...;", with ``places`` decimals of the metric."""
    ways = []
    if found.seeds is not None:
        ways.append(f"{_more(found.seeds, 'seed')} for every fraction of both")
    if found.rungs is not None:
        ways.append(f"{_more(found.rungs, 'rung')} at the top of both ladders")
    if ways:
        return f"{' or '.join(ways)} would settle it with a chance of about 3 in 4"
    seen = f"a difference of {found.visible:.{places}f} would have been seen in 4 of 5 such studies"
    if found.seeds_for_half is None:
        return f"{seen}; to see one half as large, seeds alone do not do"
    return f"{seen}; to see one half as large takes {_more(found.seeds_for_half, 'seed')} for every fraction of both"


def _more(count: int, noun: str) -> str:
    return f"{count} more {noun}{'' if count == 1 else 's'}"
