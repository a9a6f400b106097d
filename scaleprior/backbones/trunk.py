"""Build the ResNet trunk that pretraining and detection share: timm's ``ResNet`` with Detectron2's shapes.

B images, H x W pixels: ``trunk(x: [B, 3, H, W]) -> [B, C5, H/32, W/32]``; ``trunk.layer1`` .. ``trunk.layer4`` are
Detectron2's res2 .. res5.
"""

from __future__ import annotations

from typing import Any

from timm.layers import BatchNormAct2d
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from scaleprior.backbones.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError

__all__ = ["FrozenBatchNormAct", "build_resnet", "check_stages", "freeze_at", "freeze_norms", "names_and_shapes"]


def build_resnet(spec: ResNetSpec, *, zero_init_last: bool = True) -> ResNet:
    """A headless trunk with fresh weights (He initialisation, fan-out).

    Args:
        zero_init_last: start the last norm of every block at gain 0, so that blocks begin as the identity
            (Goyal et al. 2017). Left out for FrozenBN, whose gains would stay 0 for ever.
    """
    planes = spec.res2_out_channels // (4 if spec.bottleneck else 1)
    trunk = ResNet(
        Bottleneck if spec.bottleneck else BasicBlock,
        BLOCKS_PER_STAGE[spec.depth],
        num_classes=0,
        global_pool="",
        channels=tuple(planes * 2**i for i in range(4)),
        cardinality=spec.num_groups,
        # timm floors planes * (base_width / 64); the small excess keeps float division from losing a channel.
        base_width=64 * spec.width_per_group / planes * (1 + 1e-9) if spec.bottleneck else 64,
        norm_layer=_group_norm if spec.norm == "GN" else nn.BatchNorm2d,
        zero_init_last=zero_init_last and spec.norm != "FrozenBN",
    )
    if spec.bottleneck:
        assert trunk.layer4[0].conv2.out_channels == 8 * spec.num_groups * spec.width_per_group
    if spec.stride_in_1x1:
        for stage in (trunk.layer2, trunk.layer3, trunk.layer4):
            block = stage[0]
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    if spec.norm == "FrozenBN":
        freeze_norms(trunk)
    return trunk


def _group_norm(channels: int, **kwargs: Any) -> nn.GroupNorm:
    return nn.GroupNorm(32, channels, **kwargs)


class FrozenBatchNormAct(FrozenBatchNorm2d):
    """FrozenBN with the activation that timm keeps inside some of its norms (CLIP's)."""

    def __init__(self, num_features: int, eps: float, act: nn.Module) -> None:
        super().__init__(num_features, eps)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] -> [N, C, H, W]."""
        return self.act(super().forward(x))


def freeze_norms(module: nn.Module) -> nn.Module:
    """Turn every BatchNorm below ``module`` into FrozenBN, keeping its numbers, its eps and its activation if it has
    one; returns what to put in its place."""
    if isinstance(module, nn.BatchNorm2d):
        if isinstance(module, BatchNormAct2d):
            frozen: FrozenBatchNorm2d = FrozenBatchNormAct(module.num_features, module.eps, module.act)
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


def freeze_at(trunk: ResNet, stages: int) -> ResNet:
    """Freeze the first ``stages`` stages in place, with Detectron2's meaning of ``MODEL.BACKBONE.FREEZE_AT``.

    Args:
        stages: 0 none, 1 the stem, 2 stem and res2, ..., 5 stem to res5. Frozen parameters need no gradient, and BN
            becomes FrozenBN whatever the spec's norm is. Modules are replaced, so call this before the optimiser
            collects parameters.
    """
    check_stages(stages)
    names = ["conv1", "bn1"] if stages >= 1 else []
    names += [f"layer{stage - 1}" for stage in range(2, stages + 1)]
    for name in names:
        frozen = freeze_norms(getattr(trunk, name))
        setattr(trunk, name, frozen)
        for parameter in frozen.parameters():
            parameter.requires_grad_(False)
    return trunk


def names_and_shapes(spec: ResNetSpec) -> dict[str, tuple[int, ...]]:
    """Detectron2's names and shapes of the trunk's tensors, without building any of it."""
    tensors = ("weight", "bias") if spec.norm == "GN" else ("weight", "bias", "running_mean", "running_var")
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(name: str, outputs: int, inputs: int, side: int) -> None:
        shapes[f"{name}.weight"] = (outputs, inputs, side, side)
        shapes.update({f"{name}.norm.{tensor}": (outputs,) for tensor in tensors})

    layer("stem.conv1", spec.stem_out_channels, 3, 7)
    inputs = spec.stem_out_channels
    for stage, blocks in enumerate(BLOCKS_PER_STAGE[spec.depth], start=2):
        outputs = spec.out_channels[f"res{stage}"]
        width = spec.num_groups * spec.width_per_group * 2 ** (stage - 2)
        for block in (f"res{stage}.{number}" for number in range(blocks)):
            # Without a shortcut the input must fit the output in channels and in places (res3 to res5 halve them).
            if inputs != outputs:
                layer(f"{block}.shortcut", outputs, inputs, 1)
            if spec.bottleneck:
                layer(f"{block}.conv1", width, inputs, 1)
                layer(f"{block}.conv2", width, width // spec.num_groups, 3)
                layer(f"{block}.conv3", outputs, width, 1)
            else:
                layer(f"{block}.conv1", outputs, inputs, 3)
                layer(f"{block}.conv2", outputs, outputs, 3)
            inputs = outputs
    return shapes
