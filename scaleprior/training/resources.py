"""Whether a run has room: on the disk for what it writes, in memory for what it certainly holds.

Only what cannot be smaller counts: parameters, their gradients and the optimiser's state, the maps that exist at one
time. So "it does not fit" is certain, and that it fits is never said.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.checking import CheckReport, Finding
from scaleprior.errors import UserError
from scaleprior.training.device import resolve_device
from scaleprior.wording import bytes_in_words, parameter

__all__ = ["Needs", "bytes_in_words", "check_disk", "check_memory", "map_bytes", "parameter_bytes", "training_bytes"]

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")  # version 2, as a container sees its own


@dataclass(frozen=True)
class Needs:
    """Bytes that a run takes.

    Attributes:
        left: on the disk, when it is done.
        peak: on the disk at one time, with a checkpoint that is written beside the one before it.
        memory: at least. of: what that counts, for people.
    """

    left: int
    peak: int
    memory: int
    of: str


def parameter_bytes(model: nn.Module) -> int:
    """Of a model's parameters and buffers in a file; it may lie on torch's meta device."""
    return sum(t.numel() * t.element_size() for t in model.state_dict().values())


def training_bytes(model: nn.Module, *, slots: int) -> int:
    """Of a model in training: parameters and buffers, gradients of what is trained, and the optimiser's state.

    Args:
        slots: numbers that the optimiser keeps for each parameter.
    """
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return parameter_bytes(model) + (1 + slots) * trained


def map_bytes(spec: TrunkSpec, pixels: int, maps: Iterable[str], *, half: bool = False) -> int:
    """Of an image's float32 pixels and of those maps of the trunk that exist at one time.

    Args:
        pixels: of the image, height times width.
        maps: "res2" to "res5". half: the maps are in 16 bits.
    """
    values = sum(spec.out_channels[name] * pixels // 4 ** int(name[-1]) for name in maps)
    return 12 * pixels + values * (2 if half else 4)


def check_disk(report: CheckReport, out: str | Path, *, least: int, most: int) -> None:
    """Hold the free space where ``out`` is, or will be, against what a run writes there.

    Args:
        least: bytes that it leaves. most: that it has at one time, with files that are written beside older ones.
    """
    place = Path(out).absolute()
    while not place.exists():
        place = place.parent
    usage = shutil.disk_usage(place)
    if not usage.total:  # no disk at all, such as /proc: whether it can be written shows soon enough
        return
    free = usage.free
    needs = f"{out} will hold {bytes_in_words(least)} at the end"
    needs += f", and up to {bytes_in_words(most)} on the way" if most > least else ""
    report.facts["disk"] = f"{bytes_in_words(free)} are free; {needs} (an estimate from the number of parameters)"
    if free < most:
        what = f"{needs} (estimated), but {bytes_in_words(free)} are free there"
        hint = f"free space, or choose another {parameter('out')}"
        report.add(Finding("disk", what, hint=hint, stops=free < least))


def check_memory(report: CheckReport, device: str, least: int, *, of: str) -> None:
    """Hold the memory of ``device`` against what a run holds at least.

    It would stop at what is more than the device has; more than is free now is only said.

    Args:
        device: as ``MODEL.DEVICE`` says it.
        of: what ``least`` bytes are counted of, for people.
    """
    try:
        kind = resolve_device(device)
    except UserError as e:
        report.add(Finding("device", e.wording.marked))
        return
    found = torch.cuda.mem_get_info(kind) if kind.type == "cuda" else _main_memory()
    if found is None:
        return
    free, total = found
    needs = f"at least {bytes_in_words(least)} of memory, counting {of} only"
    report.facts["memory"] = f"{needs}; {kind} has {bytes_in_words(total)}, of which {bytes_in_words(free)} are free"
    if least > free:
        what = f"the run needs {needs}; {kind} has {bytes_in_words(total)}, {bytes_in_words(free)} of them free"
        hint = "take smaller batches or images, or free memory"
        report.add(Finding("memory", what, hint=hint, stops=least > total))


def _main_memory() -> tuple[int, int] | None:
    """(free, total) bytes for this process, within its container's limit; None where the system does not say."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        free, total = (int(lines[name].split()[0]) * 1024 for name in ("MemAvailable", "MemTotal"))
    except (OSError, ValueError, KeyError, IndexError):
        try:
            total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        except (ValueError, OSError, AttributeError):
            return None
        return total, total
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        files = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= int(files.get("inactive_file", 0))  # what the system gives back when it is asked
    except (OSError, ValueError):
        return free, total
    return min(free, max(limit - used, 0)), min(total, limit)
