"""The average of the weights over the steps, which is what a run with ``PRETRAIN.EMA.DECAY`` evaluates and saves.

After step t (from 0) the average a follows the weights w: ``a <- d a + (1 - d) w`` with
``d = min(DECAY, (1 + t) / (10 + t))``. The second term, of TensorFlow's ExponentialMovingAverage (``num_updates``),
keeps a short run from remembering its random start: of that, t steps leave ``9! t! / (t + 9)!``, after 100 steps 2e-13,
where a constant 0.9999 would leave 99 %.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["WeightAverage", "average_decay"]


def average_decay(decay: float, step: int) -> float:
    """d of the module's formula after ``step``, 0-based."""
    return min(decay, (1 + step) / (10 + step))


class WeightAverage:
    """An average beside the weights, on their device, in their types; one kernel or a few keep it up.

    Floating tensors are averaged, statistics of BN among them. Integers, its counters, have no average but themselves.

    Args:
        weights: by name; the very tensors that training changes in place.
        decay: in (0, 1).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._weights = {name: tensor.detach() for name, tensor in weights.items() if tensor.is_floating_point()}
        self._average = {name: tensor.clone() for name, tensor in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights after a step; the device is not waited for."""
        weight = 1 - average_decay(self._decay, self._steps)
        torch._foreach_lerp_(list(self._average.values()), list(self._weights.values()), weight)
        self._steps += 1

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """The weights are the average within the block, and themselves again behind it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for weight, average in zip(self._weights.values(), self._average.values()):
            before = weight.clone()
            weight.copy_(average)
            average.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; not copied."""
        return {"steps": self._steps, "average": dict(self._average)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Undo :meth:`state_dict`.

        Raises:
            KeyError, RuntimeError: it has other names or shapes.
        """
        saved = state["average"]
        if set(saved) != set(self._average):
            raise KeyError(f"averages of {sorted(set(saved) ^ set(self._average))[:3]}")
        for name, tensor in self._average.items():
            tensor.copy_(saved[name])
        self._steps = int(state["steps"])
