"""Batches for training and evaluation. What a step sees is a pure function of (data, config, seed, step).

So a resumed run continues the order instead of replaying it, whatever the number of threads, and the images of a step
are the same ones for any number of processes: process r of P takes places r, r + P, ... of the batch. What is drawn
for an image follows from its place, and all shares are padded alike, so that nothing depends on who has it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scaleprior.config.seed import run_seed
from scaleprior.detect.data.coco import DetectionSet, ImageRecord
from scaleprior.detect.data.segmentation import MaskFormat, Segmentation, to_image
from scaleprior.detect.data.store.images import ImageStore
from scaleprior.detect.data.store.room import Room, machine_room
from scaleprior.detect.data.transforms import ResizeAugmentation, mirror_boxes, paste, resized_shape
from scaleprior.errors import UserError
from scaleprior.training.device import resolve_device

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["DetectionBatch", "TrainLoader", "batch_order", "usable"]

_AUGMENT = 1  # keeps the generators of order and augmentation apart
_Item = tuple[Tensor, Tensor, "int | str", "list[Segmentation] | None"]
"""Boxes, classes, id, masks."""


class _Drawn(NamedTuple):
    """An image of a step: its place in ``TrainLoader.entries``, the shorter side and the (height, width) it gets."""

    entry: int
    size: int
    shape: tuple[int, int]
    mirrored: bool


@dataclass(frozen=True)
class DetectionBatch:
    """What one step sees.

    Attributes:
        images: uint8 [N, 3, H, W], each in its upper left corner.
        sizes: (height, width) of each image without padding.
        boxes: float32 [G, 4] xyxy of each image. classes: int64 [G] of each.
        ids: of the images.
        slots: place of each image in the batch of all processes.
        masks: of each image's objects, in pixels of the resized image; None where the sets were read without.
    """

    images: Tensor
    sizes: list[tuple[int, int]]
    boxes: list[Tensor]
    classes: list[Tensor]
    ids: list[int | str]
    slots: list[int]
    masks: list[list[Segmentation]] | None = None


def usable(data: DetectionSet, *, filter_empty: bool) -> list[int]:
    """Indices of the images to train on; with ``filter_empty`` those with at least one box that is not a crowd."""
    return [i for i, record in enumerate(data.records) if not filter_empty or bool((~record.crowd).any())]


def batch_order(landscape: Sequence[bool], batch_size: int, seed: int, *, grouping: bool) -> Iterator[list[int]]:
    """Endless batches of indices: one random permutation after the other, cut into batches.

    Args:
        landscape: per image, whether it is wider than high.
        grouping: fill one batch with landscape and one with other images at a time, and emit a batch when it is full
            (Detectron2's aspect ratio grouping).
    """
    pending: tuple[list[int], list[int]] = ([], [])
    epoch = 0
    while True:
        for index in np.random.default_rng([seed, epoch]).permutation(len(landscape)).tolist():
            bucket = pending[1 if grouping and landscape[index] else 0]
            bucket.append(index)
            if len(bucket) == batch_size:
                yield bucket.copy()
                bucket.clear()
        epoch += 1


class TrainLoader:
    """Batches from ``first_step`` on.

    Args:
        sets: trained on jointly.
        batch_size: of all processes together, which it is a multiple of.
        threads: prepare this many images at a time, ahead of the step; 0 = when asked for.
        cache_bytes, strict, room: see :class:`ImageStore`.
        rank, processes: this process and how many there are.
        mask_format: how masks leave it, of sets that were read with them.
        pinned: images lie in memory that a GPU copies from while the step goes on.
    """

    def __init__(
        self,
        sets: Sequence[DetectionSet],
        augmentation: ResizeAugmentation,
        *,
        order: str,
        batch_size: int,
        seed: int,
        threads: int = 0,
        grouping: bool = True,
        filter_empty: bool = True,
        cache_bytes: int = 0,
        strict: bool = False,
        room: Room | None = None,
        rank: int = 0,
        processes: int = 1,
        mask_format: MaskFormat = "polygon",
        pinned: bool = False,
    ) -> None:
        assert batch_size % processes == 0, (batch_size, processes)  # so that a mean over processes is one over images
        self.stores = [
            ImageStore(data, order=order, cache_bytes=cache_bytes, strict=strict, room=room) for data in sets
        ]
        self.entries = [
            (store, index) for store in self.stores for index in usable(store.data, filter_empty=filter_empty)
        ]
        if not self.entries:
            names = ", ".join(data.name for data in sets)
            raise UserError(f"no image of {names} has a box to train on", hint="check the annotations")
        self.augmentation = augmentation
        self.batch_size = batch_size
        self.seed = seed
        self.threads = threads
        self.grouping = grouping
        self.slots = range(rank, batch_size, processes)
        self.mask_format: MaskFormat = mask_format
        self.pinned = pinned

    @classmethod
    def from_config(
        cls, cfg: CfgNode, sets: Sequence[DetectionSet], *, rank: int = 0, processes: int = 1
    ) -> TrainLoader:
        """Read ``INPUT``, ``DATALOADER``, ``SOLVER.IMS_PER_BATCH``, ``SEED``, the device and what keeps images."""
        return cls(
            sets,
            ResizeAugmentation.from_config(cfg),
            order=cfg.INPUT.FORMAT,
            batch_size=cfg.SOLVER.IMS_PER_BATCH,
            seed=run_seed(cfg),
            threads=cfg.DATALOADER.NUM_WORKERS,
            grouping=cfg.DATALOADER.ASPECT_RATIO_GROUPING,
            filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
            cache_bytes=cfg.SCALEPRIOR.IMAGE_CACHE_MB * 2**20,
            strict=cfg.SCALEPRIOR.STRICT_IMAGES,
            room=machine_room(cfg.SCALEPRIOR.IMAGE_STORE_MB),
            mask_format=cfg.INPUT.MASK_FORMAT,
            rank=rank,
            processes=processes,
            pinned=resolve_device(cfg.MODEL.DEVICE).type == "cuda",
        )

    def batches(self, first_step: int, steps: int) -> Generator[DetectionBatch, None, None]:
        """This process' share of the batches of steps ``first_step`` to ``steps - 1``."""
        records = [store.data.records[index] for store, index in self.entries]
        landscape = [record.width > record.height for record in records]
        order = batch_order(landscape, self.batch_size, self.seed, grouping=self.grouping)
        for _ in range(first_step):  # cheap: numbers only, no image is touched
            next(order)
        jobs = ((step, next(order)) for step in range(first_step, steps))
        try:
            yield from self._threaded(jobs) if self.threads else self._one_by_one(jobs)
        finally:
            for store in self.stores:
                store.report()

    def _one_by_one(self, jobs: Iterator[tuple[int, list[int]]]) -> Iterator[DetectionBatch]:
        for step, entries in jobs:
            images, drawn = self._begun(step, entries)
            yield self._batch(images, drawn, [self._prepare(*each) for each in zip(drawn, images)])

    def _threaded(self, jobs: Iterator[tuple[int, list[int]]]) -> Iterator[DetectionBatch]:
        pool = ThreadPoolExecutor(self.threads)
        # no thread should wait for the step: the batch that comes next, and behind it images for all threads
        depth = 1 + max(1, -(-self.threads // len(self.slots)))
        try:
            ahead: deque[tuple[Tensor, list[_Drawn], list[Future[_Item]]]] = deque()
            for step, entries in jobs:
                images, drawn = self._begun(step, entries)
                ahead.append((images, drawn, [pool.submit(self._prepare, *each) for each in zip(drawn, images)]))
                if len(ahead) > depth:
                    yield self._batch_when_ready(*ahead.popleft())
            while ahead:
                yield self._batch_when_ready(*ahead.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _batch_when_ready(self, images: Tensor, drawn: list[_Drawn], items: list[Future[_Item]]) -> DetectionBatch:
        return self._batch(images, drawn, [item.result() for item in items])

    def _batch(self, images: Tensor, drawn: list[_Drawn], items: Sequence[_Item]) -> DetectionBatch:
        boxes, classes, ids, masks = zip(*items)
        all_masks = None if None in masks else list(masks)
        sizes = [each.shape for each in drawn]
        return DetectionBatch(images, sizes, list(boxes), list(classes), list(ids), list(self.slots), all_masks)

    def _begun(self, step: int, entries: list[int]) -> tuple[Tensor, list[_Drawn]]:
        """Room for the images of a step, as much as those of any process need, and what is drawn for each of them."""
        drawn = [self._drawn(step, slot, entry) for slot, entry in enumerate(entries)]
        canvas = max(each.shape[0] for each in drawn), max(each.shape[1] for each in drawn)
        own = [drawn[slot] for slot in self.slots]
        make = torch.empty if all(each.shape == canvas for each in own) else torch.zeros
        return make((len(own), 3, *canvas), dtype=torch.uint8, pin_memory=self.pinned), own

    def _drawn(self, step: int, slot: int, entry: int) -> _Drawn:
        augmentation, (store, index) = self.augmentation, self.entries[entry]
        size, mirrored = augmentation.only_size, False
        if size is None or slot in self.slots:  # a generator takes longer than all else here
            size, mirrored = augmentation.draw(np.random.default_rng([self.seed, _AUGMENT, step, slot]))
        record = store.data.records[index]
        return _Drawn(entry, size, resized_shape(record.height, record.width, size, augmentation.longest), mirrored)

    def _prepare(self, drawn: _Drawn, row: Tensor) -> _Item:
        """Write the image into ``row``, uint8 [3, H, W]; what else there is of it."""
        store, index = self.entries[drawn.entry]
        record, (height, width) = store.data.records[index], drawn.shape
        keep, direction = self.augmentation.only_size is not None, self.augmentation.direction if drawn.mirrored else ""
        paste(store.load(index, drawn.size, self.augmentation.longest, keep=keep), row, mirrored=direction)
        scale = np.array([width / record.width, height / record.height] * 2, dtype=np.float32)
        boxes, classes = record.boxes[~record.crowd] * scale, record.classes[~record.crowd]
        if direction:
            boxes = mirror_boxes(boxes, drawn.shape, direction)
        limit = np.array([width, height] * 2, dtype=np.float32)
        boxes = boxes.clip(0, limit)
        visible = ((boxes[:, 2:] - boxes[:, :2]) > 1e-5).all(axis=1)
        masks = self._masks(record, drawn.shape, mirrored=drawn.mirrored)
        if masks is not None:
            visible &= np.array([mask.visible for mask in masks], dtype=bool)
            masks = [mask for mask, stays in zip(masks, visible) if stays]
        return torch.from_numpy(boxes[visible]), torch.from_numpy(classes[visible]), record.id, masks

    def _masks(self, record: ImageRecord, shape: tuple[int, int], *, mirrored: bool) -> list[Segmentation] | None:
        """Of all objects but crowds, in the resized image."""
        if record.masks is None:
            return None
        flip, size = self.augmentation.direction if mirrored else "none", (record.height, record.width)
        return [to_image(m, size, shape, flip=flip, form=self.mask_format) for m in record.masks if m is not None]
