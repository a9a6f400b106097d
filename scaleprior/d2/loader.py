"""Detectron2's training loader with a position: a resumed run goes on in the data instead of starting them again.

Images come in the order of Detectron2's own sampler and aspect-ratio grouping. What is random about an image (its
size, its flip) follows from (seed, step, place in the batch), so the position is all there is to restore.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, Sampler

from scaleprior.errors import FailureError, UserError

__all__ = ["BatchSampler", "ResumableLoader", "step_seed"]

Place = tuple[int, int, int]
"""(step, place in this process' batch, index of the image)."""


def step_seed(seed: int, *numbers: int) -> int:
    """A 32-bit seed from ``seed`` and numbers such as (rank, step); unlike inputs give unrelated seeds."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


class BatchSampler(Sampler[list[Place]]):
    """Endless batches of places, from step ``start`` on.

    Args:
        indices: an endless, repeatable stream of this process' indices: a sampler of Detectron2's.
        wide: whether image i is wider than high; None groups nothing.
        batch_size: of this process.
    """

    def __init__(self, indices: Sampler[int], wide: Sequence[bool] | None, batch_size: int) -> None:
        self._indices = indices
        self._wide = wide
        self._batch_size = batch_size
        self.start = 0

    def __iter__(self) -> Iterator[list[Place]]:
        # Which images wait for others of their shape depends on all that came before, so the stream is run through
        # from its beginning; that costs a microsecond an index.
        batches = enumerate(self._batches())
        for step, batch in itertools.islice(batches, self.start, None):
            yield [(step, place, index) for place, index in enumerate(batch)]

    def _batches(self) -> Iterator[list[int]]:
        buckets: tuple[list[int], list[int]] = ([], [])
        for index in self._indices:
            bucket = buckets[0 if self._wide is None or self._wide[index] else 1]
            bucket.append(index)
            if len(bucket) == self._batch_size:
                yield bucket[:]
                bucket.clear()


class _Mapped(Dataset):
    """Images by place, mapped under a seed of their own."""

    def __init__(self, images: DatasetFromList, mapper: Any, seed: int) -> None:
        self._images = images
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Place) -> dict[str, Any]:
        step, slot, index = place
        seed = step_seed(self._seed, step, slot)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (Detectron2's transforms draw from the global generator)
        torch.manual_seed(seed)
        record = self._images[index]
        mapped = self._mapper(record)
        if mapped is None:
            raise FailureError(f"the mapper gave nothing for {record['file_name']}", hint="leave the image out")
        return mapped


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch


class ResumableLoader:
    """Batches for ``DefaultTrainer``: iterating starts at the step given to :meth:`go_to`.

    Args:
        dataset: Detectron2's dicts.
        sampler: endless, with a fixed seed; any of Detectron2's training samplers.
        mapper: dict -> what the model takes.
        total_batch_size: images a step over all processes.
        seed: of what the mapper draws.

    Raises:
        UserError: a batch that the processes cannot share out equally, or no images.
    """

    def __init__(
        self,
        dataset: Sequence[dict[str, Any]],
        sampler: Sampler[int],
        mapper: Any,
        *,
        total_batch_size: int,
        aspect_ratio_grouping: bool,
        num_workers: int,
        seed: int,
    ) -> None:
        processes = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % processes:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH {total_batch_size} is no multiple of the {processes} processes",
                hint="change either",
            )
        wide = [record["width"] > record["height"] for record in dataset] if aspect_ratio_grouping else None
        images = DatasetFromList(list(dataset), copy=False)
        self.batches = BatchSampler(sampler, wide, total_batch_size // processes)
        mapped = _Mapped(images, mapper, step_seed(seed, comm.get_rank()))
        self._loader = DataLoader(mapped, batch_sampler=self.batches, num_workers=num_workers, collate_fn=_as_list)
        self.last: list[dict[str, Any]] = []

    @classmethod
    def from_config(cls, cfg: Any) -> ResumableLoader:
        """As ``build_detection_train_loader(cfg)``, which reads the data sets, chooses sampler and mapper.

        Raises:
            UserError: a sampler without a seed, whose order could not be repeated.
        """
        name = cfg.DATALOADER.SAMPLER_TRAIN
        if name not in ("TrainingSampler", "RepeatFactorTrainingSampler"):
            raise UserError(
                f"DATALOADER.SAMPLER_TRAIN is {name!r}, which Detectron2 does not seed with SEED",
                hint="take TrainingSampler or RepeatFactorTrainingSampler",
            )
        return cls(**build_detection_train_loader.from_config(cfg), seed=cfg.SEED)

    def go_to(self, step: int) -> None:
        """Start the next iteration at ``step``, counted from 0."""
        self.batches.start = step

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._loader:
            self.last = batch
            yield batch
