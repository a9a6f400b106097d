"""Stochastic depth (Huang et al. 2016): in training each image skips residual branches at random.

The chance grows linearly over the blocks, from 0 in the first to the rate in the last, as in timm's networks, whose own
layer does it. It has no parameters, so the names and shapes of a trunk's tensors stay.
"""

from __future__ import annotations

from typing import Any

from timm.layers import DropPath
from torch import nn

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.errors import UserError

__all__ = ["set_drop_path"]

_PLACE = "drop_path"  # what timm's residual blocks call it; None or an Identity where it is off


def set_drop_path(spec: TrunkSpec, body: nn.Module, rate: float) -> None:
    """Let the blocks of ``body``, a trunk of ``spec``, drop their branches at up to ``rate``, in [0, 1); in place.

    Raises:
        UserError: the family's blocks have no place for it.
    """
    stages = spec.family.stages(body)
    blocks: list[Any] = [m for stage in stages for m in stage.modules() if _PLACE in vars(m) or _PLACE in m._modules]
    if len(blocks) < len(stages):
        raise UserError(
            f"PRETRAIN.DROP_PATH is {rate:g}, and the blocks of {spec.name} have no branch that can be dropped",
            hint="set PRETRAIN.DROP_PATH 0",
        )
    for number, block in enumerate(blocks):
        setattr(block, _PLACE, DropPath(rate * number / max(len(blocks) - 1, 1)))
