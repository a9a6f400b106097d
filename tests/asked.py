"""What a piece of work asks its device for, seen on a CPU: the operations that hand numbers of a tensor to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["Asked"]

ANSWERS = ("_local_scalar_dense", "nonzero", "unique", "masked_select", "equal", "bincount", "repeat_interleave")


class Asked(TorchDispatchMode):
    """Collects what would be waited for, within the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        name = func.overloadpacket.__name__
        if name.startswith("index") and any(_is_mask(index) for index in _flat(args[1:2])):
            self.names.append(f"{name} of a mask")
        elif name.strip("_").startswith(tuple(each.strip("_") for each in ANSWERS)):
            self.names.append(name)
        return func(*args, **(kwargs or {}))


def _flat(values: Sequence[Any]) -> list[Any]:
    return [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]


def _is_mask(value: Any) -> bool:
    return isinstance(value, Tensor) and value.dtype == torch.bool
