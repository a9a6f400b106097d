"""Start the processes of one machine, as Detectron2's ``launch`` does: ``--num-gpus N --dist-url tcp://HOST:PORT``.

:func:`supervise` is the part that does not depend on who starts them: signals go down, errors come up.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
from torch.multiprocessing import ProcessExitedException, ProcessRaisedException, spawn

from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.files import write_text
from scaleprior.training.agreement import error_of
from scaleprior.training.lost import LostProcess, lost_process
from scaleprior.training.signals import Interrupted
from scaleprior.wording import parameter

__all__ = ["check_counts", "check_gpus", "launch", "supervise"]

_HEAD_START = 1.0
"""Seconds between the loss of a process and the end of those that noticed, so that who waits for the first to end sees
what became of that one. If it does not, its line is theirs, which is less telling."""


def launch(
    work: Callable[..., None],
    args: tuple[Any, ...],
    *,
    processes: int,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> None:
    """Call ``work(*args)`` in ``processes`` new processes with torchrun's environment variables set; in this one if
    one process is all there is.

    Args:
        work: a module-level function, since new processes import it.
        dist_url: "tcp://HOST:PORT" of machine 0, or "auto": a free port of this machine.

    Raises:
        UserError: numbers or a URL that make no sense.
        ScalePriorError: as ``work`` raised it; with several processes see :func:`supervise`.
    """
    check_counts(processes, machines, machine_rank, dist_url)
    if processes * machines == 1:
        work(*args)
        return
    host, port = _meeting_point(dist_url)
    settings = (processes, machines, machine_rank, host, port)
    supervise(lambda guarded: spawn(_run, (settings, guarded, args), nprocs=processes), work)


def check_counts(processes: int, machines: int, machine_rank: int, dist_url: str) -> None:
    """Raises UserError for numbers of processes and machines that make no sense, here or under torchrun."""
    local, hosts = parameter("processes", option="num_gpus"), parameter("machines", option="num_machines")
    if processes < 1 or machines < 1 or not 0 <= machine_rank < machines:
        raise UserError(
            f"{processes} processes on machine {machine_rank} of {machines}",
            hint=f"give {local} and {hosts} of at least 1 and a {parameter('machine_rank')} below {hosts}",
        )
    if machines > 1 and dist_url == "auto":
        raise UserError(
            f"{parameter('dist_url', 'auto')} works on one machine only", hint="give tcp://HOST:PORT of machine 0"
        )
    if processes * machines > 1 and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise UserError(
            f"{processes * machines} processes are asked for inside a process that torchrun started",
            hint=f"under torchrun leave {local} and {hosts} at 1",
        )


def check_gpus(device: str, processes: int) -> None:
    """Refuse several processes of one machine that would not have a GPU each.

    Args:
        device: MODEL.DEVICE; only "cpu" is meant for processes without one.

    Raises:
        UserError: there are fewer, or ``device`` names one.
    """
    kind, _, number = device.partition(":")
    if processes == 1 or kind == "cpu":
        return
    asked, there = parameter("processes", option="num_gpus"), torch.cuda.device_count()
    if number:
        raise UserError(
            f"MODEL.DEVICE is {device!r} and {asked} {processes}: they would have one GPU between them",
            hint=f"take MODEL.DEVICE {kind}, and choose GPUs by CUDA_VISIBLE_DEVICES",
        )
    if processes > there:
        raise UserError(
            f"{asked} is {processes}, there are {there} GPUs here",
            hint="to try several processes on the CPU use MODEL.DEVICE cpu",
        )


def supervise(start: Callable[[Callable[..., None]], object], work: Callable[..., None]) -> None:
    """Call ``start(guarded)``, which starts processes by torch.multiprocessing, has each call ``guarded(*args)``, that
    is ``work(*args)``, and waits for them. SIGTERM is passed on to them meanwhile.

    Raises:
        ScalePriorError: of the kind and with the text that ``work`` raised in the first process that failed.
        Interrupted: SIGTERM came before the processes listened. FailureError: another signal ended one.
        ProcessRaisedException: a process had an error that is not ours; holds its traceback.
    """
    logging.getLogger("torch.multiprocessing.spawn").setLevel(logging.ERROR)  # it tells of each process it ends
    with tempfile.TemporaryDirectory(prefix="scaleprior-") as folder, _sigterm_to_children():
        try:
            start(_Guarded(work, folder))
        except (ProcessExitedException, ProcessRaisedException) as e:
            said = _first_words(Path(folder), e.error_pid)
            if said is not None:
                code, text = said.split(" ", 1)
                raise error_of(int(code), text) from None
            if isinstance(e, ProcessRaisedException):
                raise
            if e.exit_code == -signal.SIGTERM:
                raise Interrupted("stopped by SIGTERM before training began") from None
            raise FailureError(
                str(e), hint=f"if memory ran out take smaller batches; {parameter('resume', True)} goes on"
            ) from e


@dataclass(frozen=True)
class _Guarded:
    """``work`` that leaves the text of its error, for one line in the parent instead of a traceback in each child."""

    work: Callable[..., None]
    folder: str

    def __call__(self, *args: Any) -> None:
        try:
            self.work(*args)
        except LostProcess as e:
            self._leave_after_the_lost(e)
        except ScalePriorError as e:
            self._leave(e, "said")
        except RuntimeError as e:  # of work that joins no processes itself, as Detectron2's training
            lost = lost_process(e)
            if lost is None:
                raise
            self._leave_after_the_lost(lost)

    def _leave_after_the_lost(self, error: LostProcess) -> NoReturn:
        time.sleep(_HEAD_START)
        self._leave(error, "lost")

    def _leave(self, error: ScalePriorError, kind: str) -> NoReturn:
        write_text(
            Path(self.folder) / f"{kind}-{os.getpid()}", f"{error.exit_code} {error.wording.marked}", durable=False
        )
        sys.exit(error.exit_code)


def _first_words(folder: Path, pid: int) -> str | None:
    """What the process said; else what another one did: a crash here may follow from an error there.

    That another one has lost this process says nothing of it.
    """
    words = {path.name: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*-*"))}
    others = (text for name, text in words.items() if name.startswith("said-"))
    return words.get(f"said-{pid}") or next(others, None) or words.get(f"lost-{pid}")


@contextlib.contextmanager
def _sigterm_to_children() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def pass_on(signum: int, frame: object) -> None:
        for child in multiprocessing.active_children():
            child.terminate()

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)


def _meeting_point(dist_url: str) -> tuple[str, int]:
    if dist_url != "auto":
        url = urlsplit(dist_url)
        if url.scheme != "tcp" or not url.hostname or not url.port:
            raise UserError(f"{parameter('dist_url')} is {dist_url!r}", hint="give tcp://HOST:PORT")
        return url.hostname, url.port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return "127.0.0.1", probe.getsockname()[1]


def _run(local_rank: int, settings: tuple[int, int, int, str, int], work: Callable[..., None], args: tuple) -> None:
    processes, machines, machine_rank, host, port = settings
    os.environ.update(
        RANK=str(machine_rank * processes + local_rank),
        LOCAL_RANK=str(local_rank),
        WORLD_SIZE=str(processes * machines),
        MASTER_ADDR=host,
        MASTER_PORT=str(port),
    )
    work(*args)
