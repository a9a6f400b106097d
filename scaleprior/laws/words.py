"""What a law says in words: its form and why, how little it proves, and whether the data contradict log-linear."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scaleprior.laws.candidates import fit_candidates
from scaleprior.laws.forms.power import LogLinear
from scaleprior.laws.forms.registry import CALIBRATED

if TYPE_CHECKING:
    from scaleprior.laws.law import Law

__all__ = ["decimals", "explain", "log_linear_verdict", "number"]

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


def explain(law: Law) -> str:
    """The selection in words: a few sentences."""
    used, left_out = law.selection.used, law.selection.left_out
    sizes = law.data.sizes.size
    held = law.selection.held_back
    sentences = []
    if len(held) == 1:
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
    foreign = [c.form.name for c in law.candidates if c.form not in CALIBRATED and c.form.name in used]
    if foreign:
        sentences.append(f"How far intervals hold was not measured with {', '.join(dict.fromkeys(foreign))}.")
    if sizes <= 5:
        sentences.append(
            f"{sizes} fractions prove little: the interval rests on assumed smoothness as much as on the data; "
            "add fractions or seeds before relying on the forecast."
        )
    top, first = (
        law.data.metric[law.data.n == law.data.n.max()].mean(),
        law.data.metric[law.data.n == law.data.n.min()].mean(),
    )
    if np.ptp(law.data.metric) == 0:
        sentences.append("The metric is the same at every fraction: no gain was seen, the law is a constant.")
    elif (top < first) == (law.kind == "score"):
        sentences.append(
            "The metric is worse at the largest fraction than at the smallest: no gain from data was seen here."
        )
    if law.raw_sigma > law.sigma:
        sentences.append(
            "The values rise and fall far less than independent measurements at their distance from the law would: "
            "they look averaged or a running best, so a raw measurement is taken to scatter twice as much."
        )
    sentences.append(log_linear_verdict(law))
    return " ".join(sentences)
