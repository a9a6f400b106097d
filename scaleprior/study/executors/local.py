"""Runs cells in processes of this machine, a few at a time."""

from __future__ import annotations

import contextlib
import multiprocessing.connection
import os
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

from scaleprior.errors import UserError
from scaleprior.study.executors.admission import Admission, Attempt, Place
from scaleprior.study.executors.devices import Devices, VisibleDevices
from scaleprior.study.executors.forking import fork, stop
from scaleprior.study.executors.room import Room
from scaleprior.study.sharing import MEMORY_FILE, SHARING_FILE, Sharing
from scaleprior.wording import one_line, parameter

__all__ = ["LocalExecutor", "available_cores"]

_POLL_SECONDS = 0.25
_MACHINE = "this machine"


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Up to ``jobs`` cells at once, spread over the GPUs where there are any.

    A cell that runs out of memory beside others is run again alone; see ``admission``.

    Args:
        jobs: cells at a time; by default one a GPU, or as many as the cores allow.
        threads: CPU threads of one cell.
        gpus: CUDA devices to spread them over, by default all; 0 leaves the device to each cell's config.
        jobs_per_gpu: in place of ``jobs``: cells at a time on each GPU; "auto": as many as its memory, its utilisation
            and the cores leave room for, found out while they run.
        devices: who is asked for GPUs; by default those that this process may use.

    Raises:
        UserError: one of the numbers is no whole number, or too small; more GPUs than are here; ``jobs_per_gpu`` beside
            ``jobs``, or without a GPU.
        FailureError: a GPU cannot be asked for its memory.
    """

    def __init__(
        self,
        *,
        jobs: int | None = None,
        threads: int = 1,
        gpus: int | None = None,
        jobs_per_gpu: int | Literal["auto"] | None = None,
        devices: Devices | None = None,
    ) -> None:
        _check_count(parameter("jobs"), jobs, least=1)
        _check_count(parameter("threads"), threads, least=1)
        _check_count("executor local: gpus", gpus, least=0)
        if jobs_per_gpu != "auto":
            _check_count(parameter("jobs_per_gpu"), jobs_per_gpu, least=1, or_else=", or auto")
        self._devices: Devices = devices or VisibleDevices()
        names = self._devices.names() if gpus != 0 else ()
        if gpus is not None and gpus > len(names):
            raise UserError(f"executor local: gpus is {gpus}, and {len(names)} are here", hint="take fewer, or none: 0")
        names = names[:gpus]
        if jobs_per_gpu is not None:
            _check_per_gpu(jobs_per_gpu, jobs, len(names))
        cores = max(1, available_cores() // threads)
        self.gpus: int = len(names)
        self.jobs: int
        if jobs_per_gpu is None:
            self.jobs = jobs or len(names) or cores
        else:
            self.jobs = max(cores, len(names)) if jobs_per_gpu == "auto" else jobs_per_gpu * len(names)
        self._places = _places(names, self.jobs, probed=jobs_per_gpu == "auto")
        self._room = Room(self._places, self._devices) if jobs_per_gpu == "auto" else None

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        """See ``executor.Executor.run``."""
        cells = Admission(self._places, folders, most=self.jobs, rooms=self._room)
        processes: dict[Attempt, BaseProcess] = {}
        try:
            while not cells.done:
                unstarted: list[Path] = []
                for attempt in cells.begin():
                    on_start(attempt.folder)
                    try:
                        processes[attempt] = _start(attempt)
                    except (OSError, EOFError) as e:  # no descriptors or processes left, or no server that forks
                        if not cells.refuse(attempt, one_line(e)):
                            unstarted.append(attempt.folder)
                        continue
                    _tell(attempt.place)
                yield from ((folder, 1) for folder in unstarted)
                multiprocessing.connection.wait([p.sentinel for p in processes.values()], timeout=_POLL_SECONDS)
                on_poll()
                if self._room is not None:
                    self._room.observe(len(cells.waiting))
                for attempt in [attempt for attempt, process in processes.items() if not process.is_alive()]:
                    code = _code(processes.pop(attempt))
                    if self._room is not None:
                        self._room.forget(attempt)
                    again = cells.end(attempt, code)
                    _clear(attempt.folder)
                    _tell(attempt.place)
                    if not again:
                        yield attempt.folder, code
        finally:
            stop(list(processes.values()))
            for place in self._places:
                place.running.clear()


def _check_count(what: str, value: Any, *, least: int, or_else: str = "") -> None:
    """None is for the executor to choose."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise UserError(f"{what} is {value!r}", hint=f"give a whole number of at least {least}{or_else}")


def _check_per_gpu(jobs_per_gpu: int | str, jobs: int | None, gpus: int) -> None:
    given = f"{parameter('jobs_per_gpu')} is {jobs_per_gpu}"
    if jobs is not None:
        raise UserError(
            f"{given} beside {parameter('jobs')}, which is {jobs}",
            hint="give one of them: cells at a time on each GPU, or in all",
        )
    if not gpus:
        raise UserError(f"{given}, and no GPU is used here", hint=f"give {parameter('jobs')}: cells at a time in all")


def _places(names: Sequence[str], jobs: int, *, probed: bool) -> list[Place]:
    """The GPUs with their shares of ``jobs``, or the machine."""
    if not names:
        return [Place(_MACHINE, None, jobs, jobs)]
    titles = [name if name.isdecimal() else str(n) for n, name in enumerate(names)]  # a UUID says nothing to people
    shares = [jobs // len(names) + (n < jobs % len(names)) for n in range(len(names))]
    if probed:
        return [Place(f"GPU {title}", name, 1, jobs) for title, name in zip(titles, names)]
    return [Place(f"GPU {title}", name, most, most) for title, name, most in zip(titles, names, shares) if most]


def _tell(place: Place) -> None:
    """Say to every cell of a place how many they are."""
    for attempt in place.running:
        Sharing(place.name, len(place.running)).save(attempt.folder)


def _start(attempt: Attempt) -> BaseProcess:
    _clear(attempt.folder)  # of an attempt whose runner was killed
    return fork(_cell, str(attempt.folder), name=attempt.folder.name, gpu=attempt.place.device)


def _clear(folder: Path) -> None:
    for name in (SHARING_FILE, MEMORY_FILE):
        with contextlib.suppress(OSError):  # not there; or on a disk that takes nothing any more
            (folder / name).unlink()


def _cell(folder: str) -> None:
    from scaleprior.study.worker import run_cell

    raise SystemExit(run_cell(Path(folder)))


def _code(process: BaseProcess) -> int:
    process.join()
    assert process.exitcode is not None
    return process.exitcode
