"""Detectron2's training loader with a position: a resumed run goes on in the data instead of starting them again.

Images come in the order of Detectron2's own sampler and aspect-ratio grouping. What is random about an image (its
size, its flip) follows from (seed, step, place in the batch), so the position is all there is to restore.
"""

from __future__ import annotations

import itertools
import random
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetFromList, MapDataset, build_detection_train_loader
from detectron2.utils import comm
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler

from scaleprior.config.seed import run_seed
from scaleprior.d2.data.images import is_wide, refuse_misread
from scaleprior.d2.data.stored import with_store
from scaleprior.d2.ready import with_own_keys
from scaleprior.errors import UserError
from scaleprior.training.seeds import step_seed

__all__ = ["BatchSampler", "NamedMapper", "ResumableLoader", "TestLoader", "UnusableImage"]

_MOST_SKIPPED = 1000  # images in a row that a mapper passes over

Place = tuple[int, int, int]
"""(step, place in this process' batch, index of the image)."""


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


class NamedMapper:
    """A mapper whose errors name the image.

    An error is returned, not raised: torch would raise it in the main process with a worker's traceback for a text.
    :func:`_without_errors` raises it there.

    Args:
        strict: do not take images that are out of order without harm to their pixels.
        may_skip: the mapper may return None to pass over an image, as Detectron2's mappers in training may; otherwise
            that is an error: Detectron2 would take another image in the place of one to evaluate.
    """

    def __init__(self, mapper: Any, *, strict: bool = False, may_skip: bool = False) -> None:
        self._mapper = mapper
        self._strict = strict
        self._may_skip = may_skip

    def __call__(self, record: dict[str, Any]) -> Any:
        # a set of the user's may hold its images in another way
        name = record.get("file_name") if isinstance(record, Mapping) else None
        # PIL, OpenCV and Detectron2 raise all of these for images that are damaged or not of the size they should be.
        try:
            if name is not None:
                refuse_misread(name, strict=self._strict)
            mapped = self._mapper(record)
        except (OSError, ValueError, SyntaxError, struct.error) as e:
            said = " ".join(str(e).split())
            hint = "" if getattr(e, "hint", "") else "replace the file or leave it out"  # ours say theirs already
            return UserError(f"image {name} cannot be used: {said}", hint=hint)
        if mapped is None and not self._may_skip:
            return UserError(f"the mapper gave nothing for {name}", hint="leave the image out")
        return mapped


def _without_errors(batch: list[Any]) -> list[dict[str, Any]]:
    for each in batch:
        if isinstance(each, UserError):
            raise each
    return batch


class UnusableImage(UserError):
    """An image of the next step's batch, which no process has begun."""


def _agreed(batch: list[Any]) -> list[dict[str, Any]]:
    """The batch, if all processes can use theirs: none may begin a step that another will not come to.

    Raises:
        UnusableImage: on all processes, of one of them.
    """
    own = next((each.wording.marked for each in batch if isinstance(each, UserError)), None)
    said = comm.all_gather(own) if comm.get_world_size() > 1 else [own]
    for error in said:
        if error is not None:
            raise UnusableImage(error)
    return batch


class TestLoader:
    """The batches of a test loader of Detectron2's whose mapper is a :class:`NamedMapper`.

    Raises:
        UserError: while iterating: an image that cannot be used.
    """

    __test__ = False  # to pytest its name looks like a test's

    def __init__(self, batches: Any) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        return map(_without_errors, self._batches)


class _Mapped(Dataset):
    """Images by place, mapped under a seed of their own.

    In the place of an image that the mapper passes over comes another, drawn from that seed, too.
    """

    def __init__(self, images: Any, mapper: NamedMapper, seed: int) -> None:
        self._images = images
        self._mapper = mapper
        self._seed = seed

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, place: Place) -> dict[str, Any] | UserError:
        step, slot, index = place
        seed = step_seed(self._seed, step, slot)
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 (Detectron2's transforms draw from the global generator)
        torch.manual_seed(seed)
        others = random.Random(seed)
        for _ in range(_MOST_SKIPPED):
            mapped = self._mapper(self._images[index])
            if mapped is not None:
                return mapped
            index = others.randrange(len(self._images))
        return UserError(
            f"the mapper gave nothing for {_MOST_SKIPPED} images in a row, the last of them number {index}",
            hint="correct the mapper, or leave out of the set what it passes over",
        )


def _as_list(batch: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return batch


class ResumableLoader:
    """Batches for ``DefaultTrainer``: iterating starts at the step given to :meth:`go_to`.

    Attributes:
        dataset: images by index as the mapper gives them, one at a time: what a loader of Detectron2's has there.
        last: the batch that was given last.

    Args:
        dataset: Detectron2's dicts.
        sampler: endless, with a fixed seed; any of Detectron2's training samplers.
        mapper: dict -> what the model takes; None for an image to pass over.
        total_batch_size: images a step over all processes.
        seed: of what the mapper draws; at least 0.
        strict: see :class:`NamedMapper`.

    Raises:
        UserError: a batch that the processes cannot share out equally.
        UnusableImage: while iterating.
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
        strict: bool = False,
    ) -> None:
        processes = comm.get_world_size()
        if total_batch_size < 1 or total_batch_size % processes:
            raise UserError(
                f"SOLVER.IMS_PER_BATCH is {total_batch_size}; the {processes} processes share out a batch equally",
                hint=f"give a multiple of {processes} above 0",
            )
        wide = _wide(dataset) if aspect_ratio_grouping else None
        # What is no list is somebody's own set, which may not fit into memory.
        images = DatasetFromList(dataset, copy=False) if isinstance(dataset, list) else dataset
        self.batches = BatchSampler(sampler, wide, total_batch_size // processes)
        named = NamedMapper(mapper, strict=strict, may_skip=True)
        mapped = _Mapped(images, named, step_seed(seed, comm.get_rank()))
        self.dataset = MapDataset(images, mapper)
        self._loader = DataLoader(mapped, batch_sampler=self.batches, num_workers=num_workers, collate_fn=_as_list)
        self.last: list[dict[str, Any]] = []

    @classmethod
    def from_config(
        cls,
        cfg: Any,
        mapper: Callable[[dict[str, Any]], Any] | None = None,
        *,
        dataset: Sequence[dict[str, Any]] | None = None,
        sampler: Sampler[int] | None = None,
    ) -> ResumableLoader:
        """As ``build_detection_train_loader(cfg, mapper, dataset=, sampler=)``, which reads the data sets and chooses
        sampler and mapper where they are not given.

        Args:
            cfg: Detectron2's, with or without ``add_scaleprior_config``.
            mapper: what it draws has to come from Python's, NumPy's or torch's global generators, which are seeded.
            sampler: endless, and the same whenever it is iterated.

        Raises:
            UserError: a sampler without a seed, whose order could not be repeated; a set that only can be iterated.
        """
        cfg = with_own_keys(cfg)
        if isinstance(dataset, IterableDataset):
            raise UserError(
                f"the data set is a {type(dataset).__name__}, which has no places to go on from",
                hint="build_detection_train_loader takes it; a run then begins it again when it is resumed",
            )
        name = cfg.DATALOADER.SAMPLER_TRAIN
        if sampler is None and name not in ("TrainingSampler", "RepeatFactorTrainingSampler"):
            raise UserError(
                f"DATALOADER.SAMPLER_TRAIN is {name!r}, which Detectron2 does not seed with SEED",
                hint="take TrainingSampler or RepeatFactorTrainingSampler",
            )
        build: Any = build_detection_train_loader  # its decorator hangs the reader of configs on it
        found = build.from_config(cfg, mapper, dataset=dataset, sampler=sampler)
        found["mapper"] = with_store(found["mapper"], found["dataset"], cfg)
        return cls(**found, seed=run_seed(cfg), strict=cfg.SCALEPRIOR.STRICT_IMAGES)

    def go_to(self, step: int) -> None:
        """Start the next iteration at ``step``, counted from 0."""
        self.batches.start = step

    def __iter__(self) -> Iterator[list[dict[str, Any]]]:
        for batch in self._loader:
            self.last = _agreed(batch)
            yield self.last


def _wide(dataset: Sequence[dict[str, Any]]) -> list[bool]:
    """Whether each image is wider than high.

    Raises:
        UserError: one neither says so nor is a file.
    """
    try:
        return [is_wide(record) for record in dataset]
    except KeyError as e:
        raise UserError(
            f"an entry of the data set has no width and height, as DATALOADER.ASPECT_RATIO_GROUPING needs, nor {e}",
            hint="give every entry its width and height, or use DATALOADER.ASPECT_RATIO_GROUPING False",
        ) from e
