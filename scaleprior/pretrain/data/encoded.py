"""Batches whose plain JPEGs are still encoded, for a device that decodes them.

b images, of which n are encoded and the others, which only our own decoder reads as it should, are crops already; S
pixels a side of a crop. What a crop shows follows from the same numbers as in ``batches``, by the sizes in the headers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleprior.corpus.images import check_image
from scaleprior.corpus.images.jpeg_plain import plain_jpeg
from scaleprior.errors import UserError
from scaleprior.pretrain.data.augment import CropAugmentation, uniforms
from scaleprior.pretrain.data.batches import TrainBatches
from scaleprior.pretrain.data.resampling import Part
from scaleprior.pretrain.losses.targets import Targets

__all__ = ["EncodedBatch", "EncodedBatches", "EncodedImage", "crop_part"]


@dataclass(frozen=True)
class EncodedImage:
    """A JPEG that a device may decode.

    Attributes:
        place: among the b images of its batch. start, stop: its bytes in the batch's ``code``.
        height, width: of the stored pixels. orientation: 1 to 8, how they are turned; ``part`` is of the turned ones.
        draws: what its crop follows from.
    """

    place: int
    start: int
    stop: int
    height: int
    width: int
    orientation: int
    part: Part
    draws: tuple[float, ...]


@dataclass(frozen=True)
class EncodedBatch:
    """Images of one step on one process.

    Attributes:
        rows: indices into the fraction, int64 [b]. targets: their labels.
        encoded: n of the images. code: uint8, their bytes one after the other.
        places: int64 [b - n], of the others. crops: uint8 [b - n, S, S, 3].
        augmentation: how images become crops of this step.
        unreadable: (row, reason) of images that could not be read and are not among the b.
    """

    rows: Tensor
    targets: Targets
    encoded: tuple[EncodedImage, ...]
    code: Tensor
    places: Tensor
    crops: Tensor
    augmentation: CropAugmentation
    unreadable: tuple[tuple[int, str], ...] = ()


class EncodedBatches(Dataset[EncodedBatch]):
    """The batches of ``whole`` before they are decoded; picklable, for worker processes. Nothing is cached."""

    def __init__(self, whole: TrainBatches) -> None:
        self.whole = whole

    def __getitem__(self, step: int) -> EncodedBatch:
        images, plan = self.whole.images, self.whole.plan
        rows, epochs = plan(step)
        augmentation = self.whole.augmentation_of(step)
        draws = uniforms(plan.seed, epochs, images.hashes[rows])
        good, unreadable = list[int](), list[tuple[int, str]]()
        encoded, codes = list[EncodedImage](), list[bytes]()
        places, crops = list[int](), list[np.ndarray]()
        for numbers, row in zip(draws, rows.tolist()):
            try:
                data = images.read(row)
                start = encoded[-1].stop if encoded else 0
                image = self._encoded(data, augmentation, len(good), start, numbers)
                if image is None:
                    crops.append(self.crop(data, augmentation, numbers))
                    places.append(len(good))
                else:
                    encoded.append(image)
                    codes.append(data)
            except UserError as e:
                unreadable.append((row, str(e)))
            else:
                good.append(row)
        rows, size = np.asarray(good, dtype=np.int64), augmentation.size
        return EncodedBatch(
            torch.from_numpy(rows),
            self.whole.targets(rows),
            tuple(encoded),
            torch.from_numpy(np.frombuffer(bytearray().join(codes), dtype=np.uint8)),
            torch.tensor(places, dtype=torch.int64),
            torch.from_numpy(np.stack(crops)) if crops else torch.empty(0, size, size, 3, dtype=torch.uint8),
            augmentation,
            tuple(unreadable),
        )

    def crop(self, data: bytes, augmentation: CropAugmentation, draws: np.ndarray) -> np.ndarray:
        """The crop [S, S, 3] of an image that is decoded here.

        Raises:
            ImageError: it cannot be decoded.
        """
        stored = augmentation.stored(self.whole.images.decode_bytes(data, self.whole.order))
        return augmentation.train(stored, draws)

    def _encoded(
        self, data: bytes, augmentation: CropAugmentation, place: int, start: int, draws: np.ndarray
    ) -> EncodedImage | None:
        """What a device needs to know of ``data``; None for what it is not given."""
        header = plain_jpeg(data)
        if header is None:
            return None
        if self.whole.images.strict:  # a device does not warn of what is out of order in the coded data
            check_image(data, strict=True)
        orientation = header.orientation() if self.whole.images.upright else 1
        height, width = header.height, header.width
        turned = (width, height) if orientation >= 5 else (height, width)
        part = crop_part(augmentation, *turned, draws)
        return EncodedImage(place, start, start + len(data), height, width, orientation, part, tuple(draws.tolist()))


def crop_part(augmentation: CropAugmentation, height: int, width: int, draws: np.ndarray) -> Part:
    """What ``augmentation.train`` shows of an upright image of ``height`` x ``width`` pixels, in these pixels."""
    if augmentation.crop == "resize_crop":
        side = augmentation.resize
        cut = augmentation.cut(side, side, draws)
        return Part(0, 0, height, width, side, cut.top, cut.left, cut.mirrored)
    cut = augmentation.cut(height, width, draws)
    return Part(cut.top, cut.left, cut.height, cut.width, augmentation.size, 0, 0, cut.mirrored)
