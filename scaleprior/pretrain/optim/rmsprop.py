"""TensorFlow's RMSProp for a step that no host waits for: few launches, the rate and the guard on the device.

timm's ``RMSpropTF`` is what a run on a CPU takes, and what this one equals to the bit there. Its older versions launch
seven kernels for each parameter (about 1,100 a step of R-50) where this one launches one, for the guard; none takes
``found_inf``, and the counters live on the host, where a captured step could not move them. The names of its state are
kept, so a run goes on under either.

Tensors of one parameter have its shape; the rate and ``found_inf`` are float32 [] on the parameters' device.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["DeviceRMSprop"]


class DeviceRMSprop(Optimizer):
    """RMSProp as TensorFlow has it: eps inside the square root, mean squares that start at one, the rate inside the
    momentum.

    With g the gradient plus ``weight_decay`` times the weight:
    ``v += (1 - alpha) (g^2 - v)``; ``m = momentum m + lr g / sqrt(v + eps)``; ``p -= m``.

    An attribute ``found_inf``, as torch's fused optimisers know it, is a tensor: where it is 1 the step changes neither
    weights nor state, whatever the gradients hold. They are set to zero then.

    Args:
        lr: a number, or a tensor that a caller fills before each step.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float | Tensor,
        momentum: float = 0.9,
        alpha: float = 0.9,
        eps: float = 1e-10,
        weight_decay: float = 0.0,
    ) -> None:
        options = {"lr": lr, "momentum": momentum, "alpha": alpha, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, options)
        self._step_supports_amp_scaling = True  # torch's own mark of those that look at found_inf

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Move the weights once.

        Args:
            closure: evaluates the loss anew, for torch's interface.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        found: Tensor | None = getattr(self, "found_inf", None)
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            if params:
                _update(params, [self._state_of(p, group) for p in params], group, found)
        return loss

    def _state_of(self, param: Tensor, group: dict[str, Any]) -> dict[str, Tensor]:
        state = self.state[param]
        if not state:
            state["step"] = torch.zeros((), device=param.device)
            state["square_avg"] = torch.ones_like(param)
            if group["momentum"]:
                state["momentum_buffer"] = torch.zeros_like(param)
        elif not isinstance(state["step"], Tensor) or state["step"].device != param.device:  # timm counts on the host
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32, device=param.device)
        return state


def _update(params: list[Tensor], states: list[dict[str, Tensor]], group: dict[str, Any], found: Tensor | None) -> None:
    """One step of a group. ``keep``, the guard's factor, is 1.0 where nothing was found, and changes no bit then."""
    grads = [p.grad for p in params if p.grad is not None]
    squares = [state["square_avg"] for state in states]
    device = params[0].device
    keep = torch.ones((), device=device)
    if found is not None:
        keep, stop = 1 - found, found > 0
        for grad in grads:  # zero times what is not finite is not finite, so that goes first
            grad.masked_fill_(stop, 0.0)
    # Without alpha torch takes a tensor of no dimensions for a number, and the host waits for it.
    torch._foreach_add_([state["step"] for state in states], keep, alpha=1)
    if group["weight_decay"]:
        grads = torch._foreach_add(grads, params, alpha=group["weight_decay"])
    change = torch._foreach_mul(grads, grads)
    torch._foreach_sub_(change, squares)
    torch._foreach_mul_(change, keep)
    torch._foreach_add_(squares, change, alpha=1.0 - group["alpha"])
    roots = torch._foreach_add(squares, group["eps"])
    torch._foreach_sqrt_(roots)
    # The rate times the gradient before the quotient, as addcdiv has it where the rate is a number.
    scaled = torch._foreach_mul(grads, torch.as_tensor(group["lr"], dtype=torch.float32, device=device) * keep)
    if not group["momentum"]:
        torch._foreach_addcdiv_(params, torch._foreach_neg(scaled), roots, value=1.0)
        return
    moments = [state["momentum_buffer"] for state in states]
    torch._foreach_mul_(moments, torch.where(keep > 0, group["momentum"], 1.0))
    torch._foreach_addcdiv_(moments, scaled, roots, value=1.0)
    torch._foreach_sub_(params, torch._foreach_mul(moments, keep))
