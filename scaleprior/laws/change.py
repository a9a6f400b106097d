"""Is a mean over seeds higher than another? The change with its standard error, interval and probability.

Runs of one fraction differ by their seeds. How far is estimated from all fractions of an architecture together
(``pooled_spread``), because the two that are compared have too few to say; Student's t of the change is then exact
where seeds scatter alike at every fraction. Where the same seeds stand on both sides, they are not paired: two pairs
leave one degree of freedom, so that of changes of three standard deviations a third is seen instead of four fifths.
Seeds that go the same way everywhere only make what is said here more careful (docs/laws.md has the figures).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy import special

from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["Change", "mean_change", "pooled_spread"]


@dataclass(frozen=True)
class Change:
    """First mean minus second, with its interval.

    Attributes:
        value: the difference of the means.
        low, high: central interval at ``level``; nan where the spread is not known.
        probability: that runs of the first kind are higher on average; nan where the spread is not known.
        error: standard error of ``value``, spread x sqrt(1 / runs of the first + 1 / runs of the second).
        runs: measurements on either side.
        level: the nominal coverage of the interval.
    """

    value: float
    low: float
    high: float
    probability: float
    error: float
    runs: tuple[int, int]
    level: float

    @property
    def known(self) -> bool:
        """Whether there is more to say than the number: runs were repeated, and did scatter."""
        return math.isfinite(self.probability)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; what is not known is None."""
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in vars(self).items()}


def pooled_spread(fractions: Iterable[ArrayLike]) -> tuple[float, int]:
    """Standard deviation between runs of one fraction, from all fractions with two runs or more.

    sqrt(sum of squared deviations from each fraction's mean / dof), dof = sum of (runs - 1).

    Args:
        fractions: the measurements of each.

    Returns:
        (spread, dof); (nan, 0) where no fraction has two runs.
    """
    repeated = [runs for runs in (np.asarray(given, dtype=float) for given in fractions) if runs.size > 1]
    dof = sum(runs.size - 1 for runs in repeated)
    squares = sum(float(((runs - runs.mean()) ** 2).sum()) for runs in repeated)
    return (math.sqrt(squares / dof), dof) if dof else (math.nan, 0)


def mean_change(first: ArrayLike, second: ArrayLike, *, spread: float, dof: int, level: float = 0.9) -> Change:
    """How much higher the mean of ``first`` is than that of ``second``.

    Args:
        first, second: a metric of independent runs, at least one each.
        spread: standard deviation of one run, of :func:`pooled_spread`. Where it is nan or 0 (no run was repeated, or
            all gave the same), the change is a number without interval: 0 is no measured spread.
        dof: its degrees of freedom.
        level: nominal coverage of the interval, in (0, 1).

    Raises:
        UserError: no runs on a side, a spread or degrees of freedom below 0, or a level outside (0, 1).
    """
    a, b = (np.asarray(runs, dtype=float).ravel() for runs in (first, second))
    runs = (a.size, b.size)
    if not all(runs):
        raise UserError(f"a change between {runs[0]} and {runs[1]} runs", hint="it needs a run on either side")
    if not 0.0 < level < 1.0:
        raise UserError(f"{parameter('level')} {level} is not inside (0, 1)", hint="0.9 is usual")
    if spread < 0 or dof < 0:
        raise UserError(f"a spread of {spread:g} with {dof} degrees of freedom", hint="neither can be negative")
    value = float(a.mean() - b.mean())
    if not (spread > 0 and dof > 0):
        return Change(value, math.nan, math.nan, math.nan, math.nan, runs, level)
    error = spread * math.sqrt(1.0 / runs[0] + 1.0 / runs[1])
    half = float(special.stdtrit(dof, 0.5 + level / 2.0)) * error
    probability = float(special.stdtr(dof, value / error))
    return Change(value, value - half, value + half, probability, error, runs, level)
