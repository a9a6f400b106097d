"""Which candidates a law combines: all the forms that can bend, unless held-back points speak against one.

Why not the single best: over the benchmark's series, the form that predicts the held-back points best is a worse
forecaster than the plain mean of the forms that pass (docs/laws.md gives the figures). Hold-outs are noisy judges of
the good and reliable judges of the bad, so they are used as a veto, and to admit the two straight laws (log-linear
and M1), which the bending forms contain as limits. Both thresholds were set on the benchmark, with the seven forms of
``forms.registry.CALIBRATED``; other forms are judged by them, too, but nothing says how well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from scaleprior.laws.candidates import Candidate
from scaleprior.laws.forms.form import Array

__all__ = ["Selection", "select"]

_STANDS_OUT = 0.5  # a straight law joins if it misses by this much less than the best bending form
_VETO = 3.0  # a form this much worse on held-back points than the median bending form is left out


@dataclass(frozen=True)
class Selection:
    """The outcome: weights [C] over the candidates (sum 1), per form its hold-out error, and which are in and not."""

    weights: Array
    held_back: dict[str, float]
    used: tuple[str, ...]
    left_out: tuple[str, ...]


def _judgement(candidate: Candidate, sigma: float) -> float:
    """Root mean square of what a candidate missed on held-back points and in its own fit, with the noise as a floor."""
    held = float(np.mean(candidate.held_back**2)) if candidate.held_back.size else 0.0
    return float(np.sqrt(held + candidate.misfit**2 + sigma**2))


def select(candidates: Sequence[Candidate], sigma: float) -> Selection:
    """Weigh candidates.

    Args:
        candidates: fitted forms; each with hold-out errors of ln e.
        sigma: noise of ln e; forms whose errors differ by less are not told apart.
    """
    misses = np.array([_judgement(c, sigma) for c in candidates])
    names = [c.form.name for c in candidates]
    bending = np.array([c.form.bends for c in candidates])
    yardstick = float(np.median(misses[bending])) if bending.any() else float(misses.min())
    best = float(misses[bending].min()) if bending.any() else 0.0
    admitted = misses <= np.where(bending, _VETO * yardstick, _STANDS_OUT * best)
    if not bending.any():
        admitted = misses <= _VETO * yardstick
    weights = np.where(admitted, 1.0, 0.0)
    held = {
        name: float(min(misses[i] for i, other in enumerate(names) if other == name)) for name in dict.fromkeys(names)
    }
    used = tuple(name for name in held if any(a and n == name for a, n in zip(admitted, names)))
    return Selection(weights / weights.sum(), held, used, tuple(name for name in held if name not in used))
