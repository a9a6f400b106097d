"""Training crops as a pure function of (seed, epoch, key): no generator, so resume and workers change nothing.

B images; an image is uint8 [H, W, 3]; the network sees uint8 crops [B, S, S, 3], normalised on the device.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

from scaleprior.corpus.hashing import mix64, unit_interval

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["CropAugmentation", "Cut", "uniforms"]

_DRAWS = 5  # random numbers an image: area, aspect, y, x, mirror
_STREAM = 0xA06  # keeps these draws apart from other uses of the same seed and key


def uniforms(seed: int, epochs: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Numbers in [0, 1), float64 [B, 5], for images with these epochs (int64 [B]) and key hashes (uint64 [B])."""
    draws = np.arange(_DRAWS, dtype=np.uint64)
    return unit_interval(mix64(_STREAM, seed, epochs[:, None], hashes[:, None], draws[None]))


class Cut(NamedTuple):
    """A rectangle of pixels, and whether left and right change places in it."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


@dataclass(frozen=True)
class CropAugmentation:
    """How images become crops.

    Attributes:
        crop: "resize_crop" (resize to ``resize`` x ``resize``, then a random ``size`` x ``size``; Sun et al. 2017 take
            340 and 299) or "random_resized_crop" (a random part, resized to ``size``; Szegedy et al. 2015).
        size, resize: sides in pixels.
        scale: limits of the part's share of the area, uniform; ratio: limits of its width / height, log-uniform.
            Sides are cut to the image, so extreme images give parts outside these limits.
        mirror: probability of a left-right flip.
    """

    crop: str
    size: int
    resize: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    mirror: float = 0.5

    @classmethod
    def from_config(cls, cfg: CfgNode) -> CropAugmentation:
        """The augmentation that ``cfg.PRETRAIN.INPUT`` describes."""
        node = cfg.PRETRAIN.INPUT
        return cls(node.CROP, node.SIZE, node.RESIZE, tuple(node.SCALE), tuple(node.RATIO), node.MIRROR)

    def scaled(self, size: int) -> CropAugmentation:
        """The same for crops of another ``size``, and ``resize`` in proportion."""
        return self if size == self.size else replace(self, size=size, resize=round(self.resize * size / self.size))

    def stored(self, image: np.ndarray) -> np.ndarray:
        """The part of the work that is the same in every epoch; what a cache may keep."""
        return _resized(image, self.resize) if self.crop == "resize_crop" else image

    def cut(self, height: int, width: int, draws: np.ndarray) -> Cut:
        """The part of a ``height`` x ``width`` image, as :meth:`stored` returned it, that becomes a crop.

        Args:
            draws: one row of :func:`uniforms`.
        """
        if self.crop == "resize_crop":
            part_h = part_w = self.size
        else:
            area = height * width * (self.scale[0] + draws[0] * (self.scale[1] - self.scale[0]))
            log_low, log_high = np.log(self.ratio)
            aspect = np.exp(log_low + draws[1] * (log_high - log_low))
            part_h = min(max(round(np.sqrt(area / aspect)), 1), height)
            part_w = min(max(round(np.sqrt(area * aspect)), 1), width)
        top = int(draws[2] * (height - part_h + 1))
        left = int(draws[3] * (width - part_w + 1))
        return Cut(top, left, part_h, part_w, bool(draws[4] < self.mirror))

    def train(self, stored: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Crop [S, S, 3] of what :meth:`stored` returned.

        Args:
            draws: one row of :func:`uniforms`.
        """
        cut = self.cut(stored.shape[0], stored.shape[1], draws)
        part = stored[cut.top : cut.top + cut.height, cut.left : cut.left + cut.width]
        crop = _resized(part, self.size)
        return crop[:, ::-1] if cut.mirrored else crop

    def evaluate(self, image: np.ndarray) -> np.ndarray:
        """The central crop [S, S, 3] of the image resized to ``resize`` x ``resize``."""
        start = (self.resize - self.size) // 2
        return _resized(image, self.resize)[start : start + self.size, start : start + self.size]


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    if image.shape[:2] == (side, side):
        return image
    # Area averaging where pixels are lost (bilinear would alias), bilinear where they are made up.
    shrinks = image.shape[0] > side or image.shape[1] > side
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
