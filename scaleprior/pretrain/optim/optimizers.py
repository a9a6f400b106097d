"""The optimiser over a model's parameters, and the two things a step sets on it: the rate, and whether to move at all.

On a CPU the optimisers are timm's and torch's own. On a GPU they are those that need no answer from the device: the
rate is a tensor there, which a captured step reads anew each time, and a step whose ``found_inf`` is 1 changes nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scaleprior.errors import UserError
from scaleprior.pretrain.optim.rmsprop import DeviceRMSprop
from scaleprior.training.optimizers import begin_at_zero

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["build_optimizer", "device_optimizer", "set_rate"]

_TIMM = {"sgd": "nesterov", "rmsprop": "rmsproptf", "adamw": "adamw", "lamb": "lamb"}


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``cfg.PRETRAIN.OPTIMIZER`` describes, for where ``model`` lies.

    "rmsprop" is TensorFlow's: eps inside the square root, mean squares that start at one. Convolution and head weights
    decay by WEIGHT_DECAY, all one-dimensional parameters by WEIGHT_DECAY_NORM.
    """
    node = cfg.PRETRAIN.OPTIMIZER
    if node.NAME not in _TIMM:
        raise UserError(f"PRETRAIN.OPTIMIZER.NAME is {node.NAME!r}", hint=f"take one of {', '.join(_TIMM)}")
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": node.WEIGHT_DECAY},
        {"params": others, "weight_decay": node.WEIGHT_DECAY_NORM},
    ]
    device = next(model.parameters()).device
    if device.type == "cuda" and node.NAME != "lamb":  # lamb counts its steps on the host, and looks at no found_inf
        return device_optimizer(node.NAME, groups, lr=node.BASE_LR, momentum=node.MOMENTUM, device=device)
    from timm.optim import create_optimizer_v2

    plain = node.NAME == "sgd" and not node.MOMENTUM  # Nesterov's look ahead is along the momentum
    return create_optimizer_v2(
        groups,
        opt="momentum" if plain else _TIMM[node.NAME],
        lr=node.BASE_LR,
        weight_decay=0.0,
        momentum=node.MOMENTUM,
        filter_bias_and_bn=False,
    )


def device_optimizer(
    name: str, groups: list[dict[str, Any]], *, lr: float, momentum: float, device: torch.device
) -> torch.optim.Optimizer:
    """An optimiser with its rate on ``device`` that honours ``found_inf``: "sgd", "rmsprop" or "adamw".

    Args:
        groups: of parameters, each with its ``weight_decay``.
    """
    rate = torch.tensor(lr, dtype=torch.float32, device=device)
    if name == "rmsprop":
        return DeviceRMSprop(groups, lr=rate, momentum=momentum)
    if name == "adamw":
        adamw: Any = torch.optim.AdamW(groups, lr=rate, fused=True, capturable=True)
        adamw._warned_capturable_if_run_uncaptured = True  # of a run that is not recorded, which is as good
        return adamw
    optimizer = torch.optim.SGD(groups, lr=rate, momentum=momentum, nesterov=momentum > 0, fused=True)
    begin_at_zero(optimizer)
    return optimizer


def set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give all groups a learning rate; one that lies on the device is filled there, so nobody waits."""
    filled: set[int] = set()
    for group in optimizer.param_groups:
        if not isinstance(group["lr"], Tensor):
            group["lr"] = rate
        elif id(group["lr"]) not in filled:
            filled.add(id(group["lr"]))
            group["lr"].fill_(rate)
