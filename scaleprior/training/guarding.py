"""Optimisers that look on the device whether a step may change anything, so that the host need not wait to know.

torch's fused optimisers do: where their attribute ``found_inf`` is 1, weights and state stay as they are.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["begin_at_zero", "guard", "guards_itself"]


def guards_itself(optimizer: torch.optim.Optimizer) -> bool:
    """Its step leaves weights and state alone where its attribute ``found_inf``, float32 [] on the device, is 1.

    Of others the host has to look at the figures before it calls ``step``.
    """
    return getattr(optimizer, "_step_supports_amp_scaling", False)


def guard(optimizer: torch.optim.Optimizer, found_inf: Tensor) -> None:
    """Have every step of an optimiser that :func:`guards_itself` look at ``found_inf``, at whatever it holds then."""
    optimizer.found_inf = found_inf  # pyright: ignore[reportAttributeAccessIssue] (where torch's own look for it)


def begin_at_zero(optimizer: torch.optim.Optimizer) -> None:
    """Give a fused SGD its momenta: its first step makes them without a value, which stays where found_inf is 1."""
    for group in optimizer.param_groups:
        for param in group["params"] if group["momentum"] else ():
            if optimizer.state[param].get("momentum_buffer") is None:
                optimizer.state[param]["momentum_buffer"] = torch.zeros_like(param)
