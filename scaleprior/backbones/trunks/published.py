"""What publishers say of their weights: facts from one place, with the place's name, for a reader to weigh."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["FACT_KINDS", "IMAGENET", "IMAGENET_MEAN", "IMAGENET_STD", "FactKind", "KnownFacts", "Triple"]

Triple = tuple[float, float, float]  # on the 0-255 scale, in the order of channel_order
FactKind = Literal["user", "file", "publisher", "assumed"]
FACT_KINDS: tuple[FactKind, ...] = ("user", "file", "publisher", "assumed")
"""Who may say a fact, best first: an option; what travels with the weights; their publisher, where it is proven that
they are his; nobody, so that somebody's usual value was taken on the user's word."""


@dataclass(frozen=True)
class KnownFacts:
    """Facts from one place; None = it does not say.

    Attributes:
        origin: the place, in words for the report.
        kind: who says it.
        norm_eps: what the norms add to the variance.
    """

    origin: str
    pixel_mean: Triple | None = None
    pixel_std: Triple | None = None
    channel_order: str | None = None
    stride_in_1x1: bool | None = None
    input_size: int | None = None
    licence: str | None = None
    source: str | None = None
    name: str | None = None
    norm_eps: float | None = None
    kind: FactKind = "file"


IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)
"""Of ImageNet's training images, RGB: torchvision's transforms, and timm's IMAGENET_DEFAULT_MEAN and _STD."""
IMAGENET = KnownFacts(
    "published by torchvision and timm for this architecture",
    IMAGENET_MEAN,
    IMAGENET_STD,
    "RGB",
    False,
    kind="publisher",
)
"""torchvision's weights' transforms and timm's default_cfg of the plain ResNets; their stride is in the 3x3."""
