"""How a GPU's libraries calculate during a run: TF32, cuDNN's choice of algorithms, determinism.

These are settings of the whole process, so a run sets all of them, whatever was there before, and puts back what it
found when it ends: a notebook goes on as it was.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
from torch import backends

from scaleprior.errors import UserError

__all__ = ["arithmetic"]

# Settings that torch declares to no type checker.
cudnn: Any = backends.cudnn
filling: Any = torch.utils.deterministic
_WORKSPACE, _VALUES = "CUBLAS_WORKSPACE_CONFIG", (":4096:8", ":16:8")  # with which cuBLAS repeats itself


@contextlib.contextmanager
def arithmetic(*, tf32: bool, cudnn_benchmark: bool, deterministic: bool, gpu: bool) -> Iterator[None]:
    """Within the block, torch calculates like this; enter it before anything is done on a GPU.

    Args:
        tf32: products and convolutions of float32 may round their factors to 10 bits of mantissa.
        cudnn_benchmark: cuDNN tries its algorithms on the first batch of a shape and takes the fastest; which one wins
            may differ between runs, and so do last bits.
        deterministic: equal runs give equal bits; operations that cannot are refused by torch, and cuDNN tries nothing.
            What cuBLAS needs for it stays in the environment of a process that has used a GPU.
        gpu: the block may use one.

    Raises:
        UserError: ``deterministic``, and the GPU is in use already without what cuBLAS needs for it.
    """
    convolutions, name, off, on = _tf32_switch()
    places = backends.cuda.matmul, convolutions
    precisions = [getattr(place, name) for place in places]
    before = backends.cudnn.benchmark, backends.cudnn.deterministic, _determinism()
    with _cublas_workspace() if deterministic and gpu else contextlib.nullcontext():
        try:
            for place in places:
                setattr(place, name, on if tf32 else off)
            backends.cudnn.benchmark = cudnn_benchmark and not deterministic
            if deterministic:
                backends.cudnn.deterministic = True
                # New tensors need no filling: nothing of ours reads what it has not written.
                _set_determinism(True, False, False)
            yield
        finally:
            for place, precision in zip(places, precisions):
                setattr(place, name, precision)
            backends.cudnn.benchmark, backends.cudnn.deterministic, determinism = before
            _set_determinism(*determinism)


@contextlib.contextmanager
def _cublas_workspace() -> Iterator[None]:
    """cuBLAS with a workspace of its own for each stream; it reads the environment when it is first used."""
    found = os.environ.get(_WORKSPACE)
    if found in _VALUES:
        yield
        return
    if found is not None or torch.cuda.is_initialized():
        said = f"is {found!r}" if found is not None else "is not set, and the GPU is in use already"
        raise UserError(
            f"PRETRAIN.STEP.DETERMINISTIC is True, but {_WORKSPACE} {said}",
            hint=f"start anew after: export {_WORKSPACE}={_VALUES[0]}",
        )
    os.environ[_WORKSPACE] = _VALUES[0]
    try:
        yield
    finally:
        if not torch.cuda.is_initialized():  # else cuBLAS has it for good, and the process' next run is to know
            del os.environ[_WORKSPACE]


def _tf32_switch() -> tuple[Any, str, Any, Any]:
    """Where torch keeps the precision of float32 products and convolutions: attribute, and its values for off and on.

    torch 2.9 brought a second way to say it, and whoever has used that one can no longer be asked in the first. The
    first is preferred while it answers, because torch's compiler asks in it.
    """
    try:
        _ = backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32
    except RuntimeError:
        return cudnn.conv, "fp32_precision", "ieee", "tf32"
    return backends.cudnn, "allow_tf32", False, True


def _determinism() -> tuple[bool, bool, bool]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
    )


def _set_determinism(on: bool, warn_only: bool, fill: bool) -> None:
    torch.use_deterministic_algorithms(on, warn_only=warn_only)
    filling.fill_uninitialized_memory = fill
