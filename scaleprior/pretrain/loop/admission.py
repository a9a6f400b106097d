"""Whether a step's images are enough to go on with, and whether anybody was asked to stop; processes agree first."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleprior.errors import FailureError

if TYPE_CHECKING:
    from scaleprior.pretrain.data.batches import LabelledBatch, TrainBatches
    from scaleprior.pretrain.figures.recorder import Counters
    from scaleprior.training.processes import ProcessGroup

__all__ = ["Admission", "Refusal", "admit"]

logger = logging.getLogger(__name__)

_GRACE = 1000  # images read before the share of unreadable ones is judged by itself


@dataclass(frozen=True)
class Admission:
    """What all processes know of a step before it is made.

    Attributes:
        images: readable ones of this step. seen, unreadable: of all steps, with this one.
        stop: somebody was asked to.
        waited: seconds that each process, by rank, waited for its images of this step. Nobody is faster than the one
            that waited longest.
    """

    images: int
    seen: int
    unreadable: int
    stop: bool
    waited: tuple[float, ...]


class Refusal(FailureError):
    """Too many images cannot be read; the steps before are good."""


def admit(
    step: int,
    batch: LabelledBatch,
    dataset: TrainBatches,
    counters: Counters,
    processes: ProcessGroup,
    *,
    limit: float,
    stop: bool,
    waited: float,
) -> Admission:
    """Exchange once what all processes have to know; every one of them calls this before every step.

    Args:
        counters: of the steps before.
        limit: share of unreadable images, in [0, 1], above which the run stops.
        stop: this process was asked to stop.
        waited: seconds that this process waited for ``batch``.

    Raises:
        Refusal: too many images cannot be read, here or on another process.
    """
    for row, reason in batch.unreadable:
        logger.warning("skipped image %r: %s", dataset.images.key(row), reason)
    asked = len(batch) + len(batch.unreadable)
    too_few = len(batch) < min(2, asked)  # BN has no variance of one
    waits = [waited if rank == processes.rank else 0.0 for rank in range(processes.size)]
    sums = processes.sum(len(batch), len(batch.unreadable), float(too_few), float(stop), *waits)
    images = round(sums[0])
    seen, unreadable = counters.images_seen + images, counters.unreadable + round(sums[1])
    read = seen + unreadable
    # Early on a single bad image would be a large share of the few read.
    floor = min(_GRACE, dataset.plan.images)
    hint = "check the corpus' files; their keys are in the log"
    if sums[2]:
        raise Refusal(f"step {step}: {_first_unreadable(batch, dataset, asked)}", hint=hint)
    if unreadable > limit * max(read, floor):
        said = f"{unreadable} of {read} images read so far are unreadable, more than the share "
        raise Refusal(f"{said}{limit:g} that PRETRAIN.LOADER.MAX_UNREADABLE allows", hint=hint)
    return Admission(images, seen, unreadable, sums[3] > 0, tuple(sums[4:]))


def _first_unreadable(batch: LabelledBatch, dataset: TrainBatches, asked: int) -> str:
    if not batch.unreadable:
        return "another process has too few images that can be read"
    row, reason = batch.unreadable[0]
    return f"{len(batch.unreadable)} of {asked} images cannot be read, first {dataset.images.key(row)!r}: {reason}"
