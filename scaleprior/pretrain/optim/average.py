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
    """An average beside the weights, on their device, in their types.

    Floating tensors are averaged, statistics of BN among them; integers, its counters, are copied.

    Args:
        weights: by name; the very tensors that training changes in place.
        decay: in (0, 1).
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._weights = {name: tensor.detach() for name, tensor in weights.items()}
        self._average = {name: tensor.clone() for name, tensor in self._weights.items()}
        floating = [name for name, tensor in self._weights.items() if tensor.is_floating_point()]
        self._floating = [self._weights[n] for n in floating], [self._average[n] for n in floating]
        counters = [name for name in self._weights if name not in set(floating)]
        self._counters = [self._weights[n] for n in counters], [self._average[n] for n in counters]

    @torch.no_grad()
    def update(self) -> None:
        """Follow the weights after a step; the device is not waited for."""
        weights, average = self._floating
        torch._foreach_lerp_(average, weights, 1 - average_decay(self._decay, self._steps))
        for counter, copy in zip(*self._counters):
            copy.copy_(counter)
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
