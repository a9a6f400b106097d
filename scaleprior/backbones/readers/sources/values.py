"""Values as programs write them beside weights: three numbers, attributes of a settings object, JSON in a folder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scaleprior.backbones.readers.pickle import Placeholder
from scaleprior.backbones.trunks.published import IMAGENET_MEAN, Triple
from scaleprior.errors import UserError
from scaleprior.files import is_number
from scaleprior.parsing import read_json

__all__ = ["attributes", "json_beside", "order_of", "scaled", "three_numbers"]

_LARGEST_JSON = 1 << 20
"""Bytes; such files have a few thousand."""


def three_numbers(value: Any) -> Triple | None:
    """Three finite numbers: of a list, a tuple, or a tensor such as a buffer [3, 1, 1]; None = something else."""
    if hasattr(value, "dtype"):
        # float32 holds seven digits; those behind them were not written by anybody
        value = [float(f"{v:.7g}") for v in value.reshape(-1).tolist()] if math.prod(value.shape) == 3 else None
    if not isinstance(value, (list, tuple)) or len(value) != 3 or not all(map(is_number, value)):
        return None
    return (float(value[0]), float(value[1]), float(value[2]))


def scaled(value: Triple | None, factor: float = 255.0) -> Triple | None:
    """Numbers of pixels in 0..1 on the 0-255 scale, with the decimals that people write."""
    return value and (round(factor * value[0], 6), round(factor * value[1], 6), round(factor * value[2], 6))


def order_of(mean: Triple | None) -> str | None:
    """The channel order that a mean on the 0-255 scale proves, because it is ImageNet's; None = it proves none."""
    for order, usual in (("RGB", IMAGENET_MEAN), ("BGR", IMAGENET_MEAN[::-1])):
        if mean and all(abs(a - b) < 5e-3 for a, b in zip(mean, usual)):
            return order
    return None


def attributes(value: Any) -> Mapping[str, Any]:
    """A settings object as a mapping: a dict, or the placeholder of an ``argparse.Namespace``; else empty."""
    value = value.content if isinstance(value, Placeholder) else value
    return value if isinstance(value, Mapping) else {}


def json_beside(path: Path, name: str) -> Mapping[str, Any]:
    """The object in the file ``name`` in the folder of ``path``; empty if there is none."""
    try:
        content = read_json(path.parent / name, limit=_LARGEST_JSON)
    except UserError:
        return {}  # a file of something else, or none
    return content if isinstance(content, dict) else {}
