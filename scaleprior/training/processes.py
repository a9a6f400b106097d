"""One or many processes: torchrun's environment, sums over all processes, and what becomes of all if one is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from scaleprior.errors import UserError
from scaleprior.training.lost import lost_process
from scaleprior.training.meeting import meeting
from scaleprior.wording import parameter

__all__ = ["ProcessGroup", "join_processes", "place_in_group"]

T = TypeVar("T")


@dataclass(frozen=True)
class ProcessGroup:
    """This process among ``size``.

    Attributes:
        rank: 0 .. size - 1; 0 writes all files.
        size: how many processes train together.
        device: of this process.
        joined: they form a group of torch's, be it of one process; without one ``size`` is 1.
        host: the group in which numbers on the host are exchanged; None is torch's default group.
    """

    rank: int
    size: int
    device: torch.device
    joined: bool = False
    host: distributed.ProcessGroup | None = None

    @property
    def main(self) -> bool:
        """This process writes."""
        return self.rank == 0

    def sum(self, *numbers: float) -> list[float]:
        """Sums over all processes of each number, in float64; every process has to call it. No GPU is waited for."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total, group=self.host)
        return total.tolist()

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers; every process has to call it. No GPU is waited for."""
        if self.size == 1:
            return number
        found = torch.tensor(number)
        distributed.all_reduce(found, distributed.ReduceOp.MIN, group=self.host)
        return int(found)

    def from_one(self, value: T, rank: int = 0) -> T:
        """``value`` of the process ``rank``, in every one; every process has to call it. No GPU is waited for."""
        if self.size == 1:
            return value
        values = [value]
        distributed.broadcast_object_list(values, src=rank, group=self.host)
        return values[0]

    def to_main(self, value: T) -> list[T] | None:
        """The values of all processes, by rank, in process 0; None in the others. Every process has to call it."""
        if self.size == 1:
            return [value]
        values: list[Any] | None = [None] * self.size if self.main else None
        distributed.gather_object(value, values, dst=0, group=self.host)
        return values

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Make ``tensor``, on :attr:`device`, the sum over all processes, in place; every process has to call it.

        On a GPU this is one more piece of work behind those that its stream has: the host goes on at once.
        """
        if self.joined:
            distributed.all_reduce(tensor)
        return tensor

    def wait(self) -> None:
        """Wait until every process has come here; not for what their GPUs have to do."""
        if self.size > 1:
            distributed.barrier(group=self.host)


def place_in_group() -> tuple[int, int]:
    """(rank, size) of this process among those that :func:`join_processes` would join, without waiting for them."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


@contextlib.contextmanager
def join_processes(device: torch.device, *, timeout: timedelta | None = None) -> Iterator[ProcessGroup]:
    """The processes that torchrun (or ``torch.multiprocessing`` with its environment variables) started.

    A process group that exists already is used and left alone; otherwise, under torchrun or where WORLD_SIZE is above
    1, one is made (nccl on GPUs, gloo on CPUs) and taken down at the end. Beside nccl there is a gloo group, so that
    what processes have to agree on waits for no GPU.

    Args:
        timeout: for which a process waits for another; None is torch's.

    Raises:
        UserError: the group that exists is for GPUs only, and ``device`` is the CPU.
        LostProcess: within the block, where another process ended or was waited for in vain.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not distributed.is_available() or not (distributed.is_initialized() or _started_by_others()):
        yield ProcessGroup(0, 1, device)
        return
    with _told_of_the_lost():
        group = _existing(device, timeout) if distributed.is_initialized() else _new(device, timeout)
        with group as processes:
            yield processes


def _started_by_others() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1 or distributed.is_torchelastic_launched()


@contextlib.contextmanager
def _told_of_the_lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as e:
        lost = lost_process(e)
        if lost is None or lost is e:
            raise
        raise lost from e


@contextlib.contextmanager
def _existing(device: torch.device, timeout: timedelta | None) -> Iterator[ProcessGroup]:
    nccl = distributed.get_backend() == "nccl"
    if nccl and device.type == "cpu":
        raise UserError(
            "MODEL.DEVICE is cpu, but the processes were started for GPUs",
            hint=f"take one process, or {parameter('runtime', 'plain')}, which starts them for the CPU",
        )
    members = _members(device, beside=nccl, timeout=timeout)
    yield members
    if members.host is not None:  # after an error the others may not be there to take it down with
        distributed.destroy_process_group(members.host)


@contextlib.contextmanager
def _new(device: torch.device, timeout: timedelta | None) -> Iterator[ProcessGroup]:
    nccl = device.type == "cuda"
    distributed.init_process_group("nccl" if nccl else "gloo", timeout=timeout, **meeting(timeout))
    try:
        yield _members(device, beside=nccl, timeout=timeout)
    except BaseException:
        _abandon(nccl=nccl)
        raise
    distributed.destroy_process_group()


def _members(device: torch.device, *, beside: bool, timeout: timedelta | None) -> ProcessGroup:
    host = distributed.new_group(backend="gloo", timeout=timeout) if beside else None
    assert not isinstance(host, int)  # what who is no member gets; all are
    return ProcessGroup(distributed.get_rank(), distributed.get_world_size(), device, joined=True, host=host)


def _abandon(*, nccl: bool) -> None:
    """Take the groups down without the others. NCCL would wait for work on the GPU in which they never took part."""
    from torch.distributed import distributed_c10d

    abort = getattr(distributed_c10d, "_abort_process_group", None) if nccl else None  # not in torch 2.4 and 2.5
    (abort or distributed.destroy_process_group)()
