"""A training step whose kernels are recorded once as a CUDA graph, and from then on started as one.

A step of small images is bound by its launches: about 3,000 kernels of a few microseconds. A graph starts them without
the host, but always with the same tensors: what a step is made of is copied into tensors that stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import torch

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["GraphedUpdate", "Recordable"]

_WARM_UP = 3  # steps before a capture: libraries choose algorithms and workspaces, the optimiser makes its state


class Recordable(Protocol):
    """What a step is made of: tensors on the device."""

    def shapes(self) -> Hashable:
        """Equal for those that one recording fits."""
        ...

    def clone(self) -> Self:
        """The same in tensors of its own."""
        ...

    def fill(self, new: Self) -> None:
        """Take on the values of ``new``, in the tensors that are there."""
        ...


B = TypeVar("B", bound=Recordable)
F = TypeVar("F")
"""What a step returns: tensors on the device."""


@dataclass
class _Recorded(Generic[B, F]):
    """A recording, the tensors that it reads, and those that it writes anew in every step."""

    batch: B
    graph: torch.cuda.CUDAGraph
    figures: F


class GraphedUpdate(Generic[B, F]):
    """An update that is made some times as it is written, for real, then recorded, and from then on started at once.

    Args:
        update: works on the device alone.
        ready: called before a recording; lets go of what the last step left on the device.
        most: recordings that are kept, one for each shape of batches; what has another shape is then made as it is
            written. With one alone, another shape takes its place: what was recorded before goes, with its memory.
    """

    def __init__(
        self, update: Callable[[B], F], ready: Callable[[], None], device: torch.device, *, most: int = 1
    ) -> None:
        self._update = update
        self._ready = ready
        self._most = most
        self._stream = torch.cuda.Stream(device)
        self._seen: Counter[Hashable] = Counter()
        self._recorded: dict[Hashable, _Recorded[B, F]] = {}
        self._pool: Any = None

    def __call__(self, batch: B) -> F:
        """Make the step; the figures hold until the next one."""
        shapes = batch.shapes()
        recorded = self._recorded.get(shapes)
        if recorded is None:
            if self._most == 1 and shapes not in self._seen:
                self._recorded.clear()
                self._seen.clear()
                self._ready()  # gradients of a recorded step lie in its memory
            self._seen[shapes] += 1
            if self._seen[shapes] <= _WARM_UP or len(self._recorded) >= self._most:
                return self._as_written(batch)
            recorded = self._recorded[shapes] = self._record(batch)
        else:
            recorded.batch.fill(batch)
        recorded.graph.replay()
        return recorded.figures

    def _as_written(self, batch: B) -> F:
        """A step on another stream than the usual one, as torch asks of what is to be recorded."""
        usual = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(usual)
        with torch.cuda.stream(self._stream):
            figures = self._update(batch)
        usual.wait_stream(self._stream)
        return figures

    def _record(self, batch: B) -> _Recorded[B, F]:
        self._ready()
        kept, graph = batch.clone(), torch.cuda.CUDAGraph()
        # Recordings share their memory. One is started at a time, and what it found is read before the next.
        if self._most > 1 and self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        # Another thread, which pins batches, may ask the driver for memory meanwhile; only this one must not. On the
        # stream of the steps before, for which libraries have their workspaces.
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
            figures = self._update(kept)
        return _Recorded(kept, graph, figures)
