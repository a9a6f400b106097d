"""One trunk of several: what the user says, else what their publisher's rule says; else it is asked for."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.search.fit import Fit
from scaleprior.backbones.readers.search.names import Names, bare
from scaleprior.backbones.readers.search.rules import equal_ones, preferred
from scaleprior.errors import UserError
from scaleprior.wording import Wording, parameter

__all__ = ["choose", "narrowed"]


def narrowed(fits: Sequence[Fit], options: ReadOptions, names: Names, where: str) -> list[Fit]:
    """Those that the options ``prefix`` and ``select`` leave.

    Raises:
        UserError: none; lists what there is.
    """
    fits, places = list(fits), [fit.place.words for fit in fits]
    if options.prefix is not None:
        fits = _at_prefix(fits, bare(options.prefix))
        if not fits:
            raise _leads_nowhere("prefix", options.prefix, "no known names begin there", places, names, where)
    if options.select is not None:
        whole = [fit for fit in fits if fit.whole]
        fits = _with_word(whole, options.select) or _with_word(fits, options.select)
        if not fits:
            raise _leads_nowhere(
                "select", options.select, "that is no word of where a trunk stands", places, names, where
            )
    return fits


def _at_prefix(fits: Sequence[Fit], prefix: str) -> list[Fit]:
    forms = {prefix, f"{prefix}."} if prefix else {""}
    return [fit for fit in fits if forms & {*fit.place.inner, *fit.place.prefixes}]


def _with_word(fits: Sequence[Fit], word: str) -> list[Fit]:
    """Those with it as a whole part of where they stand; without such, those with it within."""
    word = bare(word).strip(".")
    whole = [fit for fit in fits if word in fit.place.parts]
    return whole or [fit for fit in fits if any(word in prefix for prefix in fit.place.prefixes)]


def _leads_nowhere(option: str, value: str, why: str, places: Sequence[str], names: Names, where: str) -> UserError:
    there = f"they begin in {', '.join(places[:8])}; " if places else ""
    return UserError(f"{where}: {parameter(option)} is {value!r}, and {why}", hint=f"{there}it holds: {names.tree()}")


def choose(fits: Sequence[Fit], names: Names, where: str, keys: Collection[str] = ()) -> tuple[Fit, list[str]]:
    """(the trunk that is meant, what was chosen and why).

    Args:
        fits: at least one.
        keys: at the top of the file.

    Raises:
        UserError: no rule decides; lists them and the options that do.
    """
    groups = equal_ones(fits, names)
    chosen, reasons = groups[0][0], []
    if len(groups) > 1:
        decided = preferred(groups, keys)
        if decided is None:
            raise _undecided(groups, where)
        chosen, reasons = decided
    copies = [fit.place.words for group in groups if chosen in group for fit in group if fit is not chosen]
    others = [fit.place.words for group in groups if chosen not in group for fit in group]
    notes = [f"the same numbers stand in {', '.join(copies)}"] if copies else []
    if others:
        why = "; ".join(reasons)
        notes.append(
            Wording(f"took {chosen.place.words}, not {', '.join(others)} ({why}); {parameter('select')} chooses")
        )
    return chosen, notes


def _undecided(groups: Sequence[Sequence[Fit]], where: str) -> UserError:
    found = [
        f"{group[0].place.words} ({group[0].arch.name if group[0].arch else group[0].place.layout.name})"
        for group in groups
    ]
    options = f"{parameter('select', words='WORD')} (a word of one of them only)"
    return UserError(
        f"{where} holds {len(groups)} trunks, and nobody says which is meant: {'; '.join(found[:8])}"
        + (f", and {len(found) - 8} more" if len(found) > 8 else ""),
        hint=f"give {options}, {parameter('prefix', words='P')} or {parameter('state', words='KEY')}",
    )
