"""The device that a config means, on this machine and for this process."""

from __future__ import annotations

import os

import torch

from scaleprior.errors import UserError

__all__ = ["resolve_device"]


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
