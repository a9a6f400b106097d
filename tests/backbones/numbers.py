"""Random numbers at the price of a copy: networks of hundreds of megabytes are filled with them, many times."""

from __future__ import annotations

import functools
import math

import torch
from torch import Tensor

# A prime: no axis of a tensor repeats with it.
_COUNT = 1_000_003


@functools.cache
def _pool() -> Tensor:
    return torch.randn(_COUNT, generator=torch.Generator().manual_seed(0))


def fill_normal(tensor: Tensor, std: float) -> Tensor:
    """Normal numbers with mean 0 in a contiguous ``tensor``, which begin wherever torch's random state says.

    They repeat after a million, so that tensors differ, and rows and columns of one; they are no sample for statistics.
    """
    with torch.no_grad():
        flat, pool = tensor.view(-1), _pool()
        done, start = 0, int(torch.randint(_COUNT, ()))
        while done < len(flat):
            part = pool[start : start + len(flat) - done]
            torch.mul(part, std, out=flat[done : done + len(part)])
            done, start = done + len(part), 0
    return tensor


def fill_kaiming(tensor: Tensor, *_: object, **__: object) -> Tensor:
    """In place of ``nn.init.kaiming_normal_`` of a layer's weight, by its outputs."""
    if tensor.is_meta:
        return tensor
    return fill_normal(tensor, math.sqrt(2 / (tensor.shape[0] * tensor[0, 0].numel())))
