"""Figures of steps that the device is still at: on a GPU the host reads them a step later, so that it never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

__all__ = ["Pending"]

Record = TypeVar("Record")


@dataclass(frozen=True)
class _Waiting(Generic[Record]):
    record: Record
    values: Tensor
    copied: torch.cuda.Event | None


class Pending(Generic[Record]):
    """The steps whose figures nobody has read yet, oldest first.

    On the CPU a step is read as soon as it is added; on a GPU when the next one was handed to the device, which then
    has work to do while the host waits for the one before.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._waiting: deque[_Waiting[Record]] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: Record, values: Tensor) -> None:
        """A step was handed to the device; its figures are on their way to the host.

        Args:
            record: what the host knows of it.
            values: float32 [K].
        """
        event = None
        if self._cuda:
            values = torch.empty(len(values), pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append(_Waiting(record, values, event))

    def settled(self, *, all_of_them: bool = False) -> Iterator[tuple[Record, list[float]]]:
        """(record, its K figures) of the steps to read now; each step comes once.

        Args:
            all_of_them: the newest, too, for which a GPU is waited for.
        """
        while len(self._waiting) > (1 if self._cuda and not all_of_them else 0):
            waiting = self._waiting.popleft()
            if waiting.copied is not None:
                waiting.copied.synchronize()
            yield waiting.record, waiting.values.tolist()
