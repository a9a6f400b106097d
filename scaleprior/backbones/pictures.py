"""What a backbone sees: res2 to res5 of one image, as a picture a person can judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.backbones.card import Card
from scaleprior.errors import UserError
from scaleprior.files import atomic_path

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["drawn_image", "feature_maps", "save_feature_picture"]

_CHANNELS = 6  # shown of each stage: those that differ most across the image


def drawn_image(side: int = 256) -> np.ndarray:
    """A test image, uint8 [side, side, 3] RGB: gradient, checkerboard, disc, stripes, an outlined triangle, noise."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32) / side
    image = np.stack([0.35 + 0.4 * x, 0.55 - 0.2 * y, 0.75 - 0.4 * x * y], axis=-1)
    disc = (x - 0.28) ** 2 + (y - 0.30) ** 2 < 0.17**2
    image[disc] = (0.85, 0.2, 0.15)
    board = (x > 0.56) & (x < 0.92) & (y > 0.08) & (y < 0.44)
    image[board] = np.where((np.floor(x * 22) + np.floor(y * 22))[board, None] % 2 == 0, 0.95, 0.08)
    stripes = (x > 0.08) & (x < 0.46) & (y > 0.58) & (y < 0.92)
    image[stripes] = np.where(np.sin(2 * np.pi * 16 * (x + y))[stripes, None] > 0, (0.1, 0.45, 0.2), (0.9, 0.85, 0.3))
    height = (y - 0.56) / 0.36
    triangle = (height > 0) & (height < 1) & (np.abs(x - 0.74) < 0.19 * height)
    image[triangle] = (0.15, 0.2, 0.6)
    image[triangle & ((np.abs(x - 0.74) > 0.19 * height - 0.02) | (height > 0.95))] = 1.0
    image += np.random.default_rng(0).normal(0, 0.015, image.shape)
    return (255 * image.clip(0, 1)).astype(np.uint8)


def feature_maps(tensors: Mapping[str, Tensor], card: Card, image: np.ndarray) -> dict[str, np.ndarray]:
    """res2 .. res5 of one image, float32 [C, H, W].

    Args:
        image: uint8 [H, W, 3], RGB; its sides are cut to multiples of 32, and it needs 64 pixels each way.
    """
    import torch

    from scaleprior.backbones.families import build_trunk

    height, width = (32 * (n // 32) for n in image.shape[:2])
    if min(height, width) < 64:
        raise UserError(f"image of {image.shape[1]} x {image.shape[0]} pixels", hint="64 x 64 at least are needed")
    pixels = image[:height, :width].astype(np.float32)
    if card.channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.asarray(card.pixel_mean, np.float32)) / np.asarray(card.pixel_std, np.float32)
    trunk = build_trunk(card.arch).eval().load(tensors)
    with torch.inference_mode():
        maps = trunk(torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))[None])
    return {name: value[0].numpy() for name, value in maps.items()}


def save_feature_picture(
    tensors: Mapping[str, Tensor], card: Card, path: str | Path, *, image: np.ndarray | None = None
) -> None:
    """Write a PNG: the image, and for each stage the mean over channels and the channels that differ most.

    Args:
        image: uint8 [H, W, 3] RGB (default: :func:`drawn_image`).

    Raises:
        UserError: a path that is not ``.png``, or an image too small.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    if Path(path).suffix != ".png":
        raise UserError(f"picture {path}", hint="name it *.png")
    image = drawn_image() if image is None else image
    maps = feature_maps(tensors, card, image)
    figure = Figure(figsize=(1.75 * (_CHANNELS + 2), 1.95 * len(maps) + 0.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(maps), _CHANNELS + 2, squeeze=False)
    figure.suptitle(f"{card.name}: {card.arch.name}, {card.channel_order}, as the card says", fontsize=11)
    for axis in axes.ravel():
        axis.set_axis_off()
    axes[0, 0].imshow(image)
    axes[0, 0].set_title(f"image {image.shape[1]} x {image.shape[0]}", fontsize=8)
    facts = []
    for row, (name, value) in enumerate(maps.items()):
        finite = bool(np.isfinite(value).all())
        mean = np.abs(value).mean(0)
        facts.append(
            f"{name}: {value.shape[0]} channels\n{value.shape[2]} x {value.shape[1]} places\nmean {value.mean():.3g}, "
            f"std {value.std():.3g}\nsilent {100 * float((np.ptp(value, axis=(1, 2)) == 0).mean()):.1f} %"
        )
        if not finite:
            axes[row, 1].text(0.5, 0.5, "not finite", ha="center", va="center", transform=axes[row, 1].transAxes)
            continue
        axes[row, 1].imshow(mean, cmap="magma")
        axes[row, 1].set_title(f"{name}, mean size", fontsize=8)
        spread = value.std(axis=(1, 2))
        for column, channel in enumerate(np.argsort(-spread, kind="stable")[:_CHANNELS], start=2):
            axes[row, column].imshow(value[channel], cmap="viridis")
            axes[row, column].set_title(f"channel {channel}", fontsize=8)
    axes[1, 0].text(0.0, 1.0, "\n\n".join(facts), fontsize=8, va="top", transform=axes[1, 0].transAxes)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
