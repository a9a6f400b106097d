"""What laws say in words: verdicts by probability, images that a target needs, a law's form, and what to beware of."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.laws.candidates import DENSE
from scaleprior.laws.forms.registry import CALIBRATED

if TYPE_CHECKING:
    from scaleprior.laws.answers import Answers, Estimate
    from scaleprior.laws.law import Law
    from scaleprior.laws.straightness import Straightness

__all__ = [
    "GAINS",
    "PROBABLY",
    "cautions",
    "chance",
    "decimals",
    "explain",
    "judged",
    "log_linear_notes",
    "needs",
    "number",
    "number_key",
    "percent",
    "shared_notes",
    "shared_reasons",
    "thresholds",
]

GAINS = 0.95
"""Probability from which it is said that something gains (helps, is better); up to 1 - GAINS, that it loses."""
PROBABLY = 0.80
"""Probability from which it is said that something probably gains; up to 1 - PROBABLY, that it probably loses."""

_POWERFUL = 0.8  # a test that finds out fewer bends says little by finding none
_UNTESTED = (
    "Nothing here can test the log-linear law (equal gain per factor of ten): that takes a second seed or a fourth "
    "fraction."
)


def number(n: float) -> str:
    """Images for people: 950, 12,800, 3.2M, 1.1B, or 'out of reach'."""
    if not np.isfinite(n):
        return "out of reach"
    for size, letter in ((1e9, "B"), (1e6, "M")):
        if n >= size:
            return f"{n / size:.3g}{letter}"
    return f"{n:,.0f}"


def number_key(n: float) -> str:
    """A number as a key of JSON: short (``1e+06``) where that is all of it, else with every digit."""
    short = f"{n:g}"
    return short if float(short) == n else repr(float(n))


def decimals(law: Answers) -> int:
    """Decimals that a metric of this law is shown with: 2 in percent, as AP is, and 4 in fractions."""
    return 4 if law.unit.scale <= 1.0 else 2


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


def thresholds() -> str:
    """The scale of :func:`judged` in a sentence, to stand where its words do."""
    gains, probably, unlikely, loses = (f"{p:.2f}" for p in (GAINS, PROBABLY, 1.0 - PROBABLY, 1.0 - GAINS))
    return (
        f"Words follow the probability of a gain: {gains} and more gains (helps), {probably} and more probably gains, "
        f"{unlikely} and less probably loses (hurts), {loses} and less loses; between, it is open."
    )


def chance(probability: float) -> str:
    """A probability with two digits, from 0.01 to 0.99: no estimate is more certain.

    It is cut towards 1/2, so that a figure never says more than the words: 0.948 is 0.94.
    """
    hundredths = round(100.0 * probability, 9)  # of 0.29 it is 28.999999999999996
    cut = min(math.floor(hundredths), 99) if probability >= 0.5 else max(math.ceil(hundredths), 1)
    return f"{cut / 100.0:.2f}"


def needs(images: Estimate, law: Answers, target: float) -> str:
    """What follows "AP 40": how many images the target needs, that it is reached already, or that it is out of reach.

    Args:
        images: of :meth:`Law.images_for` the target.
        law: it; where its curve falls again below a target that was reached on the way, that is said.
        target: in the metric's unit.
    """
    first, last = law.first, law.last
    level = percent(law.level)
    if not math.isfinite(images.value):
        best = f"; the {level} interval's best end needs {number(images.low)} images" if images.low < math.inf else ""
        beyond = "is not reached by the law itself" if images.probability > 0.5 else "is out of reach"
        return f"{beyond}{best}{_if_at_all(images)}"
    if images.value <= first:
        words = f"is reached already at the smallest fraction measured ({number(first)} images"
        if not math.isfinite(images.high):
            words += f"; the {level} interval's worst end does not get there"
        elif images.high > first:
            words += f"; {level} interval up to {number(images.high)}"
        words += ")"
    else:
        inside = images.value <= last
        words = f"{'is reached within the ladder, at' if inside else 'needs'} {number(images.value)} images"
        low = f"{number(first)} or fewer" if images.low <= first else number(images.low)
        words += f" ({level} interval {low} to {number(images.high)})"
    at_top = float(law.predict(last)[0])
    lost = images.value < last and (at_top < target if law.kind == "score" else at_top > target)
    return words + (f", and lost again by {number(last)}" if lost else "") + _if_at_all(images)


def _if_at_all(images: Estimate) -> str:
    """The probability that a target is reached, where the interval leaves it open."""
    if math.isfinite(images.high) or not math.isfinite(images.probability):
        return ""
    return f"; probability that it is reached at all {chance(images.probability)}"


def explain(law: Law) -> str:
    """The selection in words: which forms the law is of, and which were left out."""
    used, left_out = law.selection.used, law.selection.left_out
    held_back = law.candidates[0].held_back.size > 0
    sentences = []
    if len(law.selection.held_back) == 1:
        sentences.append(f"The form {used[0]} was asked for.")
    elif len(used) == 1:
        told = "predicted the held-back largest points" if held_back else "passes the points"
        sentences.append(f"{used[0]} alone {told} acceptably.")
    else:
        told = "none of them stands out in predicting held-back largest points"
        if not held_back:
            told = f"of {law.data.sizes.size} fractions none can be held back to tell them apart"
        sentences.append(f"Equal-weight combination of {', '.join(used)}: {told}.")
    bending = {c.form.name for c in law.candidates if c.form.bends}
    missed = [name for name in left_out if name in bending]
    if missed:
        sentences.append(f"Left out after missing {'them' if held_back else 'the points'} badly: {', '.join(missed)}.")
    straight = [name for name in left_out if name not in bending]
    if straight:
        sentences.append(f"Shown but not used, being limits of those: {', '.join(straight)}.")
    if len(law.selection.held_back) > 1 and not law.forms.can_fall and judged(law.per_decade.probability) == "loses":
        sentences.append(
            "The metric falls, which forms that only rise cannot follow: the law is that of the measurements alone."
        )
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
    return (*notes, *log_linear_notes({"": law}))


def log_linear_notes(laws: Mapping[str, Law]) -> list[str]:
    """Whether the data contradict the log-linear law, and if not, how often they would have found out a bent one.

    A sentence for all laws of which nothing can be tested, one for all that are not contradicted, one for each that is;
    names stand before those that are not for all. Nothing is said of a metric that never changes.
    """
    found = {name: law.straightness for name, law in laws.items() if np.ptp(law.data.metric) > 0}
    untested = {name: s for name, s in found.items() if math.isnan(s.p_value)}
    open_to = {name: s for name, s in found.items() if not (name in untested or s.contradicted)}
    said = [(list(untested), _UNTESTED)] if untested else []
    for word in ("gain", "decline"):
        alike = {name: s for name, s in open_to.items() if (sum(s.halves) >= 0) == (word == "gain")}
        if alike:
            said.append((list(alike), _not_contradicted([s.power for s in alike.values()], word)))
    said += [([name], _contradicted(s, decimals(laws[name]))) for name, s in found.items() if s.contradicted]
    return [_named(names, sentence, laws) for names, sentence in said]


def _not_contradicted(powers: list[float], word: str) -> str:
    low, high = (min(round(100.0 * power), 99) for power in (min(powers), max(powers)))
    but, only = ("; but", "only ") if max(powers) < _POWERFUL else (";", "")
    often = f"{low}" if low == high else f"{low} to {high}"
    return (
        f"The log-linear law (equal gain per factor of ten) is not contradicted by these data{but} a law whose {word} "
        f"halves from the first half of the ladder to the second would be found out in {only}{often} of 100 such "
        "ladders."
    )


def _contradicted(found: Straightness, places: int) -> str:
    first, second = (f"{half:+.{places}f}" for half in found.halves)
    where = "over no three neighbouring fractions"
    if found.holds_between is not None:
        where = "only between {} and {} images".format(*map(number, found.holds_between))
    p = f"p = {found.p_value:.2g}" if found.p_value >= 1e-3 else "p < 0.001"
    return (
        f"The data contradict the log-linear law ({p}): a straight line is off by up to {found.miss:.{places}f}, a "
        f"factor of ten brings {first} up to {number(found.middle)} images and {second} beyond. Do not extrapolate it; "
        f"it holds to within the noise {where}."
    )


def shared_reasons(laws: Mapping[str, Law]) -> list[str]:
    """Each law's ``why``, said once for all laws that have it in common; see :func:`shared_notes`."""
    return _once({name: [law.why] for name, law in laws.items()})


def shared_notes(laws: Mapping[str, Law]) -> list[str]:
    """The notes of several laws, each said once; one that does not hold for all names those that it holds for."""
    verdicts = {name: log_linear_notes({"": law}) for name, law in laws.items()}
    notes = {name: [note for note in law.notes if note not in verdicts[name]] for name, law in laws.items()}
    return _once(notes) + log_linear_notes(laws)


def _once(sentences: Mapping[str, Sequence[str]]) -> list[str]:
    """In the order in which each law says them, so that those of one kind stand together."""
    said: dict[str, tuple[int, list[str]]] = {}
    for name, own in sentences.items():
        for place, sentence in enumerate(own):
            said.setdefault(sentence, (place, []))[1].append(name)
    ordered = sorted(said.items(), key=lambda item: item[1][0])
    return [_named(names, sentence, sentences) for sentence, (_, names) in ordered]


def _named(names: Sequence[str], sentence: str, of: Collection[str]) -> str:
    """A sentence with the names that it holds for, where it does not hold for all."""
    return sentence if len(names) == len(of) else f"{', '.join(names)}: {sentence}"
