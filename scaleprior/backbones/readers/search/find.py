"""The one trunk in a file: found, chosen among several, and everything else accounted for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from scaleprior.backbones.readers.clues import clues_of
from scaleprior.backbones.readers.containers import Content
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.limits import Limits
from scaleprior.backbones.readers.report import some
from scaleprior.backbones.readers.search.candidate import Candidate
from scaleprior.backbones.readers.search.choose import choose, narrowed
from scaleprior.backbones.readers.search.dilated import refuse_dilated
from scaleprior.backbones.readers.search.fit import Fit, fit
from scaleprior.backbones.readers.search.foreign import foreign_network
from scaleprior.backbones.readers.search.join import joined_fits
from scaleprior.backbones.readers.search.left_out import ANOTHER, left_outside
from scaleprior.backbones.readers.search.names import Names, collect
from scaleprior.backbones.readers.search.obstacles import obstacle
from scaleprior.backbones.readers.search.places import find_places, layouts
from scaleprior.backbones.trunks.layout import Relative
from scaleprior.errors import UserError

__all__ = ["find_candidate"]

_NEAR = 0.5  # share of a trunk's tensors from which on it is called that trunk


def find_candidate(content: Content, options: ReadOptions, limits: Limits) -> Candidate:
    """The trunk in ``content``; where none is whole the nearest thing to one, whose lacks are then told or filled.

    Raises:
        UserError: there is none, or several that no rule decides between; its family cannot be held; an option that
            leads nowhere; it dilates. RefusedFileError: names that are no names, too many, or two of one name.
    """
    where = str(content.path)
    names = collect(content, limits)
    if options.state is not None:
        names = names.within(options.state, where)
    clues = clues_of(content, options)
    fitting, partly = find_places(names)
    prefixes = {prefix for place in fitting for prefix in place.prefixes}
    fits = _one_for_each_place(fit(place, names, clues, prefixes) for place in fitting)
    if not any(found.whole for found in fits):
        partial = fits or _one_for_each_place(fit(place, names, clues) for place in partly)
        fits = joined_fits(names, fitting or partly, clues) + partial
    pool = narrowed(fits, options, names, where)
    whole = [found for found in pool if found.whole]
    if whole:
        chosen, notes = choose(whole, names, where, _top(content))
        notes += _passed_over(fits, chosen)
    else:
        _refuse_obstacles(content, names, options)
        chosen, notes = _nearest(pool, options, names, where)
    notes += refuse_dilated(names.tensors, options.timm_model, where)
    if content.left_out:
        notes.insert(0, f"objects that are no weights were passed over: {some(content.left_out)}")
    return _candidate(chosen, fits, names, notes)


def _top(content: Content) -> frozenset[str]:
    """The keys at the top of the file."""
    return frozenset(map(str, content.tree)) if isinstance(content.tree, Mapping) else frozenset()


def _one_for_each_place(fits: Iterable[Fit]) -> list[Fit]:
    """Of several layouts that fit the same names the one that makes most of them, the first of equals."""
    best: dict[tuple[str, ...], Fit] = {}
    for found in fits:
        known = best.get(found.place.prefixes)
        if known is None or (found.whole, found.rank[0]) > (known.whole, known.rank[0]):
            best[found.place.prefixes] = found
    return list(best.values())


def _refuse_obstacles(content: Content, names: Names, options: ReadOptions) -> None:
    """Raises UserError: what is in the file is no trunk for a reason that its names tell."""
    found = obstacle(names.tensors, content.left_out)
    if found is not None and not options.allow_partial:
        raise UserError(f"{content.path} holds {found.what}, which no trunk here has", hint=found.instead)


def _nearest(pool: Sequence[Fit], options: ReadOptions, names: Names, where: str) -> tuple[Fit, list[str]]:
    """What is most of a trunk.

    Raises:
        UserError: nothing is, or it is a network that no trunk here holds.
    """
    if not names.tensors:
        raise UserError(f"{where} holds no tensors", hint="save a state_dict, or give the file that has the weights")
    best = max((found.rank for found in pool), default=(0.0, 0))
    network = foreign_network(names.tensors) if best[0] < _NEAR else None
    if network or not pool:
        what = f"{network}: no trunk here holds it" if network else "of no known family"
        known = ", ".join(layout.name for _, layout in layouts())
        raise UserError(
            f"{where}: {len(names.tensors)} tensors, {what}; it holds: {names.tree()}", hint=f"known names: {known}"
        )
    nearest, notes = choose([found for found in pool if found.rank == best], names, where)
    relative = nearest.place.family.refusal({**nearest.found, **nearest.shapes})
    if relative is not None:
        relative = Relative(*relative)
        if not (relative.partial and options.allow_partial):
            raise UserError(f"{where} is {relative.what}", hint=relative.instead)
        notes.append(f"it is {relative.what}")
    if nearest.problem is not None:
        raise nearest.problem if not (nearest.place.home or any(nearest.place.prefixes)) else _at(nearest, names)
    return nearest, notes


def _at(nearest: Fit, names: Names) -> UserError:
    """The problem of what stands behind a prefix or in a dict, with where that is and what the file holds."""
    assert nearest.problem is not None
    hint = nearest.problem.hint.marked
    message = nearest.problem.wording.marked.removesuffix(f"; {hint}")
    place = f"{nearest.place.layout.name} names, {nearest.place.words}"
    return UserError(f"{message} (nearest: {place}); it holds: {names.tree()}", hint=hint)


def _passed_over(fits: Sequence[Fit], chosen: Fit) -> list[str]:
    """A sentence on what is most of another trunk, such as an average without its norms' statistics."""
    parts = [fit.place.words for fit in fits if not fit.whole and len(fit.found) >= _NEAR * len(chosen.found)]
    return [f"passed over, as no whole trunk: {some(parts)}"] if parts else []


def _candidate(chosen: Fit, fits: Sequence[Fit], names: Names, notes: list[str]) -> Candidate:
    place, mine = chosen.place, set(chosen.members.values())
    others = {name for found in fits if found.rank[0] >= _NEAR for name in found.members.values()} - mine
    left_out: dict[str, list[str]] = {}
    for name in names.tensors:
        if name not in mine:
            reason = chosen.beside.get(name) or (ANOTHER if name in others else left_outside(place, name))
            left_out.setdefault(reason, []).append(names.as_written(name))
    return Candidate(
        place.family,
        place.layout,
        {inner: names.tensors[name] for inner, name in chosen.members.items()},
        left_out,
        place.words if place.home or any(place.prefixes) else "",
        "" if chosen.whole else names.tree(),
        notes,
    )
