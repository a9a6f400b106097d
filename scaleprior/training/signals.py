"""SIGTERM between the steps of a run: it saves and ends, and can be resumed."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

from scaleprior.errors import FailureError

__all__ = ["Interrupted", "StopRequest", "catch_sigterm"]


class Interrupted(FailureError):
    """The run was asked to stop (SIGTERM), saved its state, and can be resumed."""

    exit_code: int = 128 + signal.SIGTERM


@dataclass
class StopRequest:
    """Set by the signal handler, read by the loop between steps."""

    requested: bool = False


@contextlib.contextmanager
def catch_sigterm() -> Iterator[StopRequest]:
    """Within the block, SIGTERM sets ``requested`` instead of ending the process; the old handler comes back after.

    Outside the main thread Python allows no handlers; the request then stays False.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return

    def handler(signum: int, frame: object) -> None:
        request.requested = True

    previous = signal.signal(signal.SIGTERM, handler)
    try:
        yield request
    finally:
        signal.signal(signal.SIGTERM, previous if previous is not None else signal.SIG_DFL)
