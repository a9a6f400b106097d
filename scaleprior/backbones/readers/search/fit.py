"""How well the tensors at a place are a trunk: its architecture, and what is missing, strange or of another shape."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from scaleprior.backbones.readers.search.left_out import left_inside
from scaleprior.backbones.readers.search.names import Names
from scaleprior.backbones.readers.search.places import Place
from scaleprior.backbones.trunks.family import Clues, TrunkFamily, TrunkSpec
from scaleprior.backbones.trunks.layout import Layout
from scaleprior.backbones.trunks.trunk import canonical_shapes
from scaleprior.errors import UserError

__all__ = ["Fit", "architecture", "canonical_shape", "fit"]

_ZERO = np.zeros((), np.float32)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Fit:
    """A place and what is there.

    Attributes:
        members: the layout's names of what belongs to the trunk, or stands in it as a stranger -> names in the file.
        beside: name in the file -> why it is left out, of what stands beside the trunk under its own prefix.
        shapes: the layout's names of all that is there under its prefix -> shapes; families know relatives by them.
        found: canonical name -> shape.
        arch: what it is; None: no trunk of the family.
        problem: why it is none.
        matched, missing, misshaped: canonical names.
        strangers: names of the layout that have no place.
    """

    place: Place
    members: Mapping[str, str]
    beside: Mapping[str, str]
    shapes: Mapping[str, Shape]
    found: Mapping[str, Shape]
    arch: TrunkSpec | None = None
    problem: UserError | None = None
    matched: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    misshaped: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()

    @property
    def whole(self) -> bool:
        """A complete trunk and nothing strange in it."""
        return self.arch is not None and not (self.missing or self.misshaped or self.strangers)

    @property
    def rank(self) -> tuple[float, int]:
        """For finding the nearest: the share of the trunk that is there, and how much that is."""
        expected = len(self.matched) + len(self.missing) + len(self.misshaped)
        return (len(self.matched) / expected if expected else 0.0, len(self.matched) or len(self.found))


def fit(place: Place, names: Names, clues: Callable[[Layout], Clues], others: Collection[str] = ()) -> Fit:
    """Hold the tensors at ``place`` against the architecture that they say they are of. Reads no number of them.

    Args:
        others: prefixes of all places; what stands behind a longer one is no stranger here.
    """
    layout = place.layout
    shapes: dict[str, Shape] = {}
    full: dict[str, str] = {}
    targets: dict[str, Any] = {}
    taken: set[str] = set()
    nested = all(prefix.startswith(place.prefixes[0]) for prefix in place.prefixes) or "" in place.prefixes
    for prefix in sorted(place.prefixes, key=len, reverse=True):
        for name in names.under(prefix):
            inner = name[len(prefix) :]
            target = layout.rename(inner)
            # Of a further prefix elsewhere only what is the trunk's: the rest belongs to the network around it.
            if name in taken or inner in full or not (nested or prefix == place.prefixes[0] or isinstance(target, str)):
                continue
            taken.add(name)
            full[inner], shapes[inner], targets[inner] = name, tuple(names.tensors[name].shape), target
    found = {
        target: canonical_shape(layout, target, shapes[inner])
        for inner, target in targets.items()
        if isinstance(target, str)
    }
    beside = {full[name]: why for name, why in left_inside(place, targets, shapes, full, names.homes, others).items()}
    members = {inner: name for inner, name in full.items() if name not in beside}
    strangers = tuple(inner for inner in members if targets[inner] is None)
    try:
        arch, found = architecture(place.family, found, clues(layout))
    except UserError as e:
        return Fit(place, members, beside, shapes, found, problem=e, strangers=strangers)
    expected = canonical_shapes(arch)
    return Fit(
        place, members, beside, shapes, found, arch,
        matched=tuple(name for name, shape in expected.items() if found.get(name) == shape),
        missing=tuple(name for name in expected if name not in found),
        misshaped=tuple(name for name, shape in expected.items() if name in found and found[name] != shape),
        strangers=strangers + tuple(name for name in found if name not in expected),
    )  # fmt: skip


def canonical_shape(layout: Layout, target: str, shape: Shape) -> Shape:
    """The shape that the layout's ``reshape`` makes of it."""
    if layout.reshape is None:
        return shape
    return tuple(layout.reshape(target, np.broadcast_to(_ZERO, shape)).shape)


def architecture(family: TrunkFamily, found: dict[str, Shape], clues: Clues) -> tuple[TrunkSpec, dict[str, Shape]]:
    """(what canonical names and shapes are of, the same with what the family adds to them).

    Raises:
        UserError: no trunk of the family.
    """
    arch = family.infer(found, clues)
    return arch, _completed(found, arch, canonical_shapes(arch))


def _completed(found: dict[str, Shape], arch: TrunkSpec, expected: Mapping[str, Shape]) -> dict[str, Shape]:
    """With what the family adds because its layouts leave it out."""
    if all(name in found for name in expected) or any(found[name] != expected.get(name) for name in found):
        return found
    stand_ins = {name: np.broadcast_to(_ZERO, shape) for name, shape in found.items()}
    arch.family.complete(stand_ins, arch)
    return {name: tuple(array.shape) for name, array in stand_ins.items()}
