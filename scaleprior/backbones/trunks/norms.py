"""What a trunk's norms add to the variance, whatever kind of norms they are: found, and set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torchvision.ops import FrozenBatchNorm2d

__all__ = ["NORMS", "norms_of", "set_norm_eps"]

NORMS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._BatchNorm,
    FrozenBatchNorm2d,
    nn.GroupNorm,
    nn.LayerNorm,
)
"""Norms; timm's derive from them. Not all that has an ``eps`` is one: timm's convolutions with standardised weights
(BiT's) have one for the weights."""
_LEAST = torch.finfo(torch.float32).tiny


def norms_of(module: nn.Module, kinds: tuple[type[nn.Module], ...] = NORMS) -> Iterator[Any]:
    """The norms in ``module``."""
    return (norm for norm in module.modules() if isinstance(norm, kinds))


def set_norm_eps(module: nn.Module, eps: float, kinds: tuple[type[nn.Module], ...] = NORMS) -> int:
    """Let every norm in ``module`` add ``eps`` to the variance, in place; returns how many there are.

    0 becomes float32's smallest normal number, 1.2e-38. It vanishes in the sum with any variance above 2e-31, and torch
    refuses 0 where a BN learns.
    """
    norms = list(norms_of(module, kinds))
    for norm in norms:
        norm.eps = max(eps, _LEAST)
    return len(norms)
