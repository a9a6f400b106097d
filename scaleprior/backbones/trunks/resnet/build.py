"""Build the ResNet trunk that pretraining and detection share: timm's ``ResNet`` with Detectron2's shapes.

B images, H x W pixels: ``trunk(x: [B, 3, H, W]) -> [B, C5, H/32, W/32]``; ``trunk.layer1`` .. ``trunk.layer4`` are
Detectron2's res2 .. res5.
"""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import nn

from scaleprior.backbones.trunks.freezing import check_stages, freeze_norms, freeze_parts
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE, ResNetSpec

__all__ = ["build_resnet", "freeze_at"]


def build_resnet(spec: ResNetSpec, *, zero_init_last: bool = True) -> ResNet:
    """A headless trunk with fresh weights (He initialisation, fan-out).

    Args:
        zero_init_last: start the last norm of every block at gain 0, so that blocks begin as the identity
            (Goyal et al. 2017). Left out for FrozenBN, whose gains would stay 0 for ever.
    """
    assert spec.res2_out_channels is not None
    planes = spec.res2_out_channels // (4 if spec.bottleneck else 1)
    # timm floors planes * (base_width / 64); the small excess keeps float division from losing a channel.
    base_width: Any = 64 * spec.width_per_group / planes * (1 + 1e-9) if spec.bottleneck else 64
    kind: Any = Bottleneck if spec.bottleneck else BasicBlock  # timm annotates instances
    trunk: Any = ResNet(
        kind,
        BLOCKS_PER_STAGE[spec.depth],
        num_classes=0,
        global_pool="",
        channels=tuple(planes * 2**i for i in range(4)),
        cardinality=spec.num_groups,
        base_width=base_width,
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
    freeze_parts(trunk, [getattr(trunk, name) for name in names])
    return trunk
