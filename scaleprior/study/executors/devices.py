"""The GPUs that are here, and what is free of each, asked without taking any of their memory for the runner.

NVML tells memory and utilisation, by NVIDIA's own package (nvidia-ml-py) where it is installed, else by its program
nvidia-smi, which comes with the driver. Where neither answers, as for a part of a GPU (MIG), a process that lives for
the question asks CUDA, which knows of memory alone.
"""

from __future__ import annotations

import importlib
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any, Protocol

from scaleprior.errors import FailureError
from scaleprior.study.executors.forking import fork, stop

__all__ = ["Devices", "Reading", "VisibleDevices", "read_by_cuda", "read_by_nvidia_smi", "read_by_nvml"]

_MIB = 2**20
_ANSWER_SECONDS = 60.0  # the first CUDA call on a busy machine takes seconds; one that hangs is none


@dataclass(frozen=True)
class Reading:
    """Of a GPU at one moment.

    Attributes:
        total, free: bytes.
        utilisation: percent of the last moments (a sixth of a second to a second) in which it computed anything; None
            where nobody tells.
    """

    total: int
    free: int
    utilisation: float | None


class Devices(Protocol):
    """The GPUs of this machine, as an executor asks for them."""

    def names(self) -> Sequence[str]:
        """What CUDA_VISIBLE_DEVICES calls each of them; empty where there is none."""
        ...

    def read(self, name: str) -> Reading:
        """The state of one of them.

        Raises:
            FailureError: it does not answer.
        """
        ...


class VisibleDevices:
    """See :class:`Devices`: those that this process may use.

    As in torch.cuda.utilization, CUDA's numbers are taken for NVML's. On a machine with GPUs of several models that is
    true with CUDA_DEVICE_ORDER=PCI_BUS_ID.
    """

    def names(self) -> Sequence[str]:
        """See ``Devices.names``."""
        import torch

        count = torch.cuda.device_count()
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        # a runner that was given GPUs 2 and 3 hands on those, not the first two of the machine
        return [name.strip() for name in listed.split(",")][:count] if listed else [str(n) for n in range(count)]

    def read(self, name: str) -> Reading:
        """See ``Devices.read``."""
        for ask in (read_by_nvml, read_by_nvidia_smi):
            reading = ask(name)
            if reading is not None:
                return reading
        return read_by_cuda(name)


def read_by_nvml(name: str) -> Reading | None:
    """By the package nvidia-ml-py; None where it is not installed, or does not know this GPU.

    Args:
        name: as CUDA_VISIBLE_DEVICES has it: a number, or the beginning of a UUID.
    """
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return None
    try:
        nvml.nvmlInit()
        handles = [nvml.nvmlDeviceGetHandleByIndex(n) for n in range(nvml.nvmlDeviceGetCount())]
        found = next((h for n, h in enumerate(handles) if _is(name, str(n), nvml.nvmlDeviceGetUUID(h))), None)
        if found is None:
            return None
        memory = nvml.nvmlDeviceGetMemoryInfo(found)
        return Reading(int(memory.total), int(memory.free), _or_none(lambda: _busy(nvml, found), nvml.NVMLError))
    except nvml.NVMLError:
        return None


def _busy(nvml: Any, handle: Any) -> float:
    return float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu)


def _or_none(ask: Callable[[], float], error: type[Exception]) -> float | None:
    try:
        return ask()
    except error:
        return None


def read_by_nvidia_smi(name: str) -> Reading | None:
    """By the program; None where it is not there, or does not know this GPU. See :func:`read_by_nvml`."""
    what = "--query-gpu=index,uuid,memory.total,memory.free,utilization.gpu"
    try:
        told = subprocess.run(
            ["nvidia-smi", what, "--format=csv,noheader,nounits"],
            capture_output=True, text=True, check=True, timeout=_ANSWER_SECONDS,
        ).stdout  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return None
    for line in told.splitlines():
        index, uuid, *numbers = (field.strip() for field in line.split(","))
        if _is(name, index, uuid):
            total, free, busy = (float(number) if number.isdecimal() else None for number in numbers)
            return None if total is None or free is None else Reading(int(total) * _MIB, int(free) * _MIB, busy)
    return None


def _is(name: str, index: str, uuid: str | bytes) -> bool:
    known = uuid.decode() if isinstance(uuid, bytes) else uuid
    return name == index or (name.startswith("GPU-") and known.startswith(name))


def read_by_cuda(name: str) -> Reading:
    """By a process of its own, whose context takes some of the memory while it asks.

    Raises:
        FailureError: it does not answer.
    """
    receiver, sender = Pipe(duplex=False)
    process = fork(_tell, sender, name=f"ask GPU {name}", gpu=name)
    sender.close()
    try:
        if receiver.poll(_ANSWER_SECONDS):
            answer = receiver.recv()
            if isinstance(answer, Reading):
                return answer
            raise FailureError(f"GPU {name} cannot be asked for its memory: {answer}", hint="see nvidia-smi")
    except EOFError:
        pass
    finally:
        stop([process])
        receiver.close()
    raise FailureError(f"GPU {name} cannot be asked for its memory: no answer", hint="see nvidia-smi")


def _tell(sender: Connection) -> None:
    import torch

    try:
        free, total = torch.cuda.mem_get_info(0)
        sender.send(Reading(total, free, None))
    except (RuntimeError, AssertionError) as e:  # an AssertionError: torch without CUDA
        sender.send(" ".join(str(e).split()))
