"""Which ResNet the tensors' names and shapes say it is. Nothing about a name of a file is believed.

What shapes cannot tell (stride placement, and whether affine norms without statistics are GroupNorm) is an argument.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from scaleprior.backbones.arch import TIMM_TRUNKS, TimmSpec
from scaleprior.backbones.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["infer_resnet", "infer_timm"]

Shapes = Mapping[str, tuple[int, ...]]
_BLOCK = re.compile(r"res([2-5])\.(\d+)\.")


def infer_resnet(shapes: Shapes, *, norm: str, stride_in_1x1: bool, where: str, depth: int | None = None) -> ResNetSpec:
    """The spec that fits tensors in Detectron2's names.

    Args:
        depth: given by the user; needed where some stages are absent.

    Raises:
        UserError: no depth fits, several do, or a width that no trunk has.
    """
    counts: dict[int, int] = {}
    for name in shapes:
        if match := _BLOCK.match(name):
            stage, block = int(match[1]), int(match[2])
            counts[stage] = max(counts.get(stage, 0), block + 1)
    bottleneck = any(name.endswith(".conv3.weight") for name in shapes)
    if depth is None:
        fitting = [
            d
            for d, blocks in BLOCKS_PER_STAGE.items()
            if (d >= 50) == bottleneck and all(blocks[stage - 2] == n for stage, n in counts.items())
        ]
        if not counts or len(fitting) != 1:
            said = f"{'bottleneck' if bottleneck else 'basic'} blocks {[counts.get(s, 0) for s in range(2, 6)]}"
            raise UserError(
                f"{where}: {said} in res2 to res5 fit {f'depths {fitting}' if fitting else 'no ResNet of known depth'}",
                hint=f"give {parameter('depth')}" if fitting else f"known depths: {sorted(BLOCKS_PER_STAGE)}",
            )
        depth = fitting[0]
    stem = shapes.get("stem.conv1.weight", (64,))
    if not bottleneck:
        return ResNetSpec(depth=depth, norm=norm, stem_out_channels=stem[0])
    middle, last = _first(shapes, "conv2"), _first(shapes, "conv3")
    if middle is None or last is None or len(middle) != 4 or not middle[1]:
        raise UserError(f"{where}: no whole block to read widths from", hint="take complete weights")
    groups = middle[0] // middle[1]
    if groups < 1 or middle[0] % middle[1]:
        raise UserError(f"{where}: a 3x3 convolution of shape {middle}", hint="take weights of a ResNet")
    return ResNetSpec(
        depth=depth,
        norm=norm,
        stem_out_channels=stem[0],
        res2_out_channels=last[0],
        num_groups=groups,
        width_per_group=middle[0] // groups,
        stride_in_1x1=stride_in_1x1,
    )


def _first(shapes: Shapes, part: str) -> tuple[int, ...] | None:
    """Shape in res2's first block, scaled down from the first later block that is there."""
    for stage in range(2, 6):
        for block in range(BLOCKS_PER_STAGE[152][stage - 2]):
            shape = shapes.get(f"res{stage}.{block}.{part}.weight")
            if shape is not None and len(shape) == 4:
                scale = 2 ** (stage - 2)
                return (shape[0] // scale, shape[1] // scale, *shape[2:])
    return None


def infer_timm(shapes: Shapes, *, suffix: str, where: str) -> TimmSpec:
    """The trunk of timm that fits tensors in timm's names.

    Args:
        suffix: "_bit" or "_clip", as the names say.

    Raises:
        UserError: no known trunk has these blocks and widths.
    """
    counts = [0, 0, 0, 0]
    for name in shapes:
        if match := re.match(r"stages\.([0-3])\.(?:blocks\.)?(\d+)\.", name):
            counts[int(match[1])] = max(counts[int(match[1])], int(match[2]) + 1)
    stem = shapes.get("stem.conv.weight" if suffix == "_bit" else "stem.conv3.conv.weight", (0,))[0]
    for model, facts in TIMM_TRUNKS.items():
        if model.endswith(suffix) and facts.blocks == tuple(counts) and facts.stem_channels == stem:
            return TimmSpec(model)
    known = ", ".join(model for model in TIMM_TRUNKS if model.endswith(suffix))
    raise UserError(f"{where}: blocks {counts} and a stem of {stem} fit no known trunk", hint=f"known: {known}")
