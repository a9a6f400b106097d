"""The optimiser and its schedule with Detectron2's meaning of the ``SOLVER`` keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from fvcore.common.param_scheduler import (
    CompositeParamScheduler,
    ConstantParamScheduler,
    CosineParamScheduler,
    LinearParamScheduler,
    MultiStepParamScheduler,
    ParamScheduler,
)
from torch import nn

from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["build_optimizer", "clip_gradients", "lr_factor"]

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)


def lr_factor(cfg: CfgNode) -> ParamScheduler:
    """Factor on the learning rate as a function of step / MAX_ITER in [0, 1).

    Over the warmup it goes linearly from WARMUP_FACTOR to the schedule's value at the warmup's end (or stays at
    WARMUP_FACTOR); then it is GAMMA to the number of STEPS passed, or half a cosine from 1 to BASE_LR_END / BASE_LR.
    """
    solver = cfg.SOLVER
    total = max(solver.MAX_ITER, 1)
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR":
        end = solver.BASE_LR_END / solver.BASE_LR
        if not 0 <= end <= 1:
            raise UserError(f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}", hint="give a rate from 0 to BASE_LR")
        schedule: ParamScheduler = CosineParamScheduler(1, end)
    else:
        steps = [step for step in solver.STEPS if step < total]  # the others would change the rate when all is over
        if steps != sorted(set(steps)):
            raise UserError(f"SOLVER.STEPS is {tuple(solver.STEPS)}", hint="give ascending steps")
        schedule = MultiStepParamScheduler(
            [solver.GAMMA**k for k in range(len(steps) + 1)], milestones=steps, num_updates=total
        )
    length = min(solver.WARMUP_ITERS / total, 1.0)
    if length == 0:
        return schedule
    start = solver.WARMUP_FACTOR * schedule(0.0)
    if solver.WARMUP_METHOD == "linear":
        warmup: ParamScheduler = LinearParamScheduler(start, schedule(length))
    else:
        warmup = ConstantParamScheduler(start)
    return CompositeParamScheduler([warmup, schedule], [length, 1 - length], ["rescaled", "fixed"])


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.SGD:
    """SGD over the parameters that learn: norm layers with WEIGHT_DECAY_NORM, other biases with WEIGHT_DECAY_BIAS.

    On a GPU it is torch's fused one, which looks on the device whether a step may change anything.
    """
    solver = cfg.SOLVER
    fused = next(model.parameters()).is_cuda
    bias_decay = solver.WEIGHT_DECAY if solver.WEIGHT_DECAY_BIAS is None else solver.WEIGHT_DECAY_BIAS
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            decay, rate = solver.WEIGHT_DECAY, solver.BASE_LR
            if isinstance(module, _NORMS):
                decay = solver.WEIGHT_DECAY_NORM
            if name == "bias":
                rate *= solver.BIAS_LR_FACTOR
                # Detectron2 lets an explicit decay of biases win over that of norm layers
                if solver.WEIGHT_DECAY_BIAS is not None or not isinstance(module, _NORMS):
                    decay = bias_decay
            groups.setdefault((rate, decay), []).append(parameter)
    device = next(model.parameters()).device
    return torch.optim.SGD(
        [
            # on a GPU the rate is a tensor there, which a recorded step reads anew
            {
                "params": params,
                "lr": torch.tensor(rate, dtype=torch.float32, device=device) if fused else rate,
                "weight_decay": decay,
                "initial_lr": rate,
            }
            for (rate, decay), params in groups.items()
        ],
        lr=solver.BASE_LR,
        momentum=solver.MOMENTUM,
        nesterov=solver.NESTEROV,
        foreach=not fused,
        fused=fused,
    )


def clip_gradients(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> None:
    """Clip as ``SOLVER.CLIP_GRADIENTS`` says; "norm" acts on each parameter by itself, as in Detectron2."""
    clip = cfg.SOLVER.CLIP_GRADIENTS
    if not clip.ENABLED:
        return
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if clip.CLIP_TYPE == "value":
        nn.utils.clip_grad_value_(parameters, clip.CLIP_VALUE)
        return
    # clip_grad_norm_ on each parameter by itself, in a few calls for all of them: that matters for R-152 on a CPU
    gradients = [p.grad for p in parameters]
    norms = torch._foreach_norm(gradients, clip.NORM_TYPE)
    factors = (clip.CLIP_VALUE / (torch.stack(norms) + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_(gradients, list(factors.unbind()))
