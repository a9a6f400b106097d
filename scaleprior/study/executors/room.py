"""How many cells a GPU has room for, found out while they run.

The first cell of a GPU runs alone until it has been at work for a while. What it takes, what is free and how busy the
GPU is then say how many may work there; the same is asked again whenever so many have been at work for a while. Memory
is planned by the largest peak that cells of the same kind (architecture, arm, with pretraining or without) had, and by
the largest of all for a kind that nobody has measured; a peak still to come may be larger, which is what running again
alone is for. How busy a GPU is counts moments in which it computes anything, so that one which is always at work may
have idle parts left: the number at once rises until it is, and no further.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from scaleprior.study.cell import Cell
from scaleprior.study.executors.admission import Attempt, Place
from scaleprior.study.executors.devices import Devices, Reading
from scaleprior.study.sharing import CellMemory
from scaleprior.wording import bytes_in_words, counted

__all__ = ["Room"]

logger = logging.getLogger(__name__)

_SETTLED_SECONDS = 3.0  # since every cell of the GPU has done a step: its kernels are found, its memory has its size
_SAMPLES, _SAMPLE_SECONDS = 4, 0.5
_ASKING = 0.1  # of the runner's time at most: nvidia-smi takes seconds on some machines
_BUSY = 90.0  # percent
_SPARE = 0.08  # of a GPU's memory: a larger image, a cell's next stage, memory that comes in pieces
_CONTEXT = 2**30  # bytes of a process beside torch's allocator: CUDA's context, kernels, what libraries take

_Kind = tuple[str, str, bool]


@dataclass
class _Seen:
    """What is known of a running cell, and since when (seconds)."""

    memory: CellMemory
    since: float


@dataclass
class _Gpu:
    """What is known of a GPU.

    Attributes:
        busy: samples of utilisation since the cells on it were others. told: cells at once that were last spoken of.
    """

    reading: Reading
    read_at: float
    read_took: float
    busy: list[float | None] = field(default_factory=list)
    cells: tuple[Attempt, ...] = ()
    told: int = 0


class Room:
    """See ``admission.Rooms``: what ``jobs_per_gpu`` of "auto" does.

    Args:
        clock: seconds that never go back.

    Raises:
        FailureError: a GPU does not answer.
    """

    def __init__(
        self, places: Sequence[Place], devices: Devices, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._places = places
        self._devices = devices
        self._clock = clock
        self._peaks: dict[_Kind, int] = {}
        self._kinds: dict[Path, _Kind] = {}
        self._seen: dict[Attempt, _Seen] = {}
        self._gpus = {place.name: self._ask(place) for place in places}

    def fits(self, place: Place, folder: Path) -> bool:
        """See ``admission.Rooms.fits``."""
        if not place.running:
            return True
        need, known = self._need(folder)
        if need is None or (not known and any(attempt not in self._seen for attempt in place.running)):
            return False  # of two that nobody knows, one at a time
        reading = self._reading(place)
        spare = _SPARE * reading.total
        wanted = [self._claim(attempt) for attempt in place.running]
        growth = sum(max(claim - self._now(attempt), 0) for claim, attempt in zip(wanted, place.running))
        # by what the cells may come to, whatever the moment says; and by what is free, which others may have taken from
        return sum(wanted) + need + spare <= reading.total and growth + need + spare <= reading.free

    def observe(self, waiting: int) -> None:
        """Look at all cells and GPUs, and raise the limit of those that have room for more; called all the time.

        Args:
            waiting: cells that could begin.
        """
        now = self._clock()
        for place in self._places:
            gpu = self._gpus[place.name]
            if gpu.cells != tuple(place.running):
                gpu.cells, gpu.busy = tuple(place.running), []
            settled = [self._look(attempt, now) for attempt in place.running]
            if settled and all(settled) and waiting and len(settled) == place.limit < place.ceiling:
                self._sample(place, gpu, now)

    def forget(self, attempt: Attempt) -> None:
        """Note that a cell ended; its peak is remembered."""
        self._look(attempt, self._clock())
        self._seen.pop(attempt, None)

    def _look(self, attempt: Attempt, now: float) -> bool:
        """Whether the cell has been at work for a while."""
        memory = CellMemory.read(attempt.folder)
        if memory is None:
            return False
        kind = self._kind(attempt.folder)
        self._peaks[kind] = max(self._peaks.get(kind, 0), memory.peak)
        seen = self._seen.setdefault(attempt, _Seen(memory, now))
        seen.memory = memory
        return now - seen.since >= _SETTLED_SECONDS

    def _sample(self, place: Place, gpu: _Gpu, now: float) -> None:
        if now - gpu.read_at >= max(_SAMPLE_SECONDS, gpu.read_took / _ASKING):
            gpu.busy.append(self._reading(place, fresh=True).utilisation)
        if len(gpu.busy) < _SAMPLES and not (gpu.busy and gpu.busy[-1] is None):
            return
        known = [percent for percent in gpu.busy if percent is not None]
        busy = sum(known) / len(known) if known else None
        gpu.busy = []
        if busy is None:
            place.limit = place.ceiling  # memory and cores alone say how many
        elif busy < _BUSY:
            place.limit = min(max(place.limit + 1, int(place.limit * _BUSY / max(busy, 1.0))), place.ceiling)
        self._tell(place, gpu, busy)

    def _tell(self, place: Place, gpu: _Gpu, busy: float | None) -> None:
        """One line, where it says something new."""
        peak, total = max(self._peaks.values()), gpu.reading.total
        fitting = max(int((1 - _SPARE) * total / (peak + _CONTEXT)), 1)
        at_once = min(place.limit, fitting)
        if at_once != gpu.told:
            gpu.told = at_once
            took = f"the largest took {bytes_in_words(peak)} of {bytes_in_words(total)}"
            by = "utilisation unknown, for neither nvidia-ml-py nor nvidia-smi answers"
            by = by if busy is None else f"utilisation {busy:.0f} % with {len(place.running)}"
            logger.info("%s: %s at once: %s, %s", place.name, counted(at_once, "cells"), took, by)

    def _need(self, folder: Path) -> tuple[int | None, bool]:
        """Bytes that a cell comes to, and whether its kind was seen; None: no cell was."""
        peak = self._peaks.get(self._kind(folder))
        known = peak is not None
        peak = max(self._peaks.values(), default=None) if peak is None else peak
        return (None if peak is None else peak + _CONTEXT), known

    def _claim(self, attempt: Attempt) -> int:
        return max(self._need(attempt.folder)[0] or 0, self._now(attempt))

    def _now(self, attempt: Attempt) -> int:
        seen = self._seen.get(attempt)
        return 0 if seen is None else seen.memory.now + _CONTEXT

    def _kind(self, folder: Path) -> _Kind:
        if folder not in self._kinds:
            cell = Cell.load(folder)
            self._kinds[folder] = cell.arch, cell.arm, cell.pretrain is not None
        return self._kinds[folder]

    def _reading(self, place: Place, *, fresh: bool = False) -> Reading:
        gpu = self._gpus[place.name]
        if fresh or self._clock() - gpu.read_at >= max(_SAMPLE_SECONDS, gpu.read_took / _ASKING):
            asked = self._ask(place)
            gpu.reading, gpu.read_at, gpu.read_took = asked.reading, asked.read_at, asked.read_took
        return gpu.reading

    def _ask(self, place: Place) -> _Gpu:
        assert place.device is not None
        begun = self._clock()
        reading = self._devices.read(place.device)
        now = self._clock()
        return _Gpu(reading, now, now - begun)
