"""Which errors say that memory ran out, on the host or on a GPU."""

from __future__ import annotations

import torch

__all__ = ["is_out_of_memory"]

_SAID = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
"""In the texts of plain RuntimeErrors: of the host's allocator, and of what takes a GPU's memory beside torch's."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is of Python, torch or a library that was refused memory."""
    if isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)
