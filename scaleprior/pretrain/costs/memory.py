"""The most memory that a stretch of a program takes, as the device or the system counts it."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

import torch

__all__ = ["MemoryGauge"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class MemoryGauge:
    """Counts from where it is made.

    On a GPU the allocator's peak. On the CPU the growth of the process' resident memory, loader processes not counted;
    where the system (Linux does) cannot forget an earlier peak, what does not go beyond that one does not show.

    Args:
        device: whose memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
            return
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # "VmHWM is from now on", proc(5)
        self._start = _resident("VmRSS") or _peak()

    @property
    def peak(self) -> int:
        """Bytes, so far."""
        if self._device.type == "cuda":
            return torch.cuda.max_memory_reserved(self._device)
        return max((_resident("VmHWM") or _peak()) - self._start, 0)


def _resident(name: str) -> int | None:
    """A line of the process' status in bytes; None where there is no such file."""
    try:
        lines = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return int(lines[name].split()[0]) * 1024
    except (OSError, KeyError, ValueError, IndexError):
        return None


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
