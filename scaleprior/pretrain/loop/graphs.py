"""``PRETRAIN.STEP.MODE graph``: what a step of pretraining is made of, in tensors that a recording can read again.

Labels of any number are padded to lengths that seldom grow, and the optimiser reads its rate from the device.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from scaleprior.pretrain.data.feed import Part
from scaleprior.pretrain.losses.targets import Targets

__all__ = ["Lengths", "Parts"]

_ROOM = 9 / 8  # for batches with more labels than the first
_LEAST = 64


class Lengths:
    """Lengths to which targets are padded; they only grow, each time to a power of two, so there are few of them."""

    def __init__(self) -> None:
        self._known = [0, 0]  # pairs of present, of absent labels

    def __call__(self, targets: Targets) -> Targets:
        """``targets`` at these lengths; as they are where there is no pair to repeat."""
        for place, length in enumerate(targets.lengths):
            if length > self._known[place]:
                self._known[place] = max(_LEAST, 1 << (int(length * _ROOM) - 1).bit_length())
        present, absent = targets.lengths
        if not present or (targets.absent is not None and not absent):
            return targets
        return targets.padded(*self._known)


@dataclass(frozen=True)
class Parts:
    """The parts of a batch, and the number of images of all processes; see ``training.graphs.Recordable``.

    Images only grow in a run, as lengths of labels do, so its shapes do not come back.
    """

    parts: Sequence[Part]
    images: int

    def shapes(self) -> Hashable:
        """Of images and labels."""
        return (self.images, *((pixels.shape, targets.lengths) for pixels, targets in self.parts))

    def clone(self) -> Parts:
        """In tensors of its own."""
        return Parts([(pixels.clone(), copied(targets)) for pixels, targets in self.parts], self.images)

    def fill(self, new: Parts) -> None:
        """Take on the values of ``new``."""
        for (pixels, targets), (new_pixels, new_targets) in zip(self.parts, new.parts, strict=True):
            pixels.copy_(new_pixels)
            for tensor, value in zip(targets.tensors(), new_targets.tensors(), strict=True):
                tensor.copy_(value)


def copied(targets: Targets) -> Targets:
    """Equal targets in tensors of their own."""
    absent = None if targets.absent is None else (targets.absent[0].clone(), targets.absent[1].clone())
    repeats = None if targets.repeats is None else targets.repeats.clone()
    return Targets(targets.images, targets.classes, targets.rows.clone(), targets.labels.clone(), absent, repeats)
