"""Figures of steps that the device is still at: on a GPU the host reads them a step later, so that it never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from scaleprior.pretrain.loop.step import StepFigures

__all__ = ["PendingSteps", "StepRecord"]


@dataclass(frozen=True)
class StepRecord:
    """A step that was asked for.

    Attributes:
        step: from 0. rows: of its images on this process, indices into the fraction.
        numbers: what the host knew of it then.
    """

    step: int
    rows: Tensor
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class _Waiting:
    record: StepRecord
    values: Tensor  # loss, own loss, norm of the gradient, finite
    copied: torch.cuda.Event | None


class PendingSteps:
    """The steps whose figures nobody has read yet, oldest first.

    On the CPU a step is read as soon as it is added; on a GPU when the next one was handed to the device, which then
    has work to do while the host waits for the one before.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._waiting: deque[_Waiting] = deque()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, record: StepRecord, figures: StepFigures) -> None:
        """A step was handed to the device; its figures are on their way to the host."""
        values = torch.stack((figures.loss, figures.own, figures.gradient_norm, figures.finite.float()))
        event = None
        if self._cuda:
            values = torch.empty(4, pin_memory=True).copy_(values, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
        self._waiting.append(_Waiting(record, values, event))

    def settled(self, *, all_of_them: bool = False) -> Iterator[tuple[StepRecord, float, float, float, bool]]:
        """(record, loss, own loss, norm of the gradient, finite) of the steps to read now; each step comes once.

        Args:
            all_of_them: the newest, too, for which a GPU is waited for.
        """
        while len(self._waiting) > (1 if self._cuda and not all_of_them else 0):
            waiting = self._waiting.popleft()
            if waiting.copied is not None:
                waiting.copied.synchronize()
            loss, own, norm, finite = waiting.values.tolist()
            yield waiting.record, loss, own, norm, bool(finite)
