"""Optimisers that look on the device whether a step may change anything, and their state from a checkpoint.

torch's fused optimisers look: where their attribute ``found_inf`` is 1, weights and state stay as they are, and the
host need not wait to know.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from scaleprior.training.checkpoint import lay_out_as_weights

__all__ = ["begin_at_zero", "guard", "guards_itself", "load_optimizer"]


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


def load_optimizer(optimizer: torch.optim.Optimizer, saved: Mapping[str, Any]) -> None:
    """Take on the state that an optimiser of the same name saved, on whatever device.

    Its settings stay its own: rate, decay and what tells a GPU's optimiser from a CPU's follow from the config.

    Raises:
        ValueError: it was saved over other groups of parameters.
    """
    own = [{name: group[name] for name in optimizer.defaults} for group in optimizer.param_groups]
    if len(own) == len(saved["param_groups"]):
        # What only the saved group has, such as lamb's count of steps, is state.
        groups = [{**theirs, **ours} for theirs, ours in zip(saved["param_groups"], own)]
        saved = {**saved, "param_groups": groups}
    optimizer.load_state_dict(dict(saved))
    for group, ours in zip(optimizer.param_groups, own):
        group.update(ours)  # load_state_dict copied them; a captured step reads the originals
    lay_out_as_weights(optimizer)
    if isinstance(optimizer, torch.optim.SGD) and optimizer.defaults["fused"]:
        begin_at_zero(optimizer)
