"""A process that is no longer there: what torch and its backends say of it, as one line that says how to go on."""

from __future__ import annotations

from torch import distributed

from scaleprior.errors import FailureError
from scaleprior.wording import parameter

__all__ = ["LostProcess", "lost_process"]

_LENGTH = 160  # characters of what a backend says; NCCL's account of itself has thousands


class LostProcess(FailureError):
    """Another process of the run ended, or was not heard of for too long."""


def lost_process(error: BaseException) -> LostProcess | None:
    """What ``error`` means if it is of the exchange between processes; None if it is of something else.

    Gloo raises plain RuntimeErrors that begin with the place in its source; NCCL and the store at which processes meet
    raise ``distributed.DistError``.
    """
    text = str(error)
    if not isinstance(error, RuntimeError):
        return None
    if "/gloo/" not in text and not isinstance(error, distributed.DistError):
        return None
    if isinstance(error, LostProcess):
        return error
    said = text.split("] ", 1)[-1] if text.startswith("[") else text
    said = said.split(". This is typically", 1)[0].partition("\n")[0][:_LENGTH].strip() or type(error).__name__
    return LostProcess(
        f"another process was lost: {said}",
        hint="it was ended from outside (out of memory, perhaps), stands still, or its machine is gone; all that was "
        f"saved is whole, and {parameter('resume', True)} goes on from there",
    )
