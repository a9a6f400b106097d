"""Several processes evaluate one model: that of the main process, which is the one that is saved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from detectron2.utils import comm
from torch import nn

__all__ = ["as_saved"]


@contextlib.contextmanager
def as_saved(model: nn.Module) -> Iterator[None]:
    """Within the block every process has the main one's buffers; training goes on with its own.

    BN that learns gathers each process' statistics apart (Detectron2's DDP does not share buffers), so that the AP of a
    set shared out among them would be that of no model that anybody has.
    """
    if comm.get_world_size() == 1:
        yield
        return
    before = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    for buffer, _ in before:
        torch.distributed.broadcast(buffer.detach(), src=0)
    try:
        yield
    finally:
        for buffer, own in before:
            buffer.detach().copy_(own)
