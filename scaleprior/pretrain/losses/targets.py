"""The labels of a batch, as losses take them: checked and made unique once, where they come from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Targets"]


@dataclass(frozen=True)
class Targets:
    """Labels of B images as pairs of image and label, M present ones, sorted by image, each once.

    Attributes:
        images: B. classes: C.
        rows, labels: int64 [M], in [0, B) and [0, C).
        absent: (rows, labels) of the labels known to be absent, in the same form; the rest is left out of the loss.
            None: all that are not present are absent.
        repeats: how often the last pair of ``rows`` and that of ``absent`` stand there beyond the first time, float32
            [2]; see :meth:`padded`. None: once.
    """

    images: int
    classes: int
    rows: Tensor
    labels: Tensor
    absent: tuple[Tensor, Tensor] | None = None
    repeats: Tensor | None = None

    @property
    def lengths(self) -> tuple[int, int]:
        """Pairs of present and of absent labels."""
        return len(self.rows), 0 if self.absent is None else len(self.absent[0])

    @classmethod
    def from_csr(
        cls, labels: Tensor, offsets: Tensor, *, classes: int, absent: tuple[Tensor, Tensor] | None = None
    ) -> Targets:
        """From lists of labels, in which a label that is listed twice counts once.

        Args:
            labels: integers [M], of image i ``labels[offsets[i]:offsets[i + 1]]``.
            offsets: integers [B + 1], from 0 to M, not decreasing.
            absent: (labels, offsets) in the same form; a label that is listed as both is present.

        Raises:
            ValueError: shapes that do not fit, or a label outside [0, C).
        """
        present = _places(labels, offsets, classes)
        rows, columns = _pairs(present, classes)
        missing = None
        if absent is not None:
            if len(absent[1]) != len(offsets):
                raise ValueError(
                    f"need absent offsets [B + 1] of the same B images; got {tuple(absent[1].shape)}, and offsets "
                    f"{tuple(offsets.shape)}"
                )
            places = _places(*absent, classes)
            missing = _pairs(places[torch.isin(places, present, invert=True)], classes)
        return cls(len(offsets) - 1, classes, rows, columns, missing)

    def part(self, start: int, stop: int) -> Targets:
        """Those of the images ``start`` .. ``stop - 1``; where they came from, since it looks at numbers."""
        absent = None if self.absent is None else _slice(*self.absent, start, stop)
        return Targets(stop - start, self.classes, *_slice(self.rows, self.labels, start, stop), absent)

    def padded(self, present: int, absent: int) -> Targets:
        """The same labels in tensors of these lengths, for code that wants equal shapes in every step.

        The last pair is repeated. A loss writes the terms of listed pairs over those of the others, so repeating one
        changes neither loss nor gradient; a loss that adds them up takes ``repeats`` of it away again.

        Raises:
            ValueError: there is no pair to repeat, or there are too many.
        """
        lengths = self.lengths
        wanted = present, absent if self.absent is not None else 0
        if any(not 0 < had <= room for had, room in zip(lengths, wanted) if room or had):
            raise ValueError(f"cannot pad {lengths} pairs to {wanted}")
        missing = None if self.absent is None else _stretched(*self.absent, wanted[1])
        repeats = torch.tensor([room - had for had, room in zip(lengths, wanted)], dtype=torch.float32)
        return Targets(self.images, self.classes, *_stretched(self.rows, self.labels, present), missing, repeats)

    def tensors(self) -> list[Tensor]:
        """All that hold its numbers, in one order."""
        found = [self.rows, self.labels, *(self.absent or ())]
        return found if self.repeats is None else [*found, self.repeats]

    def to(self, device: torch.device, *, non_blocking: bool = False) -> Targets:
        """A copy on ``device``; itself if it is there."""
        if self.rows.device == device:
            return self
        return self._mapped(lambda tensor: tensor.to(device, non_blocking=non_blocking))

    def pin_memory(self) -> Targets:
        """A copy in pinned memory, from which a GPU can fetch while the host goes on."""
        return self._mapped(Tensor.pin_memory)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Targets:
        absent = None if self.absent is None else (change(self.absent[0]), change(self.absent[1]))
        repeats = None if self.repeats is None else change(self.repeats)
        return Targets(self.images, self.classes, change(self.rows), change(self.labels), absent, repeats)


def _places(labels: Tensor, offsets: Tensor, classes: int) -> Tensor:
    """``row * C + label`` of every pair, int64, rising."""
    if offsets.ndim != 1 or not len(offsets) or labels.ndim != 1:
        raise ValueError(f"need labels [M] and offsets [B + 1]; got {tuple(labels.shape)}, {tuple(offsets.shape)}")
    counts = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(labels) or bool((counts < 0).any()):
        raise ValueError(f"offsets must rise from 0 to the number of labels, {len(labels)}")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise ValueError(f"labels {int(labels.min())}..{int(labels.max())} are outside [0, {classes})")
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts)
    places = rows * classes + labels.to(torch.int64)
    # Label spaces give each image's labels sorted and once; then there is nothing to do.
    return places if bool((places.diff() > 0).all()) else torch.unique(places)


def _pairs(places: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    rows = places // classes
    return rows, places - rows * classes


def _slice(rows: Tensor, labels: Tensor, start: int, stop: int) -> tuple[Tensor, Tensor]:
    first, last = torch.searchsorted(rows, torch.tensor([start, stop])).tolist()
    return rows[first:last] - start, labels[first:last]


def _stretched(rows: Tensor, labels: Tensor, length: int) -> tuple[Tensor, Tensor]:
    more = length - len(rows)
    return torch.cat((rows, rows[-1:].expand(more))), torch.cat((labels, labels[-1:].expand(more)))
