"""Heads in front of which stages dilate in the place of their strides, which no tensor of the trunk itself shows.

torchvision's builders of segmentation networks on ResNets always do so in layer3 and layer4 (pytorch/vision,
torchvision/models/segmentation/fcn.py and deeplabv3.py). Other DeepLabs do or do not, as their config says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["refuse_dilated"]

_BODY = r"((?:.*\.)?)backbone\.layer4\.0\.conv1\.weight"
_ASPP = "classifier.0.convs.4.1.weight"
_FCN = ("classifier.0.weight", "classifier.1.running_var", "classifier.4.weight")
_POOLS = re.compile(r"(?:.*\.)?(?:aspp\w*)\.")


def refuse_dilated(tensors: Mapping[str, Any], timm_model: str | None, where: str) -> list[str]:
    """A sentence where the head is one that is often dilated for.

    Args:
        tensors: of the file, by name.
        timm_model: what the user says that the trunk is.

    Raises:
        UserError: the names and shapes are those of torchvision's segmentation networks, and the user does not say.
    """
    bodies = [match[1] for name in tensors if (match := re.fullmatch(_BODY, name))]
    head = next((found for prefix in bodies if (found := _head(tensors, prefix))), None)
    if head is not None and timm_model is None:
        raise UserError(
            f"{where} is torchvision's {head}, whose last two stages dilate in the place of their strides: such a "
            "network has the names of a plain ResNet and computes something else",
            hint="no trunk here does that: take weights of a plain one; if these are, say of which by "
            f"{parameter('timm_model', words='NAME')}",
        )
    if any(map(_POOLS.match, tensors)):
        return ["beside the trunk stands DeepLab's head (ASPP); where stages dilate for it, this trunk, which strides, "
                "computes something else, and tensors do not tell"]  # fmt: skip
    return []


def _head(tensors: Mapping[str, Any], prefix: str) -> str | None:
    if f"{prefix}{_ASPP}" in tensors:
        return "DeepLabV3"
    shapes = [tuple(tensors[f"{prefix}{name}"].shape) for name in _FCN if f"{prefix}{name}" in tensors]
    return "FCN" if [len(shape) for shape in shapes] == [4, 1, 4] else None
