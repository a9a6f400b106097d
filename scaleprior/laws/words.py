"""What laws say in words: verdicts by probability, images that a target needs, a law's form, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.laws.candidates import DENSE, fit_candidates
from scaleprior.laws.forms.power import LogLinear
from scaleprior.laws.forms.registry import CALIBRATED

if TYPE_CHECKING:
    from scaleprior.laws.law import Estimate, Law

__all__ = [
    "GAINS",
    "PROBABLY",
    "cautions",
    "chance",
    "decimals",
    "explain",
    "judged",
    "log_linear_verdict",
    "needs",
    "number",
    "percent",
    "shared_notes",
    "shared_reasons",
]

GAINS = 0.95
"""Probability from which it is said that something gains (helps, is better); up to 1 - GAINS, that it loses."""
PROBABLY = 0.80
"""Probability from which it is said that something probably gains; up to 1 - PROBABLY, that it probably loses."""

_CONTRADICTED = 2.0  # log-linear misses by this factor more than the law does, beyond the noise


def number(n: float) -> str:
    """Images for people: 950, 12,800, 3.2M, 1.1B, or 'out of reach'."""
    if not np.isfinite(n):
        return "out of reach"
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return f"{n:,.0f}"


def decimals(law: Law) -> int:
    """Decimals that a metric of this law is shown with: 2 in percent, as AP is, and 4 in fractions."""
    return 4 if law.data.scale <= 1.0 else 2


def log_linear_verdict(law: Law) -> str:
    """Whether a straight line in log n describes the data, and over which range it does."""
    data = law.data
    found = [c for c in law.candidates if isinstance(c.form, LogLinear) and c.power == 0]
    u, z = np.log(data.n / law.n_ref), np.log(data.e)
    line = found[0] if found else fit_candidates([LogLinear()], u, z, data.w, sigma=law.sigma, powers=[0.0])[0]
    miss = np.abs(line.log_error(u) - z)
    fitted = law.log_error(data.n)
    excess = np.sqrt(np.average((line.log_error(u) - z) ** 2, weights=data.w))
    usual = max(float(np.sqrt(np.average((fitted - z) ** 2, weights=data.w))), law.sigma)
    if excess <= _CONTRADICTED * usual:
        return "The log-linear law (equal gain per factor of ten) is not contradicted by these data."
    inside = data.n[miss <= 2.0 * usual]
    where = (
        f" It holds to within the noise only between {number(inside.min())} and {number(inside.max())} images."
        if inside.size > 1
        else ""
    )
    return (
        f"The data contradict the log-linear law: a straight line misses them by {excess / usual:.1f} times the noise; "
        f"do not extrapolate it.{where}"
    )


def percent(level: float) -> str:
    """The coverage of an interval: ``90 %``."""
    return f"{100.0 * level:.4g} %"


def judged(probability: float, gains: str = "gains", loses: str = "loses") -> str:
    """A probability in words: "gains", "probably gains", "open", "probably loses" or "loses".

    Args:
        probability: that a number is above 0; nan, where nobody knows, is "open".
        gains: the verb for a number above 0. loses: for one below.
    """
    for chance_of, verb in ((probability, gains), (1.0 - probability, loses)):
        if chance_of >= GAINS:
            return verb
        if chance_of >= PROBABLY:
            return f"probably {verb}"
    return "open"


def chance(probability: float) -> str:
    """A probability with two digits, cut towards 1/2 so that a figure never says more than the words: 0.948 is 0.94."""
    hundredths = round(100.0 * probability, 9)  # of 0.29 it is 28.999999999999996
    return f"{(math.floor(hundredths) if probability >= 0.5 else math.ceil(hundredths)) / 100.0:.2f}"


def needs(images: Estimate, law: Law, target: float) -> str:
    """What follows "AP 40": how many images the target needs, that it is reached already, or that it is out of reach.

    Args:
        images: of :meth:`Law.images_for` the target.
        law: it; where its curve falls again below a target that was reached on the way, that is said.
        target: in the metric's unit.
    """
    first, last = float(law.data.n.min()), float(law.data.n.max())
    level = percent(law.level)
    if not math.isfinite(images.value):
        best = f"; the {level} interval's best end needs {number(images.low)} images" if images.low < math.inf else ""
        return f"is out of reach{best}{_if_at_all(images)}"
    if images.value <= first:
        words = f"is reached already at the smallest fraction measured ({number(first)} images)"
        interval = "" if images.high <= first else f" ({level} interval up to {number(images.high)})"
    else:
        words = f"needs {number(images.value)} images"
        if images.value <= last:
            words = f"is reached within the ladder, at {number(images.value)} images"
        low = f"{number(first)} or fewer" if images.low <= first else number(images.low)
        interval = f" ({level} interval {low} to {number(images.high)})"
    at_top = float(law.predict(last)[0])
    lost = images.value < last and (at_top < target if law.kind == "score" else at_top > target)
    return words + interval + (f", and lost again by {number(last)}" if lost else "") + _if_at_all(images)


def _if_at_all(images: Estimate) -> str:
    """The probability that a target is reached, where the interval leaves it open."""
    if math.isfinite(images.high) or not math.isfinite(images.probability):
        return ""
    return f"; probability that it is reached at all {chance(images.probability)}"


def explain(law: Law) -> str:
    """The selection in words: which forms the law is of, and which were left out."""
    used, left_out = law.selection.used, law.selection.left_out
    sentences = []
    if len(law.selection.held_back) == 1:
        sentences.append(f"The form {used[0]} was asked for.")
    elif len(used) == 1:
        sentences.append(f"{used[0]} alone predicted the held-back largest points acceptably.")
    else:
        sentences.append(
            f"Equal-weight combination of {', '.join(used)}: "
            "none of them stands out in predicting held-back largest points."
        )
    bending = {c.form.name for c in law.candidates if c.form.bends}
    missed = [name for name in left_out if name in bending]
    if missed:
        sentences.append(f"Left out after missing them badly: {', '.join(missed)}.")
    straight = [name for name in left_out if name not in bending]
    if straight:
        sentences.append(f"Shown but not used, being limits of those: {', '.join(straight)}.")
    return " ".join(sentences)


def cautions(law: Law) -> tuple[str, ...]:
    """What to beware of, each a sentence or two that may hold for other laws as well: see :func:`shared_notes`."""
    data, sizes = law.data, law.data.sizes.size
    foreign = [c.form.name for c in law.candidates if c.form not in CALIBRATED and c.form.name in law.selection.used]
    notes = []
    if foreign:
        notes.append(f"How far intervals hold was not measured with {', '.join(dict.fromkeys(foreign))}.")
    if sizes <= 5:
        notes.append(
            f"{sizes} fractions prove little: the interval rests on assumed smoothness as much as on the data; "
            "add fractions or seeds before relying on the forecast."
        )
    if data.n.size == sizes < DENSE:
        notes.append("One run a fraction: how far runs scatter is known from their distance to the law only.")
    first, top = (data.metric[data.n == n].mean() for n in (data.n.min(), data.n.max()))
    if np.ptp(data.metric) == 0:
        notes.append("The metric is the same at every fraction: no gain was seen, the law is a constant.")
    elif (top < first) == (law.kind == "score") and top != first:
        places = decimals(law)
        notes.append(
            f"The metric is worse at the largest fraction ({top:.{places}f}) than at the smallest ({first:.{places}f})."
        )
    if law.raw_sigma > law.sigma:
        notes.append(
            "The values rise and fall far less than independent measurements at their distance from the law would: "
            "they look averaged or a running best, so a raw measurement is taken to scatter twice as much."
        )
    return (*notes, log_linear_verdict(law))


def shared_reasons(laws: Mapping[str, Law]) -> list[str]:
    """Each law's ``why``, said once for all laws that have it in common; see :func:`shared_notes`."""
    return _once(laws, lambda law: (law.why,))


def shared_notes(laws: Mapping[str, Law]) -> list[str]:
    """The notes of several laws, each said once; one that does not hold for all names those that it holds for."""
    return _once(laws, lambda law: law.notes)


def _once(laws: Mapping[str, Law], said_of: Callable[[Law], tuple[str, ...]]) -> list[str]:
    said: dict[str, list[str]] = {}
    for name, law in laws.items():
        for sentence in said_of(law):
            said.setdefault(sentence, []).append(name)
    return [s if len(names) == len(laws) else f"{', '.join(names)}: {s}" for s, names in said.items()]
