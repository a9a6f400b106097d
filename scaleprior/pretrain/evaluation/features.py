"""What a trunk sees in a set of images: the pooled vectors of their central crops, in evaluation mode.

N images, F features, W processes. Each process goes through its share of the batches; afterwards all have all vectors.
The same vectors come out, to the bit, for any number of processes and workers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, distributed

from scaleprior.errors import FailureError
from scaleprior.training.signals import Interrupted, StopRequest

if TYPE_CHECKING:
    from scaleprior.pretrain.evaluation.crops import CropShare
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.training.processes import ProcessGroup

__all__ = ["Features", "evaluating", "gathered", "pooled_features"]


@dataclass(frozen=True)
class Features:
    """Vectors of the images that could be read.

    Attributes:
        values: float32 [N, F], on the processes' device. rows: of the set, int64 [N] on the CPU, ascending.
        unreadable: images that could not be read.
    """

    values: Tensor
    rows: Tensor
    unreadable: int


def pooled_features(
    model: Pretrainer, share: CropShare, processes: ProcessGroup, *, stop: StopRequest | None = None
) -> Features:
    """The vectors of all images of ``share``'s set; every process calls this.

    The model comes back as it was: weights, running statistics, modes. No generator is drawn from.

    Args:
        stop: of this process; looked at before every batch.

    Raises:
        FailureError: no image can be read. Interrupted: a process was asked to stop; in all of them.
    """
    stop = stop or StopRequest()
    values, rows, unreadable = [], [], 0
    with evaluating(model, processes), torch.inference_mode():
        for batch in share:
            if stop.requested:
                break
            unreadable += batch.unreadable
            if len(batch.rows):
                crops = batch.crops.to(processes.device, non_blocking=True)
                values.append(model.features(crops).float())
                rows.append(batch.rows)
    own = [0] * processes.size
    own[processes.rank] = sum(map(len, rows))
    *counts, missing, stopped = (round(number) for number in processes.sum(*own, unreadable, stop.requested))
    if stopped:
        raise Interrupted(f"stopped by SIGTERM before all {share.name} images were looked at")
    if not sum(counts):
        said = f"none of the {len(share.images)} {share.name} images can be read"
        raise FailureError(said, hint=f"check {share.key}")
    width = model.trunk.arch.out_channels["res5"]
    found = torch.cat(values) if values else torch.empty(0, width, dtype=torch.float32, device=processes.device)
    of_rows = torch.cat(rows) if rows else torch.empty(0, dtype=torch.int64)
    of_rows = gathered(of_rows.to(processes.device), counts)
    order = torch.argsort(of_rows)
    return Features(gathered(found, counts)[order], of_rows[order].cpu(), missing)


@contextlib.contextmanager
def evaluating(model: Pretrainer, processes: ProcessGroup) -> Iterator[None]:
    """Evaluation mode within the block, with the main process' running statistics, which are those that are saved."""
    modes = {module: module.training for module in model.modules()}
    buffers = [buffer for buffer in model.buffers() if processes.size > 1]
    own = [buffer.clone() for buffer in buffers]
    model.eval()
    try:
        for buffer in buffers:
            distributed.broadcast(buffer, 0)
        yield
    finally:
        for buffer, before in zip(buffers, own):
            buffer.copy_(before)
        for module, training in modes.items():
            module.training = training


def gathered(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The processes' ``values``, [counts[r], ...] of process r, one after the other; every process calls this."""
    if len(counts) == 1:
        return values
    padded = values.new_zeros((max(counts), *values.shape[1:]))
    padded[: len(values)] = values
    parts = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(parts, padded)
    return torch.cat([part[:count] for part, count in zip(parts, counts)])
