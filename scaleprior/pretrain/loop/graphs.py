"""``PRETRAIN.STEP.MODE graph``: the kernels of a whole step, recorded once as a CUDA graph and then started as one.

A step of small images is bound by its launches: about 3,000 kernels of a few microseconds. A graph starts them without
the host, but always with the same tensors. So images and labels are copied into tensors that stay, labels of any
number are padded to lengths that seldom grow, and the optimiser reads its rate from the device.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch

from scaleprior.pretrain.data.feed import Part
from scaleprior.pretrain.losses.targets import Targets

__all__ = ["GraphedUpdate", "Lengths"]

F = TypeVar("F")
"""What a step returns: tensors on the device."""

_WARM_UP = 3  # steps before a capture: libraries choose algorithms and workspaces, the optimiser makes its state
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


@dataclass
class _Recorded(Generic[F]):
    """What was recorded for parts of some shapes.

    Attributes:
        parts: the tensors that the kernels read.
        steps: made with them so far.
        graph, figures: None until it is recorded; the figures are written anew in every step.
    """

    parts: list[Part]
    steps: int = 0
    graph: torch.cuda.CUDAGraph | None = None
    figures: F | None = None


class GraphedUpdate(Generic[F]):
    """An update that is made some times as it is written, for real, then recorded, and from then on started at once.

    Parts of other shapes are recorded anew. What was recorded for those before goes, with its memory, which nothing
    else on the device could use: images only grow in a run, as lengths of labels do, so its shapes do not come back.

    Args:
        update: works on the device alone: of the parts of a batch and the number of images of all processes.
        ready: called before a recording; lets go of what the last step left on the device.
    """

    def __init__(
        self, update: Callable[[Sequence[Part], int], F], ready: Callable[[], None], device: torch.device
    ) -> None:
        self._update = update
        self._ready = ready
        self._stream = torch.cuda.Stream(device)
        self._shapes: tuple = ()
        self._recorded: _Recorded[F] | None = None

    def __call__(self, parts: Sequence[Part], images: int) -> F:
        """Make the step; the figures hold until the next one."""
        shapes = (images, *((pixels.shape, targets.lengths) for pixels, targets in parts))
        if self._recorded is None or shapes != self._shapes:
            self._recorded = None
            self._ready()  # gradients of a recorded step lie in its memory
            self._recorded = _Recorded([(pixels.clone(), copied(targets)) for pixels, targets in parts])
            self._shapes = shapes
        else:
            _fill(self._recorded.parts, parts)
        recorded = self._recorded
        recorded.steps += 1
        if recorded.steps <= _WARM_UP:
            return self._warm_up(recorded, images)
        if recorded.graph is None:
            self._record(recorded, images)
        assert recorded.graph is not None
        assert recorded.figures is not None
        recorded.graph.replay()
        return recorded.figures

    def _warm_up(self, recorded: _Recorded[F], images: int) -> F:
        """A step on another stream than the usual one, as torch asks of what is to be recorded."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            figures = self._update(recorded.parts, images)
        usual.wait_stream(self._stream)
        return figures

    def _record(self, recorded: _Recorded[F], images: int) -> None:
        self._ready()
        recorded.graph = torch.cuda.CUDAGraph()
        # Another thread, which pins batches, may ask the driver for memory meanwhile; only this one must not. On the
        # stream of the steps before, for which libraries have their workspaces.
        with torch.cuda.graph(recorded.graph, stream=self._stream, capture_error_mode="thread_local"):
            recorded.figures = self._update(recorded.parts, images)


def copied(targets: Targets) -> Targets:
    """Equal targets in tensors of their own."""
    absent = None if targets.absent is None else (targets.absent[0].clone(), targets.absent[1].clone())
    repeats = None if targets.repeats is None else targets.repeats.clone()
    return Targets(targets.images, targets.classes, targets.rows.clone(), targets.labels.clone(), absent, repeats)


def _fill(kept: Sequence[Part], parts: Sequence[Part]) -> None:
    for (pixels, targets), (new_pixels, new_targets) in zip(kept, parts, strict=True):
        pixels.copy_(new_pixels)
        for tensor, new in zip(targets.tensors(), new_targets.tensors(), strict=True):
            tensor.copy_(new)
