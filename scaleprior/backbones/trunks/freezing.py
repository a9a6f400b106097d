"""Layers that stay as they are: BatchNorm turned into FrozenBN, and parts of a network that no longer learn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from timm.layers import BatchNormAct2d
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from scaleprior.errors import UserError

__all__ = ["FrozenBatchNormAct", "check_stages", "freeze_norms", "freeze_parts"]


class FrozenBatchNormAct(FrozenBatchNorm2d):
    """FrozenBN with the activation that timm keeps inside some of its norms (CLIP's)."""

    if TYPE_CHECKING:  # TorchScript would read annotations, and these are texts
        weight: Tensor
        bias: Tensor
        running_mean: Tensor
        running_var: Tensor

    def __init__(self, num_features: int, eps: float, act: nn.Module) -> None:
        super().__init__(num_features, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        # torchvision's arithmetic, operation by operation: TorchScript, which exports detectors, knows no super()
        weight, bias, mean, variance = (
            self.weight.reshape(1, -1, 1, 1),
            self.bias.reshape(1, -1, 1, 1),
            self.running_mean.reshape(1, -1, 1, 1),
            self.running_var.reshape(1, -1, 1, 1),
        )
        scale = weight * (variance + self.eps).rsqrt()
        return self.act(x * scale + (bias - mean * scale))


def freeze_norms(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm below ``module`` into FrozenBN, keeping its numbers, its eps and its activation if it has
    one; returns what to put in its place."""
    if isinstance(module, nn.BatchNorm2d):
        if isinstance(module, BatchNormAct2d):
            frozen: FrozenBatchNorm2d = FrozenBatchNormAct(module.num_features, module.eps, module.get_submodule("act"))
        else:
            frozen = FrozenBatchNorm2d(module.num_features, eps=module.eps)
        for name in ("weight", "bias", "running_mean", "running_var"):
            # A copy: the frozen norm must not follow later updates of the parameter it came from.
            setattr(frozen, name, getattr(module, name).detach().clone())
        return frozen
    for name, child in module.named_children():
        replacement = freeze_norms(child)
        if replacement is not child:
            setattr(module, name, replacement)
    return module


def check_stages(stages: int) -> None:
    """Raises UserError for a number of stages that ``MODEL.BACKBONE.FREEZE_AT`` cannot have."""
    if not 0 <= stages <= 5:
        raise UserError(f"MODEL.BACKBONE.FREEZE_AT is {stages!r}", hint="give an integer from 0 to 5")


def freeze_parts(body: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Let ``parts``, modules somewhere below ``body``, no longer learn: no gradients, and FrozenBN in place of BN."""
    wanted = {id(part) for part in parts}
    for parent in list(body.modules()):
        for name, child in list(parent.named_children()):
            if id(child) in wanted:
                frozen = freeze_norms(child)
                setattr(parent, name, frozen)
                for parameter in frozen.parameters():
                    parameter.requires_grad_(False)
