"""A layout: one publisher's names for the tensors of a family of trunks, and how they map to canonical names.

Names are those of the trunk alone: whoever searches a file has taken off what a checkpoint, a wrapper or a larger
network put in front of them. A mapping gives for every such name its canonical one, or the reason why it is left out:
"classifier", "head" (another layer that reads the last map), "counter", "optimiser", "zero bias" (in front of a norm),
"projection" (CLIP's attention pool). None = a stranger.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np

__all__ = [
    "CLASSIFIER",
    "COUNTER",
    "DETECTOR",
    "HEAD",
    "OPTIMISER",
    "PROJECTION",
    "TENSORS",
    "Dropped",
    "Layout",
    "Relative",
]


@dataclass(frozen=True)
class Dropped:
    """A tensor that is left out on purpose."""

    reason: str


class Relative(NamedTuple):
    """A network that has most names of a family's trunks, and that none of them can hold.

    Attributes:
        what: it is, "a ResNet with a deep stem".
        instead: what to take.
        partial: with fresh weights for what does not fit it is a trunk all the same.
    """

    what: str
    instead: str
    partial: bool = False


CLASSIFIER, COUNTER, DETECTOR = Dropped("classifier"), Dropped("counter"), Dropped("detector")
HEAD, OPTIMISER, PROJECTION = Dropped("head"), Dropped("optimiser"), Dropped("projection")
TENSORS = "weight|bias|running_mean|running_var"
"""What a convolution and its BatchNorm hold, as part of a regular expression."""


@dataclass(frozen=True)
class Layout:
    """One publisher's names.

    Attributes:
        name: for reports.
        signature: what a trunk with these names has: regular expressions that must each match some name. Names that
            the first one matches tell where in a file to look.
        rename: the trunk's foreign name -> canonical name, ``Dropped``, or None for a stranger.
        absent: regular expressions that must match no name, where a relative has all of the signature, too.
        reshape: what brings a tensor into the canonical shape, given its canonical name, without a copy; None = it is.
        norm: kind of norm that these names tell where there are no running statistics: GN or FrozenBN.
        beside: what is in these publishers' files around the trunk: name in the file -> why it is left out; None = it
            is not theirs.
    """

    name: str
    signature: tuple[str, ...]
    rename: Callable[[str], str | Dropped | None]
    absent: tuple[str, ...] = ()
    reshape: Callable[[str, np.ndarray], np.ndarray] | None = None
    norm: str | None = None
    beside: Callable[[str], Dropped | None] | None = None

    def fits(self, names: Collection[str]) -> bool:
        """Whether these names are of this layout."""

        def found(pattern: str) -> bool:
            return any(re.match(pattern, name) for name in names)

        return all(map(found, self.signature)) and not any(map(found, self.absent))
