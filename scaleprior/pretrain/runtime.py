"""What a training process needs around its loop, here and in detect/: device, seeds and SIGTERM."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from scaleprior.errors import FailureError, UserError

__all__ = ["Interrupted", "StopRequest", "catch_sigterm", "resolve_device", "seed_everything"]


class Interrupted(FailureError):
    """The run was asked to stop (SIGTERM), saved its state, and can be resumed."""

    exit_code = 128 + signal.SIGTERM


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


def resolve_device(name: str) -> torch.device:
    """The device ``MODEL.DEVICE`` means: "auto" is cuda where there is one, else cpu.

    A plain "cuda" is the GPU of this process: LOCAL_RANK's under torchrun, else the current one, which Detectron2's
    ``launch`` sets for each process.

    Raises:
        UserError: not a device, cuda where there is none, or a GPU beyond those that are there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise UserError(f"MODEL.DEVICE is {name!r}, which is not a device", hint="take auto, cpu or cuda") from e
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise UserError(f"MODEL.DEVICE is {name!r} but there is no GPU here", hint="take auto or cpu")
        index = device.index
        if index is None:
            index = int(os.environ["LOCAL_RANK"]) if "LOCAL_RANK" in os.environ else torch.cuda.current_device()
        if index >= torch.cuda.device_count():
            raise UserError(
                f"GPU {index} is asked for, but there are {torch.cuda.device_count()} here, counted from 0",
                hint="start as many processes as there are GPUs, or set MODEL.DEVICE",
            )
        return torch.device("cuda", index)
    if device.type != "cpu":
        raise UserError(f"MODEL.DEVICE is {name!r}", hint="take auto, cpu or cuda")
    return device


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's global and torch's generators (CPU and all GPUs); negative counts as 0."""
    seed = max(seed, 0)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that draw from the global generator are meant)
    torch.manual_seed(seed)
