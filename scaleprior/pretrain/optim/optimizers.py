"""The optimiser over a model's parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["build_optimizer"]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser that ``cfg.PRETRAIN.OPTIMIZER`` describes, from timm's factory.

    "rmsprop" is timm's RMSpropTF: it puts eps inside the square root and starts the mean square at one, as TensorFlow
    did. Convolution and head weights decay by WEIGHT_DECAY, all one-dimensional parameters by WEIGHT_DECAY_NORM.
    """
    from timm.optim import create_optimizer_v2

    node = cfg.PRETRAIN.OPTIMIZER
    names = {"sgd": "nesterov", "rmsprop": "rmsproptf", "adamw": "adamw", "lamb": "lamb"}
    if node.NAME not in names:
        raise UserError(f"PRETRAIN.OPTIMIZER.NAME is {node.NAME!r}", hint=f"take one of {', '.join(names)}")
    weights = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    groups = [
        {"params": weights, "weight_decay": node.WEIGHT_DECAY},
        {"params": others, "weight_decay": node.WEIGHT_DECAY_NORM},
    ]
    return create_optimizer_v2(
        groups,
        opt=names[node.NAME],
        lr=node.BASE_LR,
        weight_decay=0.0,
        momentum=node.MOMENTUM,
        filter_bias_and_bn=False,
    )
