"""What trunks share: their maps, the norms that fit each other, and the row that describes a trunk with a name."""

from __future__ import annotations

from dataclasses import dataclass

from scaleprior.backbones.trunks.published import Triple

__all__ = ["FITTING_NORMS", "MAPS", "STRIDES", "Model", "fitting_norms"]

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
    """Values of MODEL.RESNETS.NORM for weights with norms of this kind; a kind that only one family has fits itself."""
    return FITTING_NORMS.get(trained, (trained,))


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
