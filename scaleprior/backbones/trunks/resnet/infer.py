"""Which ResNet the tensors' names and shapes say it is. Nothing about a name of a file is believed."""

from __future__ import annotations

import re

from scaleprior.backbones.trunks.family import Clues, Shapes
from scaleprior.backbones.trunks.published import UnsaidNormsError
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["infer_norm", "infer_resnet"]

_BLOCK = re.compile(r"res([2-5])\.(\d+)\.")


def infer_norm(shapes: Shapes, clues: Clues) -> str:
    """The kind of the norms: "BN" by their running statistics; without those by their names, or somebody has to say it.

    Raises:
        UnsaidNormsError: nobody does.
    """
    carried = clues.carried.norm if clues.carried else None
    if any(name.endswith("running_var") for name in shapes):
        return carried or "BN"
    if said := clues.norm or carried or clues.layout.norm:
        return said
    raise UnsaidNormsError(
        f"{clues.where}: its norms have no running statistics, so they are GroupNorm or folded BatchNorm",
        hint=f"give {parameter('norm', 'GN')} or {parameter('norm', 'FrozenBN')}; no trunk here has GroupNorm of other "
        "than 32 groups, InstanceNorm, or BatchNorm with track_running_stats=False",
    )


def infer_resnet(shapes: Shapes, *, norm: str, where: str, depth: int | None = None) -> ResNetSpec:
    """The spec that fits tensors in Detectron2's names, but for the place of its strides, which shapes cannot tell.

    Args:
        depth: given by the user, a key of ``BLOCKS_PER_STAGE``; needed where some stages are absent.

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
                hint=f"give {parameter('depth')}"
                if fitting
                else f"known depths: {sorted(BLOCKS_PER_STAGE)}; give {parameter('depth')} where blocks are absent",
            )
        depth = fitting[0]
    stem = shapes.get("stem.conv1.weight") or (64,)
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
