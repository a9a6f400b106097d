"""The map between the parameter names of timm/torchvision ResNets and those of Detectron2.

=====================  ==========================
timm, torchvision      Detectron2
=====================  ==========================
``conv1``, ``bn1``     ``stem.conv1``, ``stem.conv1.norm``
``layer1`` .. ``4``    ``res2`` .. ``res5``
``bn1`` (in a block)   ``conv1.norm`` (and 2, 3)
``downsample.0, .1``   ``shortcut``, ``shortcut.norm``
=====================  ==========================
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError

__all__ = ["detectron2_name", "from_detectron2", "names_and_shapes", "to_detectron2"]

T = TypeVar("T")

_TENSORS = "weight|bias|running_mean|running_var"
_THEIRS = re.compile(
    rf"(?:(?P<stem>conv1|bn1)|layer(?P<stage>[1-4])\.(?P<block>\d+)\.(?P<part>conv[123]|bn[123]|downsample\.[01]))"
    rf"\.(?P<tensor>{_TENSORS})"
)
_OURS = re.compile(
    rf"(?:(?P<stem>stem\.conv1)|res(?P<stage>[2-5])\.(?P<block>\d+)\.(?P<part>conv[123]|shortcut))"
    rf"(?P<norm>\.norm)?\.(?P<tensor>{_TENSORS})"
)


def to_detectron2(state: Mapping[str, T]) -> dict[str, T]:
    """Rename a timm/torchvision ResNet's tensors. Values are passed through untouched, whatever their type.

    ``num_batches_tracked`` is dropped (FrozenBN has none), as is a classifier ``fc.*``.

    Raises:
        UserError: any other name; it would otherwise be lost in silence.
    """
    renamed = {}
    for name, value in state.items():
        if name.endswith(".num_batches_tracked") or name.startswith("fc."):
            continue
        ours = detectron2_name(name)
        if ours is None:
            raise UserError(f"{name!r} is not a parameter of a timm or torchvision ResNet", hint="check the weights")
        renamed[ours] = value
    return renamed


def detectron2_name(name: str) -> str | None:
    """Detectron2's name of a timm/torchvision ResNet's parameter or statistic; None: it is none."""
    match = _THEIRS.fullmatch(name)
    if match is None:
        return None
    part = match["stem"] or match["part"]
    norm = ".norm" if part.startswith("bn") or part == "downsample.1" else ""
    part = "shortcut" if part.startswith("downsample") else part.replace("bn", "conv")
    prefix = "stem" if match["stem"] else f"res{int(match['stage']) + 1}.{match['block']}"
    return f"{prefix}.{part}{norm}.{match['tensor']}"


def from_detectron2(state: Mapping[str, T]) -> dict[str, T]:
    """The inverse of :func:`to_detectron2`.

    Raises:
        UserError: a name that is not a parameter of Detectron2's ResNet.
    """
    renamed = {}
    for name, value in state.items():
        match = _OURS.fullmatch(name)
        if match is None:
            raise UserError(f"{name!r} is not a parameter of Detectron2's ResNet", hint="check the weights")
        if match["stem"]:
            part = "bn1" if match["norm"] else "conv1"
        else:
            block = f"layer{int(match['stage']) - 1}.{match['block']}"
            if match["part"] == "shortcut":
                part = f"{block}.downsample.{1 if match['norm'] else 0}"
            else:
                part = f"{block}.{match['part'].replace('conv', 'bn') if match['norm'] else match['part']}"
        renamed[f"{part}.{match['tensor']}"] = value
    return renamed


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
