"""What a step sees, as tensors on its device: moved once, and held where a recorded step reads them again."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from scaleprior.detect.data.loader import DetectionBatch
from scaleprior.detect.faster_rcnn.model import on_device
from scaleprior.detect.faster_rcnn.truth import Truth

__all__ = ["Inputs"]


@dataclass(frozen=True)
class Inputs:
    """Arguments of ``Detector.forward``; see ``training.graphs.Recordable``.

    Attributes:
        images: uint8 [N, 3, H, W]. sizes: float32 [N, 2]. seeds: int64 [N].
    """

    images: Tensor
    sizes: Tensor
    truth: Truth
    seeds: Tensor

    @classmethod
    def of(
        cls, batch: DetectionBatch, seeds: Sequence[int], device: torch.device, *, divisor: int = 1, objects: int = 1
    ) -> Inputs:
        """The batch on ``device``; nobody waits for the copies.

        Args:
            divisor, objects: the sides, and the places for objects, are padded to multiples of these, so that shapes
                come back. Of the detector's own divisor, and of empty places, no loss depends.
        """
        height, width = batch.images.shape[2:]
        images = batch.images.to(device, non_blocking=True)
        if height % divisor or width % divisor:
            images = F.pad(images, (0, -width % divisor, 0, -height % divisor))
        truth = Truth.padded(batch.boxes, batch.classes, batch.masks, multiple=objects)
        seeds_there = torch.tensor(seeds).to(device, non_blocking=True)
        return cls(images, on_device(batch.sizes, device), truth.to(device), seeds_there)

    def shapes(self) -> Hashable:
        """Of the images, and the places for objects."""
        return self.images.shape, self.truth.boxes.shape

    def clone(self) -> Inputs:
        """In tensors of its own."""
        truth = self.truth
        copies = (tensor.clone() for tensor in (truth.boxes, truth.classes, truth.present))
        boxes, classes, present = copies
        held = replace(truth, boxes=boxes, classes=classes, present=present)
        return Inputs(self.images.clone(), self.sizes.clone(), held, self.seeds.clone())

    def fill(self, new: Inputs) -> None:
        """Take on the values of ``new``."""
        for held, value in zip(self._tensors(), new._tensors(), strict=True):
            held.copy_(value)

    def _tensors(self) -> tuple[Tensor, ...]:
        truth = self.truth
        return self.images, self.sizes, truth.boxes, truth.classes, truth.present, self.seeds
