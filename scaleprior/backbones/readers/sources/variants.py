"""What a file states of its network that no tensor shows, and that makes it another one than any trunk here.

A stage that dilates in the place of its stride, standardised weights and GroupNorm of other groups have the names and
shapes of the plain network. Read in facebookresearch/detr (main.py: ``--dilation``), huggingface/transformers
(``DetrConfig.dilation``), pytorch/vision (references/segmentation/train.py; models/segmentation: both builders on
ResNets replace the strides of layer3 and layer4) and open-mmlab (mmdet/models/backbones/resnet.py: ``strides``,
``dilations``, ``conv_cfg``; mmcv/cnn/bricks/norm.py: ``num_groups``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.sources.modules import module_variants
from scaleprior.backbones.readers.sources.openmmlab import openmmlab_trunks
from scaleprior.backbones.readers.sources.values import attributes, json_beside
from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["refuse_variants"]

_SEGMENTERS = re.compile(r"(?:fcn|deeplabv3)_resnet\d+")
_STRIDES, _GROUPS = [1, 2, 2, 2], 32


def refuse_variants(tree: Any, path: Path, timm_model: str | None) -> None:
    """Raises UserError: the file states such a network, and the user does not name another one by ``timm_model``."""
    if timm_model is not None:
        return
    for what, origin in (*_of_args(tree), *_of_config(path), *_of_openmmlab(tree), *module_variants(tree)):
        raise UserError(
            f"{path}: {origin} says {what}; such a network has the names of a plain ResNet and computes something else",
            hint="no trunk here does that: take weights of a plain one; if these are, say of which by "
            f"{parameter('timm_model', words='NAME')}",
        )


def _of_args(tree: Any) -> Iterator[tuple[str, str]]:
    args = attributes(tree.get("args")) if isinstance(tree, Mapping) else {}
    if args.get("dilation") is True and isinstance(args.get("backbone"), str):
        yield "that its last stage dilates in the place of its stride (DC5)", "args.dilation in the file"
    model = args.get("model")
    if isinstance(model, str) and _SEGMENTERS.fullmatch(model):
        yield f"{model}, whose last two stages dilate in the place of their strides", "args.model in the file"


def _of_config(path: Path) -> Iterator[tuple[str, str]]:
    if json_beside(path, "config.json").get("dilation") is True:
        where = f"dilation in {path.parent / 'config.json'}"
        yield "that its last stage dilates in the place of its stride (DC5)", where


def _of_openmmlab(tree: Any) -> list[tuple[str, str]]:
    """What all trunks in the config have; some configs are of several networks."""
    found = [list(_of_trunk(*trunk)) for trunk in openmmlab_trunks(tree)]
    return found[0] if all(found) and found else []


def _of_trunk(trunk: Mapping[str, Any], where: str) -> Iterator[tuple[str, str]]:
    strides, dilations = trunk.get("strides", _STRIDES), trunk.get("dilations", [1])
    if isinstance(dilations, list) and set(map(str, dilations)) != {"1"}:
        yield f"dilations={tuple(dilations)}", where
    elif isinstance(strides, list) and strides != _STRIDES[: len(strides)]:
        yield f"strides={tuple(strides)}", where
    kind = attributes(trunk.get("conv_cfg")).get("type", "Conv2d")
    if isinstance(kind, str) and kind not in ("Conv", "Conv2d"):
        yield f"convolutions of type {kind}", where
    groups = attributes(trunk.get("norm_cfg")).get("num_groups", _GROUPS)
    if type(groups) is int and groups != _GROUPS:
        yield f"GroupNorm of {groups} groups, not {_GROUPS}", where
