"""Which part of a network first puts out a number that is not finite, and how large it is in float32.

A loss that is not finite says only that something was. In float16, which ends at 65,504, it is mostly a map that grows
from block to block, as in fresh weights behind frozen norms: a second pass over the same batch finds it.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scaleprior.detect.precision import name_of

__all__ = ["Overflow", "first_overflow", "label_of"]


@dataclass(frozen=True)
class Overflow:
    """A tensor that is not finite.

    Attributes:
        module: the network's, by its dotted name there.
        goes_in: it is what the module is given, which no module before it put out; otherwise it is what it puts out.
        dtype: of the calculation.
        largest: absolute value in float32; inf or NaN where it is not finite there either.
    """

    module: str
    goes_in: bool
    dtype: torch.dtype
    largest: float

    @property
    def fits_float32(self) -> bool:
        """The number type is at fault: float32 holds the same tensor."""
        return math.isfinite(self.largest)

    def words(self, label: str) -> str:
        """One clause, such as "float16 cannot hold what res4.12 puts out (largest 1.2e+05 in float32)".

        Args:
            label: what the user calls the module.
        """
        what = f"what goes into {label}" if self.goes_in else f"what {label} puts out"
        if self.fits_float32:
            return f"{name_of(self.dtype)} cannot hold {what} (largest {self.largest:.2g} in float32)"
        return f"{what} is the first that is not finite, in float32, too"

    @property
    def hint(self) -> str:
        """What to do where ``fits_float32``."""
        bfloat16 = "SCALEPRIOR.AMP_DTYPE bfloat16, " if self.dtype == torch.float16 else ""
        return f"use {bfloat16}SOLVER.AMP.ENABLED False, or start from weights whose norms fit them"


def first_overflow(model: nn.Module, run: Callable[[], object], dtype: torch.dtype) -> Overflow | None:
    """The first tensor of a pass in ``dtype`` that is not finite, in the order of calculation; None if all are.

    Args:
        run: the pass, without autocast of its own. It is made twice, without gradients, in ``dtype`` and in float32;
            errors that say that its numbers are not finite end it.
    """
    device = next(model.parameters()).device.type
    found: list[Overflow] = []

    def look(name: str, value: Any, *, goes_in: bool) -> None:
        if not found and any(not bool(torch.isfinite(tensor).all()) for tensor in _floats(value)):
            found.append(Overflow(name, goes_in, dtype, math.nan))

    with _watched(model, look), torch.autocast(device, dtype=dtype):
        _passed(run)
    largest: list[Tensor] = []  # of every time that the module is passed

    def measure(name: str, value: Any, *, goes_in: bool) -> None:
        if found and (name, goes_in) == (found[0].module, found[0].goes_in):
            largest.extend(tensor.abs().amax().float() for tensor in _floats(value))

    with _watched(model, measure), torch.autocast(device, enabled=False):
        _passed(run)  # also where nothing was found: norms over several processes exchange in every pass
    return replace(found[0], largest=float(torch.stack(largest).amax())) if largest else next(iter(found), None)


def label_of(module: str, names: Mapping[str, str]) -> str:
    """What the user's files call a module: the beginning that the names of all tensors in it have in common.

    Of a module without tensors it is that of the nearest around it that has some: of a block for its last activation.

    Args:
        module: its dotted name. names: of the network's tensors -> those in files.
    """
    while module:
        inside = [theirs.split(".")[:-1] for ours, theirs in names.items() if ours.startswith(f"{module}.")]
        if inside:
            return os.path.commonpath(["/".join(parts) for parts in inside]).replace("/", ".") or module
        module = module.rpartition(".")[0]
    return "the network"


@contextlib.contextmanager
def _watched(model: nn.Module, look: Callable[..., None]) -> Iterator[None]:
    """Have ``look(name, tensors, goes_in=)`` called after every module, and before those without modules in them."""
    handles = []
    for name, module in model.named_modules():
        if next(module.children(), None) is None:
            before = lambda _, inputs, name=name: look(name, inputs, goes_in=True)  # noqa: E731
            handles.append(module.register_forward_pre_hook(before))
        after = lambda _, inputs, output, name=name: look(name, output, goes_in=False)  # noqa: E731
        handles.append(module.register_forward_hook(after))
    try:
        with torch.no_grad():
            yield
    finally:
        for handle in handles:
            handle.remove()


def _passed(run: Callable[[], object]) -> None:
    with contextlib.suppress(FloatingPointError):  # Detectron2's, of boxes that are not finite
        run()


def _floats(value: Any) -> Iterator[Tensor]:
    """All tensors of floats in what a module is given or puts out."""
    if isinstance(value, Tensor):
        if value.is_floating_point() and value.numel():
            yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _floats(each)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _floats(each)
