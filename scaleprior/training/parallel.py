"""A network in each of several processes, whose gradients are their mean."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from scaleprior.training.processes import ProcessGroup

__all__ = ["in_parallel"]


def in_parallel(model: nn.Module, processes: ProcessGroup, *, unused: bool = False) -> nn.Module:
    """``model`` with its gradients averaged over the processes; ``model`` itself where there is no group of them.

    Its parameters become those of process 0, once. Buffers are sent about in no step: the only ones that change are
    BN's, of which each process has its own, or where statistics are shared the same as all.

    Args:
        model: on the device of this process.
        unused: some of its parameters have no part in the loss, which torch has to look for in every step.
    """
    if not processes.joined:
        return model
    ids = [processes.device] if processes.device.type == "cuda" else None
    new_name = "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    further: dict[str, Any] = {
        "forward_sync_buffers" if new_name else "broadcast_buffers": False
    }  # renamed after torch 2.4
    if unused:
        further["find_unused_parameters"] = True
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **further)
