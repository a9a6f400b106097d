"""From the host's batch to tensors where the network is, while the device is still busy with the step before.

On a GPU a batch lies in pinned memory (page-locked, so that the device fetches it by itself) and is copied on a stream
of its own: the host asks for it and goes on, and the copy runs beside the step before, for which the network's stream
is still at work. So two batches are on the device at a time. On the CPU a batch is where it has to be.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scaleprior.pretrain.losses.targets import Targets

if TYPE_CHECKING:
    from scaleprior.pretrain.data.batches import LabelledBatch

__all__ = ["Feed", "Part"]

Part = tuple[Tensor, Targets]
"""Images, uint8 [b, S, S, 3], and their labels."""


class Feed:
    """Brings batches to ``device``, in parts that go through the network one after the other.

    Args:
        change: what is made of each part's targets on the host, such as tensors of other lengths.
    """

    def __init__(self, device: torch.device, *, change: Callable[[Targets], Targets] | None = None) -> None:
        self._device = device
        self._change = change
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def __call__(self, batch: LabelledBatch, count: int = 1) -> list[Part]:
        """``batch`` on the device, in ``count`` parts, for the stream that is current now."""
        parts = list(batch.parts(count))
        if self._change is not None:
            parts = [(images, self._change(targets)) for images, targets in parts]
        if self._stream is None:
            return [(images.to(self._device), targets.to(self._device)) for images, targets in parts]
        with torch.cuda.stream(self._stream):
            copies = [self._fetched(*part) for part in parts]
        network = torch.cuda.current_stream(self._device)
        network.wait_stream(self._stream)
        for images, targets in copies:
            # They belong to the copying stream, which would hand their memory on while the network still reads it.
            for tensor in (images, *targets.tensors()):
                tensor.record_stream(network)
        return copies

    def _fetched(self, images: Tensor, targets: Targets) -> Part:
        if images.device.type == "cpu":  # not what was decoded on the device
            # A copy that does not block from memory that may be paged out would not be one: the host would wait.
            images = images if images.is_pinned() else images.pin_memory()
            images = images.to(self._device, non_blocking=True)
        if targets.rows.device.type == "cpu":
            targets = targets if targets.rows.is_pinned() else targets.pin_memory()
            targets = targets.to(self._device, non_blocking=True)
        return images, targets
