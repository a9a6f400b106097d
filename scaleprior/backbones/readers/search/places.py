"""Where in a file's names a trunk may stand: prefixes behind which the names of a known layout follow."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from scaleprior.backbones.readers.search.names import Names
from scaleprior.backbones.trunks.family import TrunkFamily, families
from scaleprior.backbones.trunks.layout import Layout

__all__ = ["Place", "boundaries", "common_home", "find_places", "layouts"]

_DOTS = re.compile(r"[./](?=.)")
_MOST = 64  # places of one layout that are looked at; a file with more is no checkpoint of one network
_DEEPEST = 16  # words in front of a trunk's names


@dataclass(frozen=True)
class Place:
    """Where the names of one layout begin.

    Attributes:
        family, layout: whose names they are.
        prefixes: what stands in front of them; several where one trunk lies in several parts of a network.
        home: the name of the dict that all of it lies in.
    """

    family: TrunkFamily
    layout: Layout
    prefixes: tuple[str, ...]
    home: str = ""

    @property
    def inner(self) -> tuple[str, ...]:
        """The prefixes as they are in the dict itself."""
        start = len(self.home) + 1 if self.home else 0
        return tuple(prefix[start:] for prefix in self.prefixes)

    @property
    def parts(self) -> frozenset[str]:
        """All words of where it is."""
        return frozenset(part for prefix in self.prefixes for part in re.split(r"[./]", prefix) if part)

    @property
    def words(self) -> str:
        """For messages: "module.encoder_q. in state_dict"."""
        inner = " and ".join(prefix or "names without prefix" for prefix in self.inner)
        if not any(self.inner):
            return self.home or "the outermost names"
        return f"{inner} in {self.home}" if self.home else inner


def layouts() -> Iterator[tuple[TrunkFamily, Layout]]:
    """All that are known."""
    return ((family, layout) for family in families().values() for layout in family.layouts)


def boundaries(name: str) -> Iterator[int]:
    """Where a name of a part may begin within ``name``."""
    yield 0
    for dot in itertools.islice(_DOTS.finditer(name), _DEEPEST):
        yield dot.end()


def find_places(names: Names) -> tuple[list[Place], list[Place]]:
    """(places whose names have a layout's whole signature, those with its first mark only)."""
    fitting, partly = [], []
    followers: dict[str, list[str]] = {}
    for family, layout in layouts():
        anchor = re.compile(layout.signature[0])
        found: Counter[str] = Counter()
        for name in names.tensors:
            # A search is several times faster than a match at every boundary, and says no to nearly all names.
            if anchor.search(name):
                found.update(name[:at] for at in boundaries(name) if anchor.match(name, at))
        for prefix, _ in found.most_common(_MOST):
            if prefix not in followers:
                followers[prefix] = [name[len(prefix) :] for name in names.under(prefix)]
            place = Place(family, layout, (prefix,), common_home(names, [prefix]))
            (fitting if layout.fits(followers[prefix]) else partly).append(place)
    return fitting, partly


def common_home(names: Names, prefixes: list[str]) -> str:
    """The innermost dict around all that begins with one of the prefixes, as far as the prefixes reach."""
    homes = {names.homes[name] for prefix in prefixes for name in names.under(prefix)}
    first, *others = sorted(homes, key=len)
    others = [f"{home}." for home in others] + list(prefixes)
    while first and not all(other.startswith(f"{first}.") for other in others):
        first = first.rpartition(".")[0]
    return first
