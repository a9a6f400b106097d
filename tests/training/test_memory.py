"""Which errors say that memory ran out, and whose."""

from __future__ import annotations

import pickle

import pytest
import torch

from scaleprior.errors import FailureError
from scaleprior.training.memory import OutOfMemory, is_out_of_memory, memory_that_ran_out

# As torch, cuBLAS, cuDNN and the driver say it.
SAID = [
    (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), "gpu"),
    (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously reported"), "gpu"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), "gpu"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "gpu"),
    (RuntimeError("Triton Error [CUDA]: out of memory"), "gpu"),
    (RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"), "gpu"),
    (RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"), "host"),
    (MemoryError(), "host"),
    (OSError(12, "Cannot allocate memory"), "host"),
    (OSError(28, "No space left on device"), None),
    (RuntimeError("unable to mmap 8941120 bytes from file <model.safetensors>: Cannot allocate memory (12)"), "host"),
    (RuntimeError("size mismatch"), None),
    (FailureError("CUDA out of memory is what this text is about"), None),
    (ValueError("CUDA out of memory"), None),
]


@pytest.mark.parametrize(("error", "whose"), SAID, ids=lambda value: str(value)[:40])
def test_an_error_says_whose_memory_ran_out(error: Exception, whose: str | None) -> None:
    assert memory_that_ran_out(error) == whose
    assert is_out_of_memory(error) == (whose is not None)


@pytest.mark.parametrize(
    ("said", "whose"),
    [
        ("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`", "gpu"),
        ("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED", "gpu"),
        ("GET was unable to find an engine to execute this computation", "gpu"),
        ("could not create a primitive", "host"),  # oneDNN's
    ],
)
def test_a_library_that_cannot_begin_may_lack_memory_which_is_not_said_for_certain(said: str, whose: str) -> None:
    assert memory_that_ran_out(RuntimeError(said)) == whose
    assert not is_out_of_memory(RuntimeError(said))


def test_whose_memory_it_was_is_known_behind_other_errors_and_other_words() -> None:
    def told() -> None:
        try:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        except RuntimeError as e:
            raise ValueError("the recording ended early") from e

    with pytest.raises(ValueError, match="ended early") as caught:
        told()
    assert memory_that_ran_out(caught.value) == "gpu"
    error = OutOfMemory("memory ran out at step 3", hint="take less", memory="host")
    assert memory_that_ran_out(pickle.loads(pickle.dumps(error))) == "host"
    assert isinstance(error, FailureError)
