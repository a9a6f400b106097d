"""One trunk behind two prefixes: its last stage lies elsewhere, or a wrapper's word is on some of the names only."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable

from scaleprior.backbones.readers.search.fit import Fit, Shape, architecture, canonical_shape, fit
from scaleprior.backbones.readers.search.names import Names
from scaleprior.backbones.readers.search.places import Place, boundaries, common_home
from scaleprior.backbones.trunks.family import Clues, TrunkFamily
from scaleprior.backbones.trunks.layout import Layout
from scaleprior.backbones.trunks.trunk import canonical_shapes
from scaleprior.errors import UserError

__all__ = ["joined_fits"]

_MOST = 16  # prefixes that are tried with each other: 120 pairs


def joined_fits(names: Names, places: Iterable[Place], clues: Callable[[Layout], Clues]) -> list[Fit]:
    """The whole trunks that two prefixes make together, for the layouts of ``places``.

    The parts must have no tensor in common. Of several that would complete a part it is the one that stands nearest to
    it (a student's last stage does not complete a teacher); where two are as near, none is.
    """
    fits = []
    for family, layout in {place.layout: (place.family, place.layout) for place in places}.values():
        holdings = _holdings(names, layout)
        completing: dict[str, list[Fit]] = {}
        for one, other in itertools.combinations(holdings, 2):
            if not holdings[one].keys().isdisjoint(holdings[other]):
                continue
            if not _is_whole(family, {**holdings[one], **holdings[other]}, clues(layout)):
                continue
            whole = fit(Place(family, layout, (one, other), common_home(names, [one, other])), names, clues)
            if whole.whole:
                completing.setdefault(one, []).append(whole)
        for wholes in completing.values():
            nearness = [_common(*whole.place.prefixes) for whole in wholes]
            if nearness.count(max(nearness)) == 1:
                fits.append(wholes[nearness.index(max(nearness))])
    return fits


def _common(one: str, other: str) -> int:
    """How many words two prefixes begin with together."""
    same = (a == b for a, b in zip(one.split("."), other.split(".")))
    return sum(1 for _ in itertools.takewhile(bool, same))


def _is_whole(family: TrunkFamily, found: dict[str, Shape], clues: Clues) -> bool:
    try:
        arch, found = architecture(family, found, clues)
    except UserError:
        return False
    return found == canonical_shapes(arch)


def _holdings(names: Names, layout: Layout) -> dict[str, dict[str, Shape]]:
    """Prefix -> canonical name -> shape of what is behind it, the prefixes with the most first."""
    found: dict[str, dict[str, Shape]] = {}
    for name, value in names.tensors.items():
        for at in boundaries(name):
            if isinstance(target := layout.rename(name[at:]), str):
                shape = canonical_shape(layout, target, tuple(value.shape))
                found.setdefault(name[:at], {})[target] = shape
    return dict(sorted(found.items(), key=lambda item: -len(item[1]))[:_MOST])
