"""The central crops of a set of images: shared out over processes and loader workers, decoded once where memory allows.

The set is cut into the same batches for any number of processes and workers, and process r of W takes every W-th of
them, so that the network sees the same inputs in the same company.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from scaleprior.errors import UserError
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import ImageSet, loaded

__all__ = ["CentralCrops", "CropBatch", "CropShare", "Room"]


@dataclass(frozen=True)
class CropBatch:
    """Some images of a set.

    Attributes:
        crops: uint8 [b, S, S, 3]. rows: of the set, int64 [b].
        unreadable: images that could not be read and are not among the b.
    """

    crops: Tensor
    rows: Tensor
    unreadable: int


class CentralCrops(Dataset):
    """Map from the number of a batch to :class:`CropBatch`; picklable, for worker processes.

    Args:
        order: of channels, INPUT.FORMAT. batch_size: images of a batch, of which only the last is shorter.
    """

    def __init__(self, images: ImageSet, augmentation: CropAugmentation, *, order: str, batch_size: int) -> None:
        self.images = images
        self.augmentation = augmentation
        self.order = order
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.images) // self.batch_size)

    def __getitem__(self, batch: int) -> CropBatch:
        rows = range(batch * self.batch_size, min((batch + 1) * self.batch_size, len(self.images)))
        side = self.augmentation.size
        crops, read = np.empty((len(rows), side, side, 3), dtype=np.uint8), []
        for row in rows:
            try:
                crops[len(read)] = self.augmentation.evaluate(self.images.decode(row, self.order))
            except UserError:
                continue
            read.append(row)
        unreadable = len(rows) - len(read)
        return CropBatch(torch.from_numpy(crops[: len(read)]), torch.tensor(read, dtype=torch.int64), unreadable)


class Room:
    """Memory that several sets of crops may fill together; what does not fit is decoded again each time."""

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, size: int) -> bool:
        """Whether ``size`` bytes still fit; they are then taken."""
        if size > self.left:
            return False
        self.left -= size
        return True


class CropShare:
    """One process' share of the batches, in order, each time it is gone through.

    Args:
        rank, size: of the processes. workers: loader processes for what is not in memory.
        room: what is decoded stays there.
        name: of the images in messages. key: of the config, in messages.
    """

    def __init__(
        self,
        crops: CentralCrops,
        *,
        rank: int = 0,
        size: int = 1,
        workers: int = 0,
        room: Room | None = None,
        name: str = "held-out",
        key: str = "PRETRAIN.HELD_OUT",
    ) -> None:
        self.crops = crops
        self.name = name
        self.key = key
        self._mine = range(rank, len(crops), size)
        self._workers = workers
        self._room = room or Room(0)
        self._kept: dict[int, CropBatch] = {}

    @property
    def images(self) -> ImageSet:
        """All of the set."""
        return self.crops.images

    def __iter__(self) -> Iterator[CropBatch]:
        missing = [number for number in self._mine if number not in self._kept]
        decoded = loaded(self.crops, missing, workers=min(self._workers, len(missing)))
        for number in self._mine:
            batch = self._kept.get(number)
            if batch is None:
                batch = next(decoded)
                if self._room.take(batch.crops.nbytes):
                    self._kept[number] = batch
            yield batch
