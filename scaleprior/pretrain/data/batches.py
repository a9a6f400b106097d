"""Batches as a pure function of the step: which images (``training.positions``), which labels, which crops."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from scaleprior.corpus import Corpus, Fraction, corrupt_labels
from scaleprior.corpus.images import decode
from scaleprior.corpus.integrity import check_rows
from scaleprior.errors import UserError
from scaleprior.pretrain.data.augment import CropAugmentation, uniforms
from scaleprior.pretrain.data.sizes import ImageSizes
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.recipe import training_images
from scaleprior.training.positions import BatchPlan

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.corpus import LabelSpace

__all__ = [
    "ImageSet", "LabelledBatch", "TrainBatches", "batches", "held_out_rows", "held_out_set", "loaded", "training_set",
]  # fmt: skip


T = TypeVar("T")

B = TypeVar("B")


@dataclass(frozen=True)
class LabelledBatch:
    """Images of one step on one process.

    Attributes:
        images: uint8 [b, S, S, 3], channels in INPUT.FORMAT.
        targets: labels of these b images.
        rows: indices into the fraction, int64 [b].
        unreadable: (row, reason) of images that could not be read and are not among the b.
    """

    images: Tensor
    targets: Targets
    rows: Tensor
    unreadable: tuple[tuple[int, str], ...] = ()

    def __len__(self) -> int:
        return len(self.rows)

    def parts(self, count: int) -> Iterator[tuple[Tensor, Targets]]:
        """Images and targets in ``count`` parts of equal size, the first ones larger by one where that cannot be."""
        start = 0
        for images in self.images.tensor_split(count):
            yield images, self.targets.part(start, start + len(images)) if count > 1 else self.targets
            start += len(images)

    def pin_memory(self) -> LabelledBatch:
        """A copy in pinned memory; a loader that is asked for pinned batches calls this."""
        images = self.images if self.images.is_cuda else self.images.pin_memory()  # decoded on a GPU, they are there
        return replace(self, images=images, targets=self.targets.pin_memory())


class ImageSet:
    """Rows ``start`` .. of a fraction with the labels that training or evaluation is to see.

    Attributes:
        fraction: where the images are. start: its first row here; the set runs to the fraction's end.
        labels, offsets: CSR, without ancestors. hashes: uint64 [n], of the keys.
        absent: CSR of the labels known to be absent, without descendants; None: all that are not listed.
        expand: add ancestors, and descendants of the absent, when a batch is made.
        strict: an image that is out of order without harm to its pixels cannot be read.
    """

    def __init__(
        self,
        fraction: Fraction,
        labels: np.ndarray,
        offsets: np.ndarray,
        *,
        absent: tuple[np.ndarray, np.ndarray] | None = None,
        start: int = 0,
        expand: bool = True,
        strict: bool = False,
    ) -> None:
        self.fraction = fraction
        self.start = start
        self.expand = expand
        self.strict = strict
        self.hashes = fraction.hashes()[start:]
        self.labels, self.offsets = _from_row(start, labels, offsets)
        self.absent = None if absent is None else _from_row(start, *absent)

    def __len__(self) -> int:
        return len(self.fraction) - self.start

    @property
    def label_space(self) -> LabelSpace:
        """What the labels mean."""
        return self.fraction.label_space

    def key(self, row: int) -> str:
        """Key of an image; the first call reads all keys, so it is for messages."""
        return self._keys[self.start + row]

    @cached_property
    def _keys(self) -> list[str]:
        return self.fraction.keys()

    def decode(self, row: int, order: str) -> np.ndarray:
        """uint8 [H, W, 3]. Raises UserError (also ImageError) for an image that cannot be read."""
        return self.fraction.decode(self.start + row, order=order, strict=self.strict)

    def read(self, row: int) -> bytes:
        """An image as it is encoded. Raises UserError for one whose file is gone or too short."""
        return self.fraction.read(self.start + row)

    def decode_bytes(self, data: bytes, order: str) -> np.ndarray:
        """What :meth:`decode` makes of what :meth:`read` returned. Raises ImageError if it cannot be decoded."""
        return decode(data, order=order, upright=self.upright, strict=self.strict)

    @property
    def upright(self) -> bool:
        """Whether images are turned as their EXIF orientation says."""
        return self.fraction.corpus.upright

    def labels_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """CSR of some rows, with ancestors if ``expand``: int64 labels and offsets [len(rows) + 1]."""
        labels, offsets = _select(self.labels, self.offsets, rows)
        if self.expand:
            labels, offsets = self.label_space.expand(labels, offsets)
        return labels.astype(np.int64), offsets

    def absent_of(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """The labels known to be absent, with descendants if ``expand``, as :meth:`labels_of`; None as ``absent``."""
        if self.absent is None:
            return None
        absent, offsets = _select(*self.absent, rows)
        if self.expand:
            absent, offsets = self.label_space.expand_absent(absent, offsets)
        return absent.astype(np.int64), offsets


def _from_row(start: int, labels: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return labels[offsets[start] :], offsets[start:] - offsets[start]


def _select(labels: np.ndarray, offsets: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    counts = offsets[rows + 1] - offsets[rows]
    ends = np.cumsum(counts)
    selected = np.concatenate(([0], ends)).astype(np.int64)
    gather = np.repeat(offsets[rows] - (ends - counts), counts) + np.arange(selected[-1])
    return labels[gather], selected


def training_set(cfg: CfgNode, corpus: Corpus) -> ImageSet:
    """The fraction that ``cfg.PRETRAIN`` asks for, with its noise.

    Raises:
        UserError: see :func:`training_images`; the index has changed since it was built; PRETRAIN.LOSS.UNLABELLED is
            "ignore" and nothing is known as absent.
    """
    node = cfg.PRETRAIN
    fraction = corpus.fraction(images=training_images(cfg, len(corpus)))
    check_rows(corpus)
    labels, offsets = fraction.labels()
    absent = _known_absent(fraction) if node.LOSS.UNLABELLED == "ignore" else None
    if node.NOISE.RATE or node.NOISE.DROP:
        labels, offsets = corrupt_labels(
            labels,
            offsets,
            fraction.hashes(),
            fraction.label_space,
            rate=node.NOISE.RATE,
            kind=node.NOISE.KIND,
            drop=node.NOISE.DROP,
            seed=node.NOISE.SEED,
        )
        if absent is not None:  # a wrong label may be one that is known to be absent
            absent = fraction.label_space.settle_absent(labels, offsets, *absent)
    strict = cfg.SCALEPRIOR.STRICT_IMAGES
    return ImageSet(fraction, labels, offsets, absent=absent, expand=node.EXPAND_LABELS, strict=strict)


def _known_absent(fraction: Fraction) -> tuple[np.ndarray, np.ndarray]:
    absent = fraction.absent()
    if not len(absent[0]):
        raise UserError(
            f"PRETRAIN.LOSS.UNLABELLED is 'ignore', and none of the {len(fraction)} images of {fraction.corpus.name!r} "
            "has a label that is known to be absent: nothing would be a negative",
            hint="set it to negative, or build the index from a table that says what is absent",
        )
    return absent


def held_out_set(cfg: CfgNode, corpus: Corpus) -> ImageSet | None:
    """What to evaluate on, with labels free of artificial noise; None for none.

    Where its corpus records absent labels, what is not listed is unknown.

    Raises:
        UserError: see :func:`held_out_rows`; its index has changed since it was built.
    """
    found = held_out_rows(cfg, corpus)
    if found is None:
        return None
    fraction, start = found
    check_rows(fraction.corpus)
    absent = fraction.absent() if fraction.has_absent else None
    options = {"expand": cfg.PRETRAIN.EXPAND_LABELS, "strict": cfg.SCALEPRIOR.STRICT_IMAGES}
    return ImageSet(fraction, *fraction.labels(), absent=absent, start=start, **options)


def held_out_rows(cfg: CfgNode, corpus: Corpus) -> tuple[Fraction, int] | None:
    """A fraction, and the first of its rows that is held out, as all behind it are; None for none.

    Raises:
        UserError: too few images, or a held-out corpus with another label space.
    """
    node = cfg.PRETRAIN.HELD_OUT
    if not node.IMAGES:
        return None
    if not node.CORPUS:
        return corpus.fraction(images=len(corpus)), len(corpus) - node.IMAGES
    other = Corpus.open(node.CORPUS)
    if other.label_space.fingerprint != corpus.label_space.fingerprint:
        raise UserError(
            f"PRETRAIN.HELD_OUT.CORPUS {node.CORPUS} has another label space than PRETRAIN.CORPUS",
            hint="build both with the same hierarchy",
        )
    return other.fraction(images=node.IMAGES), 0


class TrainBatches(Dataset[LabelledBatch]):
    """Map from step to :class:`LabelledBatch`; picklable, for worker processes.

    Args:
        sizes: side of the crops of every step; None = the augmentation's.
        cache_bytes: decoded images are kept up to this size; only useful in one process.
    """

    def __init__(
        self,
        images: ImageSet,
        plan: BatchPlan,
        augmentation: CropAugmentation,
        *,
        order: str,
        sizes: ImageSizes | None = None,
        cache_bytes: int = 0,
    ) -> None:
        self.images = images
        self.plan = plan
        self.augmentation = augmentation
        self.sizes = sizes
        self.order = order
        self._cache_bytes = self._room = cache_bytes
        self._cached_for = 0  # the side that the cached images have for resize_crop
        self._cache: dict[int, np.ndarray] = {}

    def augmentation_of(self, step: int) -> CropAugmentation:
        """How the images of ``step`` become crops."""
        return self.augmentation if self.sizes is None else self.augmentation.scaled(self.sizes(step))

    def __getitem__(self, step: int) -> LabelledBatch:
        rows, epochs = self.plan(step)
        draws = uniforms(self.plan.seed, epochs, self.images.hashes[rows])
        augmentation = self.augmentation_of(step)
        crops = np.empty((len(rows), augmentation.size, augmentation.size, 3), dtype=np.uint8)
        good, unreadable = [], []
        for place, row in enumerate(rows.tolist()):
            try:
                stored = self._stored(row, augmentation)
            except UserError as e:
                unreadable.append((row, str(e)))
                continue
            crops[len(good)] = augmentation.train(stored, draws[place])
            good.append(row)
        rows = np.asarray(good, dtype=np.int64)
        return LabelledBatch(
            torch.from_numpy(crops[: len(good)]), self.targets(rows), torch.from_numpy(rows), tuple(unreadable)
        )

    def targets(self, rows: np.ndarray) -> Targets:
        """Labels of images, int64 [b] indices into the fraction."""
        labels, offsets = map(torch.from_numpy, self.images.labels_of(rows))
        absent = self.images.absent_of(rows)
        known = None if absent is None else (torch.from_numpy(absent[0]), torch.from_numpy(absent[1]))
        return Targets.from_csr(labels, offsets, classes=len(self.images.label_space), absent=known)

    def _stored(self, row: int, augmentation: CropAugmentation) -> np.ndarray:
        if augmentation.crop == "resize_crop" and augmentation.resize != self._cached_for:
            self._cache.clear()
            self._room, self._cached_for = self._cache_bytes, augmentation.resize
        stored = self._cache.get(row)
        if stored is None:
            stored = augmentation.stored(self.images.decode(row, self.order))
            if stored.nbytes <= self._room:
                self._room -= stored.nbytes
                self._cache[row] = stored
        return stored


def batches(dataset: Dataset[B], start: int, stop: int, *, workers: int, pinned: bool = False) -> Iterator[B]:
    """Batches of steps ``start`` .. ``stop - 1``, prepared by ``workers`` processes (0: by this one).

    Args:
        pinned: see :func:`loaded`.
    """
    return loaded(dataset, range(start, stop), workers=workers, pinned=pinned)


def loaded(dataset: Dataset[T], numbers: Sequence[int], *, workers: int, pinned: bool = False) -> Iterator[T]:
    """``dataset[number]`` of each of the ``numbers``, prepared by ``workers`` processes (0: by this one).

    Nothing is drawn from the run's generators.

    Args:
        pinned: what workers prepared is put into pinned memory, by a thread, for a GPU to fetch.
    """
    if not workers:
        yield from map(dataset.__getitem__, numbers)
        return
    own = torch.Generator()  # a loader draws its workers' seeds, which nobody here uses, from torch's own otherwise
    loader = DataLoader(
        dataset,
        batch_size=None,
        sampler=numbers,
        num_workers=workers,
        worker_init_fn=_one_cv2_thread,
        generator=own,
        pin_memory=pinned,
    )
    with _no_cv2_pool():
        running = iter(loader)  # starts the processes
    yield from running


@contextlib.contextmanager
def _no_cv2_pool() -> Iterator[None]:
    """OpenCV's pool of threads is taken down within the block.

    A forked process has the pool's state but not its threads. If it changes their number, as one process of many must,
    OpenCV waits for ever for a thread that is not there to wake up.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(threads)


def _one_cv2_thread(worker: int) -> None:
    if cv2.getNumThreads() != 1:  # started anew instead of forked; else every worker would have a thread for every core
        cv2.setNumThreads(1)
