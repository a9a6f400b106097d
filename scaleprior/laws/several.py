"""``fit_laws``: the laws of several ladders, fitted together where that is right and affordable."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.combination import Combination
from scaleprior.laws.fit import FormChoice, check_draws, combine, fit_combined
from scaleprior.laws.law import Law
from scaleprior.laws.noise import odd_one
from scaleprior.laws.observations import Observations, observe
from scaleprior.wording import Wording

__all__ = ["MOST_FRACTIONS", "MOST_LADDERS", "Ladder", "Laws", "fit_ladders", "fit_laws", "fit_observed", "fitted_how"]

MOST_LADDERS, MOST_FRACTIONS = 12, 120
"""What is fitted together at most, about 1.5 seconds: the work grows with the cube of all fractions."""


class Ladder(NamedTuple):
    """The measurements of one ladder, each [K]: images, the metric, and what runs share, usually the seed."""

    images: ArrayLike
    metric: ArrayLike
    seeds: Sequence[Hashable] | None = None


_Plain = tuple[ArrayLike, ArrayLike] | tuple[ArrayLike, ArrayLike, Sequence[Hashable] | None]


class Laws(dict[str, Law]):
    """Laws by name.

    Attributes:
        left_out: name -> why, of the ladders that no law was fitted to.
        together: the names of laws that were fitted together, by group; also of ladders that were not asked for but
            lent what they know. Why another was fitted alone is one of its ``notes``.
    """

    def __init__(
        self,
        laws: Mapping[str, Law],
        left_out: Mapping[str, Wording],
        together: Sequence[tuple[str, ...]] = (),
    ) -> None:
        super().__init__(laws)
        self.left_out: dict[str, Wording] = dict(left_out)
        self.together: tuple[tuple[str, ...], ...] = tuple(together)


def fit_laws(
    ladders: Mapping[str, Ladder | _Plain],
    *,
    kind: str = "score",
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> Laws:
    """Fit the laws of several architectures (or recipes) together.

    How far runs scatter, how fast curves bend and how alike the curves are is learnt from all of them, so that a short
    ladder borrows from a long one as far as their shapes agree; levels are each one's own. Draws are joint: differences
    of these laws (:func:`scaleprior.laws.compare_laws`) agree with their predictions. A ladder that no law can be
    fitted to costs the others nothing. Up to 12 ladders with 120 fractions in all are fitted together, more each alone.

    Args:
        ladders: name -> (images, metric) or (images, metric, seeds), as for :func:`scaleprior.laws.fit_law`.
        kind, forms, seed, level: as for :func:`scaleprior.laws.fit_law`.
        unit: as for :func:`scaleprior.laws.fit_law`, one for all: "auto" takes a value above 1 in any ladder to say
            that none is in fractions.

    Returns:
        The laws in the order of ``ladders``; ``.left_out`` says which have none and why, ``.together`` which were
        fitted together.

    Raises:
        UserError: no ladder can have a law; says why, of the first.
    """
    given = {name: Ladder(one[0], one[1], one[2] if len(one) > 2 else None) for name, one in ladders.items()}
    if not given:
        raise UserError("no ladders to fit", hint="give name -> (images, metric, seeds)")
    laws = fit_ladders(given, kind=kind, forms=forms, seed=seed, unit=unit, level=level)
    if not laws:
        name, why = next(iter(laws.left_out.items()))
        raise UserError(f"{name}: {why.marked}")
    return laws


def fit_ladders(
    ladders: Mapping[str, Ladder],
    *,
    kind: str = "score",
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    unit: str = "auto",
    level: float = 0.9,
) -> Laws:
    """As :func:`fit_laws`, but no law at all is an answer, too."""
    unit = _common_unit(list(ladders.values()), kind) if unit == "auto" else unit
    observed: dict[str, Observations] = {}
    failed: dict[str, Wording] = {}
    for name, one in ladders.items():
        try:
            observed[name] = observe(one.images, one.metric, kind=kind, groups=one.seeds, unit=unit)
        except UserError as e:
            failed[name] = e.wording
    laws = fit_observed(observed, forms=forms, seed=seed, level=level)
    failed |= laws.left_out
    laws.left_out = {name: failed[name] for name in ladders if name in failed}
    return laws


def _common_unit(ladders: Sequence[Ladder], kind: str) -> str:
    """The unit of all ladders: that of their largest value; "auto" again where it is not told by numbers."""
    try:
        top = max(float(np.max(np.asarray(one.metric, dtype=float), initial=0.0)) for one in ladders)
    except (TypeError, ValueError):
        return "auto"  # what is wrong is said of the ladder that it is wrong with
    return "fraction" if top <= 1.0 else "percent" if kind == "score" else "loss"


def fit_observed(
    ladders: Mapping[str, Observations],
    *,
    kinds: Mapping[str, Hashable] | None = None,
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    level: float = 0.9,
) -> Laws:
    """Fit ladders of one kind, together as far as :data:`MOST_LADDERS` and :data:`MOST_FRACTIONS` go.

    Args:
        ladders: name -> measurements; those of one unit and of one noise are fitted together.
        kinds: name -> what ladders must have in common to lend and borrow; None where all are of a kind.
        forms, seed, level: as for :func:`scaleprior.laws.fit_law`.

    Returns:
        The laws; ``.left_out`` has those that the forms do not fit.

    Raises:
        UserError: a seed or a level that is none.
    """
    check_draws(seed, level)
    combined: dict[str, Combination] = {}
    failed: dict[str, Wording] = {}
    for name, data in ladders.items():
        try:
            combined[name] = combine(data, forms)
        except UserError as e:
            failed[name] = e.wording
    laws: dict[str, Law] = {}
    together = []
    for names, why_alone in _groups(combined, kinds or {}):
        found = fit_combined({name: combined[name] for name in names}, seed=seed, level=level)
        laws |= {name: replace(law, notes=(*law.notes, *why_alone)) for name, law in found.items()}
        together += [names] if len(names) > 1 else []
    return Laws({name: laws[name] for name in ladders if name in laws}, failed, together)


def fitted_how(laws: Mapping[str, Law]) -> list[str]:
    """Which of the laws of one :func:`fit_ladders` were fitted together, a sentence for each group."""
    groups: dict[int, list[str]] = {}
    for name, law in laws.items():
        groups.setdefault(id(law.process), []).append(name)
    together = [names for names in groups.values() if len(names) > 1]
    if len(together) == 1 and len(together[0]) == len(laws):
        return ["The laws are fitted together: noise, bends and how alike the shapes are is learnt from all of them."]
    return [f"Fitted together: {', '.join(names)}." for names in together]


def _groups(
    ladders: Mapping[str, Combination], kinds: Mapping[str, Hashable]
) -> list[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Names that are fitted together, those of one kind, one unit and one noise, and why one is fitted alone."""
    groups: dict[Hashable, list[str]] = {}
    for name, one in ladders.items():
        unit = (one.data.bounded, one.data.scale if one.data.bounded else 0.0)
        groups.setdefault((kinds.get(name), unit), []).append(name)
    found: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    for names in groups.values():
        while len(names) > 1 and (odd := odd_one([ladders[name].data for name in names])):
            name = names.pop(odd[0])
            why = f"its runs scatter {odd[1]:.2g} times as far from each other as those of {', '.join(names)}"
            found.append(((name,), (f"Fitted alone: {why} (in ln of the error).",)))
        fractions = sum(ladders[name].data.sizes.size for name in names)
        if len(names) > 1 and (len(names) > MOST_LADDERS or fractions > MOST_FRACTIONS):
            why = (
                f"Fitted alone: at most {MOST_LADDERS} laws with {MOST_FRACTIONS} fractions are fitted together, these "
                f"are {len(names)} with {fractions}."
            )
            found += [((name,), (why,)) for name in names]
        else:
            found.append((tuple(names), ()))
    return found
