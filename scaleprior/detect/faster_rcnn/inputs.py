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

_OBJECTS = 16  # a recording fits batches whose images have up to so many, or a multiple of it


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
    def of(cls, batch: DetectionBatch, seeds: Sequence[int], device: torch.device, *, divisor: int = 1) -> Inputs:
        """The batch on ``device``, of a shape that comes back: padded as the detector would pad it, and with empty
        places for objects, which both change nothing.

        Args:
            divisor: of the detector, of whose multiples it pads the sides to.
        """
        height, width = batch.images.shape[2:]
        images = batch.images.to(device, non_blocking=True)
        return cls(
            F.pad(images, (0, -width % divisor, 0, -height % divisor)),
            on_device(batch.sizes, device),
            Truth.padded(batch.boxes, batch.classes, multiple=_OBJECTS).to(device),
            torch.tensor(seeds).to(device, non_blocking=True),
        )

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
