"""Which errors say that memory ran out, and whose: the host's or a GPU's."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from typing import Literal

import torch

from scaleprior.errors import FailureError

__all__ = ["Memory", "OutOfMemory", "causes", "is_out_of_memory", "memory_that_ran_out"]

Memory = Literal["gpu", "host"]

_HOST = ("DefaultCPUAllocator", os.strerror(errno.ENOMEM))  # of safetensors, too, whose files are mapped
_GPU = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA_ERROR_OUT_OF_MEMORY",
    "Triton Error [CUDA]: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",
)
"""In the texts of plain RuntimeErrors: of the host's allocator, and of what takes a GPU's memory beside torch's."""
_PERHAPS: Mapping[str, Memory] = {
    "CUBLAS_STATUS_NOT_INITIALIZED": "gpu",
    "CUDNN_STATUS_NOT_INITIALIZED": "gpu",
    "unable to find an engine to execute this computation": "gpu",
    "could not create a primitive": "host",
}
"""What cuBLAS, cuDNN and oneDNN say where they have no room to begin, but also where they are broken."""


class OutOfMemory(FailureError):
    """Memory ran out, told in the words of whoever knows what it was needed for.

    Attributes:
        memory: whose.
    """

    def __init__(self, message: str, *, hint: str = "", memory: Memory = "gpu") -> None:
        super().__init__(message, hint=hint)
        self.memory: Memory = memory


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` is of Python, torch or a library that was refused memory."""
    return _refused(error) is not None


def memory_that_ran_out(error: BaseException) -> Memory | None:
    """Whose memory ran out, by ``error`` or by one that led to it; None where it is another kind of error.

    Also where that is only likely: for who tries again with more of it, and learns so whether it was.
    """
    for each in causes(error):
        memory = each.memory if isinstance(each, OutOfMemory) else _refused(each)
        if memory is not None:
            return memory
        if isinstance(each, RuntimeError):
            for text, likely in _PERHAPS.items():
                if text in str(each):
                    return likely
    return None


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error and those before it: the end of a recording, say, fails for the error that ended it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _refused(error: BaseException) -> Memory | None:
    if isinstance(error, torch.cuda.OutOfMemoryError):
        return "gpu"
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return "host"
    if not isinstance(error, RuntimeError) or isinstance(error, FailureError):
        return None
    said = str(error)
    return "host" if any(text in said for text in _HOST) else "gpu" if any(text in said for text in _GPU) else None
