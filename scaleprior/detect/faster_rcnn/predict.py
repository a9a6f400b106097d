"""The loop that turns images into detections: decoded ahead of the network, in batches of one shape."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.store.images import ImageStore
from scaleprior.detect.data.store.room import Room
from scaleprior.detect.data.transforms import resized_shape
from scaleprior.detect.faster_rcnn.found import Found, Leaving
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections
from scaleprior.progress import ProgressFn
from scaleprior.training.memory import OutOfMemory, memory_that_ran_out

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["BatchLimits", "predict"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BatchLimits:
    """Of a batch at evaluation; they bound memory.

    A GPU takes twice as much at once as a CPU: a batch of small images is over in less time than its launches take, so
    that more images in it are free there, while a CPU is busy with a single one, and its caches hold less of several.
    The second stage sets the bound: C4's head pools 1000 regions an image, 512 channels at 14 x 14 and 2048 at 7 x 7,
    0.8 GB in float32, and its layers hold two to three times that. More than four images of 800 x 1200 save nothing.

    Attributes:
        images: at most. pixels: of all images together, unless one alone has more.
    """

    images: int = 8
    pixels: int = 8 * 512**2

    @classmethod
    def on(cls, device: torch.device, cfg: CfgNode) -> BatchLimits:
        """For the detector of ``cfg`` on ``device``."""
        if device.type != "cuda":
            return cls()
        pools_maps = cfg.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"
        return cls(images=8 if pools_maps else 16, pixels=2 * cls.pixels)


_ON_CPU = BatchLimits()


def predict(
    model: Detector,
    data: DetectionSet,
    *,
    order: str,
    short: int,
    longest: int,
    limits: BatchLimits = _ON_CPU,
    threads: int = 0,
    cache_bytes: int = 0,
    strict: bool = False,
    room: Room | None = None,
    share: tuple[int, int] = (0, 1),
    progress: ProgressFn | None = None,
) -> Found:
    """Detections of the images of ``data``, in the order of its records.

    Batches are the same whatever the number of processes, and each is computed by one process whole, so that the
    detections of all shares together are to the bit those of one process.

    Args:
        order: "RGB" or "BGR".
        short, longest: limits of the resized image's sides (``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``).
        threads: decode and resize images ahead of the network, and make rows of what it found behind it.
        cache_bytes: how much of the decoded images to keep, for a later call.
        strict: refuse images that are out of order without harm to their pixels.
        room: for decoded images on the disk, shared by all processes.
        share: (r, P): batches r, r + P, ... only.
        progress: told how many images of the whole set are done, as if all processes were equally far.

    Raises:
        UserError: an image is missing, damaged, or not of the size that the annotations say.
    """
    store = ImageStore(data, order=order, cache_bytes=cache_bytes, strict=strict, room=room)
    rank, processes = share
    batches = list(_batches(data, short, longest, limits))[rank::processes]
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))

    def load(indices: Sequence[int]) -> Tensor:
        return _stacked([store.load(i, short, longest, keep=True) for i in indices], pinned=device.type == "cuda")

    parts: list[Future[Found]] = []
    done, of_share = 0, sum(map(len, batches))
    try:
        with _evaluating(model), _workers(threads) as pool:
            for indices, images in _ahead(pool, load, batches, depth=threads):
                shape = (images.shape[2], images.shape[3])
                # on the stream of the network: 50 MB of 16 images take 2 ms of a GPU's time, the network a hundred
                found = _detected(model, images.to(device, non_blocking=True), shape)
                leaving = Leaving(indices, found, shape)
                parts.append(pool.submit(leaving.found, data))
                if len(parts) > threads + 1:
                    parts[-threads - 2].result()  # until then its masks lie on the device
                done += len(indices)
                if progress is not None:
                    progress(round(done / of_share * len(data)), len(data), {})
            return Found.joined([part.result() for part in parts])
    finally:
        store.report()


def _detected(model: Detector, images: Tensor, shape: tuple[int, int]) -> list[Detections]:
    """Of each of ``images``, which are of one shape; in halves where others leave too little memory for all.

    Raises:
        OutOfMemory: for a single image.
    """
    try:
        return cast("list[Detections]", model(images, [shape] * len(images)))
    except (RuntimeError, MemoryError) as e:
        whose = memory_that_ran_out(e)
        if whose is None:
            raise
        if len(images) == 1:
            raise OutOfMemory(
                f"memory ran out over the detections of one image of {shape[0]} x {shape[1]}",
                hint="lower INPUT.MIN_SIZE_TEST or MODEL.RPN.POST_NMS_TOPK_TEST, or leave more of it to this program",
                memory=whose,
            ) from e
        logger.warning("%d images of %d x %d do not fit into memory at once", len(images), *shape)
    # behind the handler, which holds what was computed so far
    half = len(images) // 2
    return [*_detected(model, images[:half], shape), *_detected(model, images[half:], shape)]


@contextlib.contextmanager
def _evaluating(model: torch.nn.Module) -> Iterator[None]:
    """``model`` as it is evaluated, and afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)


class _AtOnce(Executor):
    """No threads: what is submitted is done."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


@contextlib.contextmanager
def _workers(threads: int) -> Iterator[Executor]:
    """So many threads, which end with the block and leave undone what is waiting then."""
    pool = ThreadPoolExecutor(threads) if threads else _AtOnce()
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _ahead(
    pool: Executor, load: Callable[[Sequence[int]], Tensor], batches: Sequence[list[int]], *, depth: int
) -> Iterator[tuple[list[int], Tensor]]:
    """Batches with their images, of which ``depth`` are loaded while one is looked at."""
    waiting: deque[tuple[list[int], Future[Tensor]]] = deque()
    for indices in batches:
        waiting.append((indices, pool.submit(load, indices)))
        if len(waiting) > depth:
            first, images = waiting.popleft()
            yield first, images.result()
    for indices, images in waiting:
        yield indices, images.result()


def _stacked(images: Sequence[Tensor], *, pinned: bool) -> Tensor:
    """uint8 [N, 3, H, W]; in memory that a GPU copies from without the host's help, where ``pinned``."""
    batch = torch.empty((len(images), *images[0].shape), dtype=torch.uint8, pin_memory=pinned)
    return torch.stack(list(images), out=batch)


def _batches(data: DetectionSet, short: int, longest: int, limits: BatchLimits) -> Iterator[list[int]]:
    """Images of one shape together: no padding, so an image's features do not depend on its neighbours."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, record in enumerate(data.records):
        groups.setdefault(resized_shape(record.height, record.width, short, longest), []).append(index)
    for (height, width), indices in groups.items():
        size = max(1, min(limits.images, limits.pixels // (height * width)))
        yield from (indices[i : i + size] for i in range(0, len(indices), size))
