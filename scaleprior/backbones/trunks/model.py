"""What trunks share: their maps, the norms that fit each other, and the row that describes a trunk with a name."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scaleprior.backbones.trunks.published import Triple
from scaleprior.errors import UserError

__all__ = ["FITTING_NORMS", "MAPS", "STRIDES", "Model", "check_family", "fitting_norms", "same_eps"]

STRIDES = {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
"""Pixels of the image for a step in each feature map."""
MAPS = tuple(STRIDES)

FITTING_NORMS = {
    "BN": ("BN", "FrozenBN", "SyncBN"),
    "FrozenBN": ("FrozenBN", "BN", "SyncBN"),
    "GN": ("GN",),
    "LN": ("LN",),
}
"""Norm that weights were trained with -> values of MODEL.RESNETS.NORM that can use their numbers."""


def fitting_norms(trained: str) -> tuple[str, ...]:
    """Values of MODEL.RESNETS.NORM for weights with norms of this kind, one of ``FITTING_NORMS``."""
    return FITTING_NORMS[trained]


def same_eps(a: float, b: float) -> bool:
    """Whether norms that add ``a`` to the variance compute what those do that add ``b``: both went through float32."""
    return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-37)


@dataclass(frozen=True)
class Model:
    """One trunk that MODEL.TIMM.MODEL names.

    Attributes:
        blocks: residual blocks in each stage.
        stem: channels of the stem's last convolution.
        channels: of res2 .. res5.
        depth: layers with weights on the longest path with the classifier, as ResNets are counted.
        pixel_mean, pixel_std: published, RGB, 0-255 scale; None where publishers differ.
    """

    blocks: tuple[int, int, int, int]
    stem: int
    channels: tuple[int, ...]
    depth: int
    pixel_mean: Triple | None = None
    pixel_std: Triple | None = None


def check_family(family: Any, kind: type) -> None:
    """Refuse what a stranger announces or registers as a family of trunks and cannot be one.

    Args:
        kind: ``TrunkFamily``.

    Raises:
        UserError: says what it lacks.
    """
    name, models, norm = (getattr(family, attribute, None) for attribute in ("name", "models", "norm"))
    if not isinstance(family, kind) or not isinstance(name, str) or not name:
        raise UserError(
            f"{family!r} is no family of trunks with a name", hint=f"derive its class from {kind.__name__}; set name"
        )
    if not isinstance(models, Mapping) or not all(isinstance(facts, Model) for facts in models.values()):
        raise UserError(
            f"family of trunks {name!r} has models {models!r}",
            hint="give a mapping from names to Model(...)",
        )
    if norm not in FITTING_NORMS:
        raise UserError(
            f"family of trunks {name!r} has norm {norm!r}",
            hint=f"the norms that MODEL.RESNETS.NORM knows are {', '.join(FITTING_NORMS)}",
        )
