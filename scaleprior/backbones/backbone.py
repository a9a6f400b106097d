"""A backbone in memory, from anywhere: its tensors, its card, the trunk that they fill, and the features it gives.

B images of H x W pixels, H and W multiples of 32.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from scaleprior.backbones.addresses import text_of
from scaleprior.backbones.card import Card
from scaleprior.backbones.readers.facts import ReadOptions
from scaleprior.backbones.readers.report import Report
from scaleprior.backbones.zoo.resolve import find_weights
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor
    from typing_extensions import Unpack

    from scaleprior.backbones.trunks.trunk import Trunk

__all__ = ["Backbone", "Conversion", "Facts", "convert", "load_backbone"]


class Facts(TypedDict, total=False):
    """What the caller knows better than a foreign file; ``ReadOptions`` says what each means."""

    name: str | None
    pixel_mean: tuple[float, float, float] | None
    pixel_std: tuple[float, float, float] | None
    channel_order: str | None
    stride_in_1x1: bool | None
    norm: str | None
    norm_eps: float | None
    depth: int | None
    timm_model: str | None
    assume: str | None
    state: str | None
    prefix: str | None
    select: str | None
    images: int | None
    labels: int | None
    corpus: str | None
    licence: str | None
    source: str | None
    allow_partial: bool
    allow_nonfinite: bool


@dataclass(frozen=True)
class Backbone:
    """A trunk's weights and all that is known of them. Unpacks as ``tensors, card = backbone``.

    Attributes:
        tensors: float32 on the CPU, in the names of a canonical file: Detectron2's for its ResNets.
        card: what they are and what they expect.
        report: how the file was understood, and what became of each of its tensors.
    """

    tensors: Mapping[str, Tensor]
    card: Card
    report: Report

    def __iter__(self) -> Iterator[Any]:
        yield self.tensors
        yield self.card

    def __repr__(self) -> str:
        images = "unknown" if self.card.images is None else f"{self.card.images:,}"
        return f"Backbone({self.card.name!r}, {self.card.arch.name}, {len(self.tensors)} tensors, {images} images)"

    def trunk(self) -> Trunk:
        """A new module with these weights, in training mode: ``trunk(x)`` gives ``{"res2": ..., ..., "res5": ...}``.

        ``x`` are normalised pixels [B, 3, H, W]; :meth:`normalise` makes them. ``freeze_at`` and ``keep`` prepare it
        for a detector of one's own.
        """
        from scaleprior.backbones import build_trunk

        return build_trunk(self.card.arch, norm_eps=self.card.norm_eps).load(self.tensors)

    def normalise(self, images: Tensor) -> Tensor:
        """Pixels as these weights saw them in training.

        Args:
            images: [B, 3, H, W] or [3, H, W], RGB, 0 to 255, integer or float.

        Returns:
            float32 [B, 3, H, W], in the card's channel order, by its mean and standard deviation.

        Raises:
            UserError: another shape.
        """
        import torch

        images = images if images.ndim == 4 else images[None]
        if images.ndim != 4 or images.shape[1] != 3:
            raise UserError(f"images are of shape {tuple(images.shape)}", hint="give [B, 3, H, W]")
        pixels = images.float()
        if self.card.channel_order == "BGR":
            pixels = pixels.flip(1)
        mean, std = (
            torch.tensor(three, device=pixels.device)[:, None, None]
            for three in (self.card.pixel_mean, self.card.pixel_std)
        )
        return (pixels - mean) / std

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """res2 to res5 of RGB images of 0 to 255, [B, C, H/4, W/4] to [B, C, H/32, W/32], without gradients."""
        import torch

        with torch.inference_mode():
            return self._evaluating(self.normalise(images))

    @cached_property
    def _evaluating(self) -> Trunk:
        return self.trunk().eval()

    def config_lines(self) -> list[str]:
        """The lines that a detection config needs for these weights."""
        from scaleprior.backbones.settings import config_lines

        return config_lines(self.card)

    def save(self, path: str | Path) -> Card:
        """Write a canonical file, atomically; returns the card as written. See ``weights.save_backbone``."""
        from scaleprior.backbones.weights import save_backbone

        return save_backbone(path, self.tensors, self.card)

    def export(self, path: str | Path, *, frozen_norms: bool = False) -> Card:
        """Write ``*.pkl`` for Detectron2 or ``*.pth`` for torchvision; see ``export.export_backbone``."""
        from scaleprior.backbones.export import export_backbone, export_format

        kind = export_format(str(path))
        return export_backbone(self.tensors, self.card, path, kind=kind, frozen_norms=frozen_norms)


def load_backbone(source: str | Path, /, **facts: Unpack[Facts]) -> Backbone:
    """Read a backbone into memory.

    Args:
        source: a file or folder of ScalePrior's, torchvision's, timm's, Detectron2's, MSRA's, BiT's or CLIP's;
            ``timm:NAME`` (found in the local caches); ``scaleprior://NAME`` (fetched if need be).
        facts: what a foreign file does not say; see ``ReadOptions``.

    Raises:
        UserError: no such file or name; weights that match partly.
        UnknownFactsError: a fact that a detector needs is unknown; names the options, and usual values to ``assume``.
        RefusedFileError: it would run code, exhaust memory, holds NaN, duplicates, or is damaged.
    """
    from scaleprior.backbones.readers.read import read_backbone

    reading = read_backbone(_local(source), ReadOptions(**facts))
    return Backbone(reading.tensors, reading.card, reading.report)


@dataclass(frozen=True)
class Conversion:
    """What :func:`convert` wrote.

    Attributes:
        path: the file. card: as it stands in its header.
        report: how the source was understood, and what became of each of its tensors; ``report.lines()`` for people.
    """

    path: Path
    card: Card
    report: Report


def convert(source: str | Path, /, out: str | Path, **facts: Unpack[Facts]) -> Conversion:
    """Write any backbone as a canonical file, without holding it in memory.

    Args:
        source, facts: as :func:`load_backbone` takes them.
        out: the ``.safetensors`` to write, atomically.

    Raises:
        UserError, RefusedFileError: as :func:`load_backbone`. FailureError: the disk is full, the folder read-only.
    """
    from scaleprior.backbones.convert import convert_backbone

    if Path(out).suffix != ".safetensors":
        raise UserError(f"out is {str(out)!r}", hint="name it *.safetensors; Backbone.export writes other formats")
    card, report = convert_backbone(_local(source), out, ReadOptions(**facts))
    return Conversion(Path(out), card, report)


def _local(source: str | Path) -> str | Path:
    """``timm:NAME`` stays; anything else becomes a file."""
    text = text_of(source)
    return text if text.startswith("timm:") else find_weights(source)
