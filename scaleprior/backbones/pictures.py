"""What a backbone sees: res2 to res5 of one image, as a picture a person can judge."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scaleprior.backbones.card import Card
from scaleprior.errors import UserError
from scaleprior.files import atomic_path
from scaleprior.pages.texts import in_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.gridspec import SubplotSpec
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

    from scaleprior.backbones.trunks.trunk import build_trunk

    height, width = (32 * (n // 32) for n in image.shape[:2])
    if min(height, width) < 64:
        raise UserError(f"image of {image.shape[1]} x {image.shape[0]} pixels", hint="64 x 64 at least are needed")
    pixels = image[:height, :width].astype(np.float32)
    if card.channel_order == "BGR":
        pixels = pixels[:, :, ::-1]
    pixels = (pixels - np.asarray(card.pixel_mean, np.float32)) / np.asarray(card.pixel_std, np.float32)
    trunk = build_trunk(card.arch, norm_eps=card.norm_eps).eval().load(tensors)
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
    figure = Figure(figsize=(13.4, 6.6))
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(
        len(maps), _CHANNELS + 3, width_ratios=[1.75, 1.0, *[1] * (_CHANNELS + 1)],
        left=0.012, right=0.992, top=0.885, bottom=0.01, wspace=0.06, hspace=0.14,
    )  # fmt: skip
    figure.text(0.012, 0.955, in_picture(card.name), fontsize=13, fontweight="bold")
    figure.text(0.992, 0.955, "brighter is larger, each map on its own scale", fontsize=9, ha="right", color="0.35")
    corner = _axis(figure, grid[:2, 0])
    corner.imshow(image)
    corner.set_title(f"image, {image.shape[1]} x {image.shape[0]}", fontsize=9)
    corner.set_anchor("N")
    _axis(figure, grid[2:, 0]).text(0.0, 0.92, _expects(card), fontsize=9, va="top", linespacing=1.5)
    for row, (name, value) in enumerate(maps.items()):
        _axis(figure, grid[row, 1]).text(
            0.96, 0.5, _facts(name, value), fontsize=9, ha="right", va="center", linespacing=1.4
        )
        shown = [("mean of all", np.abs(value).mean(0), "magma")]
        spread = value.std(axis=(1, 2))
        shown += [(f"channel {c}", value[c], "viridis") for c in np.argsort(-spread, kind="stable")[:_CHANNELS]]
        for column, (title, pixels, colours) in enumerate(shown, start=2):
            axis = _axis(figure, grid[row, column])
            if np.isfinite(value).all():
                axis.imshow(pixels, cmap=colours)
            else:
                axis.text(0.5, 0.5, "not finite", ha="center", va="center")
            axis.set_title(title, fontsize=8, pad=3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _axis(figure: Figure, place: SubplotSpec) -> Axes:
    axis = figure.add_subplot(place)
    axis.set_axis_off()
    return axis


def _expects(card: Card) -> str:
    def triple(values: tuple[float, float, float]) -> str:
        return ", ".join(f"{value:g}" for value in values)

    trained = "unknown images" if card.images is None else f"{card.images:,} images"
    return "\n".join(
        (
            f"{in_picture(card.arch.name)}, {card.norm}, {card.channel_order}",
            f"mean {triple(card.pixel_mean)}",
            f"std {triple(card.pixel_std)}",
            f"trained on {trained}",
            "",
            "shown: the mean size of all channels, and",
            f"the {_CHANNELS} that differ most across the image",
        )
    )


def _facts(name: str, value: np.ndarray) -> str:
    silent = 100 * float((np.ptp(value, axis=(1, 2)) == 0).mean())
    return (
        f"{name}\n{value.shape[0]} channels\n{value.shape[2]} x {value.shape[1]} places\n"
        f"mean {value.mean():.2g}\nstd {value.std():.2g}\n{silent:.1f} % silent"
    )
