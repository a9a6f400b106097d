"""A layout: one publisher's names for the tensors of a family of trunks, and how they map to canonical names.

A mapping gives for every foreign name its canonical one, or the reason why it is left out: "classifier", "counter",
"optimiser", "zero bias" (in front of a norm), "detector" (heads, pyramid), "projection" (CLIP's attention pool and
text tower). None = unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

__all__ = ["CLASSIFIER", "COUNTER", "DETECTOR", "OPTIMISER", "PROJECTION", "TENSORS", "Dropped", "Layout"]


@dataclass(frozen=True)
class Dropped:
    """A tensor that is left out on purpose."""

    reason: str


CLASSIFIER, COUNTER, DETECTOR = Dropped("classifier"), Dropped("counter"), Dropped("detector")
OPTIMISER, PROJECTION = Dropped("optimiser"), Dropped("projection")
TENSORS = "weight|bias|running_mean|running_var"
"""What a convolution and its BatchNorm hold, as part of a regular expression."""


@dataclass(frozen=True)
class Layout:
    """One publisher's names.

    Attributes:
        name: for reports.
        signature: what a file with these names has: regular expressions that must each match some name.
        rename: foreign name -> canonical name, ``Dropped``, or None for a stranger.
        absent: regular expressions that must match no name, where a relative has all of the signature, too.
        reshape: what brings a tensor into the canonical shape, given its canonical name, without a copy; None = it is.
        norm: kind of norm that these names tell where there are no running statistics: GN or FrozenBN.
    """

    name: str
    signature: tuple[str, ...]
    rename: Callable[[str], str | Dropped | None]
    absent: tuple[str, ...] = ()
    reshape: Callable[[str, np.ndarray], np.ndarray] | None = None
    norm: str | None = None

    def fits(self, names: Collection[str]) -> bool:
        """Whether these names are of this layout."""

        def found(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in names)

        return all(map(found, self.signature)) and not any(map(found, self.absent))
