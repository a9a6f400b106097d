"""Which family and which layout the names of a file's tensors are of."""

from __future__ import annotations

from collections.abc import Collection

from scaleprior.backbones.trunks.family import TrunkFamily, families
from scaleprior.backbones.trunks.layout import Layout
from scaleprior.errors import UserError

__all__ = ["recognise"]


def recognise(names: Collection[str], where: str) -> tuple[TrunkFamily, Layout]:
    """The family of these names, and whose names they are.

    Raises:
        UserError: none; says what was found. Also relatives of a family that it cannot hold.
    """
    for family in families().values():
        refused = family.refusal(names)
        if refused:
            raise UserError(f"{where} is {refused[0]}", hint=refused[1])
    for family in families().values():
        for layout in family.layouts:
            if layout.fits(names):
                return family, layout
    first = ", ".join(sorted(names)[:4])
    known = ", ".join(layout.name for family in families().values() for layout in family.layouts)
    raise UserError(
        f"{where}: {len(names)} tensors, none of a known family (first: {first or 'none'})", hint=f"known: {known}"
    )
