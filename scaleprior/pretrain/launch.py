"""Start the processes of one machine, as Detectron2's ``launch`` does: ``--num-gpus N --dist-url tcp://HOST:PORT``."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import urlsplit

from torch import multiprocessing

from scaleprior.errors import ScalePriorError, UserError

__all__ = ["launch"]


def launch(
    work: Callable[..., None],
    args: tuple[Any, ...],
    *,
    processes: int,
    machines: int = 1,
    machine_rank: int = 0,
    dist_url: str = "auto",
) -> int:
    """Call ``work(*args)`` in ``processes`` new processes with torchrun's environment variables set; in this one if
    one process is all there is.

    Args:
        work: a module-level function, since new processes import it.
        dist_url: "tcp://HOST:PORT" of machine 0, or "auto": a free port of this machine.

    Returns:
        Exit code: 0, or that of the first process that failed. SIGTERM is passed on to all processes.

    Raises:
        UserError: numbers or a URL that make no sense; and, with one process, whatever ``work`` raises.
    """
    if processes < 1 or machines < 1 or not 0 <= machine_rank < machines:
        raise UserError(
            f"{processes} processes on machine {machine_rank} of {machines}",
            hint="give --num-gpus and --num-machines of at least 1 and a --machine-rank below --num-machines",
        )
    if processes * machines == 1:
        work(*args)
        return 0
    host, port = _meeting_point(dist_url, machines)
    settings = (processes, machines, machine_rank, host, port)
    started = multiprocessing.spawn(_run, (settings, work, args), nprocs=processes, join=False)

    def pass_on(signum: int, frame: object) -> None:
        for pid in started.pids():
            os.kill(pid, signum)

    previous = signal.signal(signal.SIGTERM, pass_on)
    try:
        while not started.join():
            pass
    except multiprocessing.ProcessExitedException as e:
        return e.exit_code
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _meeting_point(dist_url: str, machines: int) -> tuple[str, int]:
    if dist_url != "auto":
        url = urlsplit(dist_url)
        if url.scheme != "tcp" or not url.hostname or not url.port:
            raise UserError(f"--dist-url is {dist_url!r}", hint="give tcp://HOST:PORT")
        return url.hostname, url.port
    if machines > 1:
        raise UserError("--dist-url auto works on one machine only", hint="give tcp://HOST:PORT of machine 0")
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
    try:
        work(*args)
    except ScalePriorError as e:
        # One line and the exit code, as in a single process; spawn would print this process' traceback.
        print(f"process {os.environ['RANK']}: error: {e}", file=sys.stderr)
        sys.exit(e.exit_code)
