"""Processes that are forked from a server which has already imported torch, so that one starts in milliseconds.

Each still has a fate of its own: one that crashes takes no other with it, and none outlives its parent.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.process import BaseProcess
from typing import Any

__all__ = ["fork", "stop"]

_GRACE_SECONDS = 20.0
_DESCRIPTORS = 8  # that the start of a process takes at most: two pipes, a connection, and what watches over them


def fork(target: Callable[..., None], *args: Any, name: str, gpu: str | None = None) -> BaseProcess:
    """Start ``target(*args)``, which has to be a function of a module.

    Args:
        gpu: for CUDA_VISIBLE_DEVICES; None leaves the variable as it is.

    Raises:
        OSError: there are no descriptors for it.
    """
    _check_descriptors()
    process = _server().Process(target=_begin, args=(target, args, gpu), name=name)
    with _program_left_out():
        process.start()
    return process


def stop(processes: Sequence[BaseProcess]) -> None:
    """SIGTERM, so that cells save their state; SIGKILL for one that does not end in time."""
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(_GRACE_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _check_descriptors() -> None:
    """A start that broke off for want of one would end the server, and with it what is known of all its processes."""
    taken: list[int] = []
    try:
        for _ in range(_DESCRIPTORS):
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    finally:
        for handle in taken:
            os.close(handle)


@functools.cache
def _server() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["scaleprior.study.worker"])
    return context


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


def _begin(target: Callable[..., None], args: Sequence[Any], gpu: str | None) -> None:
    """The life of a process."""
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu  # before the first CUDA call of this process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the runner, which stops us with SIGTERM
    _die_with_parent()
    target(*args)


def _die_with_parent() -> None:
    """No orphan trains on when the runner is killed: nobody would read its result, and a rerun would race it."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()
