"""Runs cells in processes of this machine, a few at a time.

Processes are forked from a server that has already imported torch, so a cell starts in milliseconds and still has a
process, a random state and a fate of its own: one that crashes takes no other with it.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.wording import parameter

__all__ = ["LocalExecutor", "available_cores"]

_POLL_SECONDS = 0.25
_GRACE_SECONDS = 20.0


def available_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class LocalExecutor:
    """Up to ``jobs`` cells at once.

    Args:
        jobs: cells at a time; by default one a GPU, or as many as the cores allow.
        threads: CPU threads of one cell.
        gpus: CUDA devices to spread them over, by default all; 0 leaves the device to each cell's config.

    Raises:
        UserError: one of them is no whole number, or fewer than one job or thread, or than no device.
    """

    def __init__(self, *, jobs: int | None = None, threads: int = 1, gpus: int | None = None) -> None:
        _check_count(parameter("jobs"), jobs, least=1)
        _check_count(parameter("threads"), threads, least=1)
        _check_count("executor local: gpus", gpus, least=0)
        self.gpus: int = _visible_gpus() if gpus is None else gpus
        self.jobs: int = jobs or self.gpus or max(1, available_cores() // threads)
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["scaleprior.study.worker"])

    def run(
        self, folders: Sequence[Path], *, on_start: Callable[[Path], None], on_poll: Callable[[], None]
    ) -> Iterator[tuple[Path, int]]:
        """See ``executor.Executor.run``."""
        waiting = list(folders)
        running: dict[int, tuple[Any, Path]] = {}  # slot -> (process, folder)
        try:
            while waiting or running:
                for slot in range(self.jobs):
                    if slot not in running and waiting:
                        folder = waiting.pop(0)
                        on_start(folder)
                        running[slot] = (self._start(folder, slot), folder)
                multiprocessing.connection.wait([p.sentinel for p, _ in running.values()], timeout=_POLL_SECONDS)
                on_poll()
                for slot in [s for s, (p, _) in running.items() if not p.is_alive()]:
                    process, folder = running.pop(slot)
                    process.join()
                    yield folder, process.exitcode
        finally:
            _stop([p for p, _ in running.values()])

    def _start(self, folder: Path, slot: int) -> Any:
        device = str(slot % self.gpus) if self.gpus else None
        process = self._context.Process(target=_child, args=(str(folder), device), name=folder.name)
        with _program_left_out():
            process.start()
        return process


def _check_count(what: str, value: Any, *, least: int) -> None:
    """None is for the executor to choose."""
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise UserError(f"{what} is {value!r}", hint=f"give a whole number of at least {least}")


@contextlib.contextmanager
def _program_left_out() -> Iterator[None]:
    """Else a new process imports the file of the program that started us, for functions that may live there.

    A cell needs nothing of it, and a script without ``if __name__ == "__main__":`` would begin its study anew in each.
    """
    main = sys.modules["__main__"]
    kept = {name: getattr(main, name, None) for name in ("__file__", "__spec__")}
    try:
        for name in kept:
            setattr(main, name, None)
        yield
    finally:
        for name, value in kept.items():
            setattr(main, name, value)


def _visible_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _child(folder: str, device: str | None) -> None:
    """The life of one cell's process."""
    if device is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = device  # before the first CUDA call of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which stops us with SIGTERM
    _die_with_parent()
    from scaleprior.study.worker import run_cell

    raise SystemExit(run_cell(Path(folder)))


def _die_with_parent() -> None:
    """No orphan trains on when the runner is killed: nobody would read its result, and a rerun would race it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


def _stop(processes: Sequence[Any]) -> None:
    """SIGTERM, so that cells save their state; SIGKILL for one that does not end in time."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
