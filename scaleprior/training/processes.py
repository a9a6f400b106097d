"""One or many processes: torchrun's environment, and sums over all processes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import distributed

from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["ProcessGroup", "join_processes", "place_in_group"]


@dataclass(frozen=True)
class ProcessGroup:
    """This process among ``size``.

    Attributes:
        rank: 0 .. size - 1; 0 writes all files.
        size: how many processes train together.
        device: of this process.
    """

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """This process writes."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Sums over all processes of each number, in float64; every process has to call it."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return total.tolist()

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self.size > 1:
            distributed.barrier()


def place_in_group() -> tuple[int, int]:
    """(rank, size) of this process among those that :func:`join_processes` would join, without waiting for them."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def join_processes(device: torch.device) -> Iterator[ProcessGroup]:
    """The processes that torchrun (or ``torch.multiprocessing`` with its environment variables) started.

    A process group that exists already is used and left alone; otherwise, where WORLD_SIZE is above 1, one is made
    (nccl on GPUs, gloo on CPUs) and taken down at the end.

    Raises:
        UserError: the group that exists is for GPUs only, and ``device`` is the CPU.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if distributed.is_available() and distributed.is_initialized():
        if distributed.get_backend() == "nccl" and device.type == "cpu":
            raise UserError(
                "MODEL.DEVICE is cpu, but the processes were started for GPUs",
                hint=f"take one process, or {parameter('runtime', 'plain')}, which starts them for the CPU",
            )
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)
        return
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        yield ProcessGroup(0, 1, device)
        return
    distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device)
    finally:
        distributed.destroy_process_group()
