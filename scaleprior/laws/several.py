"""``fit_laws``: the laws of several ladders, fitted together where that is right and affordable."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from scaleprior.errors import UserError
from scaleprior.laws.combination import Combination
from scaleprior.laws.fit import FormChoice, check_draws, combine, fit_combined
from scaleprior.laws.law import Law
from scaleprior.laws.observations import Observations, observe
from scaleprior.wording import Wording, counted

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
            lent what they know.
        notes: why others were fitted alone.
    """

    def __init__(
        self,
        laws: Mapping[str, Law],
        left_out: Mapping[str, Wording],
        together: Sequence[tuple[str, ...]] = (),
        notes: Sequence[str] = (),
    ) -> None:
        super().__init__(laws)
        self.left_out: dict[str, Wording] = dict(left_out)
        self.together: tuple[tuple[str, ...], ...] = tuple(together)
        self.notes: tuple[str, ...] = tuple(notes)


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
    apart: Collection[str] = (),
    forms: FormChoice | Sequence[FormChoice] = "auto",
    seed: int = 0,
    level: float = 0.9,
) -> Laws:
    """Fit ladders of one kind, together as far as :data:`MOST_LADDERS` and :data:`MOST_FRACTIONS` go.

    Args:
        ladders: name -> measurements; those of one unit are fitted together.
        apart: names of ladders that lend nothing and borrow nothing, whose rungs are not comparable.
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
    together, notes = [], []
    for names in _groups(combined, apart):
        fractions = sum(combined[name].data.sizes.size for name in names)
        if len(names) > 1 and (len(names) > MOST_LADDERS or fractions > MOST_FRACTIONS):
            parts: list[tuple[str, ...]] = [(name,) for name in names]
            notes.append(_alone(len(names), fractions))
        else:
            parts = [names]
            together += [names] if len(names) > 1 else []
        for part in parts:
            laws |= fit_combined({name: combined[name] for name in part}, seed=seed, level=level)
    return Laws({name: laws[name] for name in ladders if name in laws}, failed, together, notes)


def fitted_how(laws: Mapping[str, Law]) -> str:
    """Whether the laws of one :func:`fit_ladders` were fitted together, in a sentence; "" of a single law."""
    if len(laws) < 2:
        return ""
    if len({id(law.process) for law in laws.values()}) == 1:
        return "The laws are fitted together: noise, bends and how alike the shapes are is learnt from all of them."
    return f"{_alone(len(laws), sum(law.data.sizes.size for law in laws.values()))}."


def _alone(laws: int, fractions: int) -> str:
    return (
        f"The {laws} laws with {counted(fractions, 'fractions')} in all are fitted each alone: at most {MOST_LADDERS} "
        f"laws with {MOST_FRACTIONS} fractions are fitted together"
    )


def _groups(ladders: Mapping[str, Combination], apart: Collection[str]) -> list[tuple[str, ...]]:
    """Which may be fitted together: those of one unit, but for those that stand apart."""
    groups: dict[object, list[str]] = {}
    for name, one in ladders.items():
        unit = (one.data.bounded, one.data.scale if one.data.bounded else 0.0)
        groups.setdefault(name if name in apart else unit, []).append(name)
    return [tuple(names) for names in groups.values()]
