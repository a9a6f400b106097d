"""Which cell begins where and when, and which begins again because others left it no memory.

No process is started here and no clock is read: who does that tells what began and what ended.

Where memory ran out while others had a part of it, nothing is wrong with the cell: it goes on from its checkpoint once
all others that wait have begun and nobody is left where it runs, and from then on fewer run there at once. A GPU's
memory is shared by the cells on it, the machine's by all cells. Alone it fails as any cell does.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from scaleprior.study.failure import ERROR_FILE, Failure
from scaleprior.wording import counted

__all__ = ["Admission", "Attempt", "Place", "Rooms", "oom_kills"]

logger = logging.getLogger(__name__)

_VMSTAT = Path("/proc/vmstat")


@dataclass(eq=False)
class Attempt:
    """A cell that runs.

    Attributes:
        kills: of the system for want of memory, when it began; None where the system does not count them.
        beside: the most other cells that were on its GPU at one time meanwhile. crowd: on this machine.
    """

    folder: Path
    place: Place
    kills: int | None
    beside: int = 0
    crowd: int = 0


@dataclass(eq=False)
class Place:
    """Where cells work side by side: a GPU, or the machine.

    Attributes:
        name: for people.
        device: for CUDA_VISIBLE_DEVICES; None leaves the device to each cell's config.
        limit: cells at once, at most.
        ceiling: what the limit may rise to; falls where memory ran out.
    """

    name: str
    device: str | None
    limit: int
    ceiling: int
    running: list[Attempt] = field(default_factory=list)


class Rooms(Protocol):
    """Knows whether another cell fits."""

    def fits(self, place: Place, folder: Path) -> bool:
        """Whether the cell of ``folder`` has room beside those that run in ``place``; always, where none does."""
        ...


class Admission:
    """The cells of a study on their way through the places of a machine.

    Args:
        folders: of the cells, the first to begin first.
        most: cells at once in all places together.
        rooms: asked before a cell begins beside others; None: the limits say all.
    """

    def __init__(
        self, places: Sequence[Place], folders: Sequence[Path], *, most: int, rooms: Rooms | None = None
    ) -> None:
        self.places: list[Place] = list(places)
        self.waiting: list[Path] = list(folders)
        self._most = most
        self._rooms = rooms
        self._again: dict[Path, str] = {}  # to run alone -> whose memory ran out: the GPU's, the host's
        self._alone: Attempt | None = None  # the one beside which nothing begins on this machine

    @property
    def running(self) -> list[Attempt]:
        """What runs now."""
        return [attempt for place in self.places for attempt in place.running]

    @property
    def done(self) -> bool:
        """Whether nothing runs, waits, or is to begin again."""
        return not (self.running or self.waiting or self._again)

    def begin(self) -> Iterator[Attempt]:
        """What begins now, one after the other; each counts as running from then on."""
        while (found := self._next()) is not None:
            folder, place, alone = found
            attempt = Attempt(folder, place, oom_kills())
            if alone:
                self._alone = attempt if self._again.pop(folder) == "host" else None
            else:
                self.waiting.remove(folder)
            place.running.append(attempt)
            self._note()
            yield attempt

    def end(self, attempt: Attempt, code: int) -> bool:
        """Note that the process of a cell ended with ``code``; whether the cell will begin again.

        Of a cell that does, nothing is left that says it failed.
        """
        place = attempt.place
        others, here = len(self.running) - 1, len(place.running) - 1
        place.running.remove(attempt)
        if self._alone is attempt:
            self._alone = None
        memory = self._lost(attempt, code)
        if not memory or not (attempt.crowd if memory == "host" else attempt.beside):
            return False
        # so many were there with it, or had been and ended just before: from now on as many in all
        if memory == "host":
            self._most = min(self._most, others or attempt.crowd)
            which, most = "this machine", self._most
        else:
            place.ceiling = place.limit = min(place.limit, here or attempt.beside)
            which, most = place.name, place.limit
        said = f"{which}: memory ran out for cell {attempt.folder.name} beside others"
        logger.warning("%s; it goes on alone later, and from now on %s at once", said, counted(most, "cells"))
        self._again[attempt.folder] = memory
        _unmark(attempt)
        return True

    def refuse(self, attempt: Attempt, why: str) -> bool:
        """Note that the system gave a cell no process; whether the cell will begin again, as others end.

        Args:
            why: in the system's words.
        """
        others = len(self.running) - 1
        attempt.place.running.remove(attempt)
        if self._alone is attempt:
            self._alone = None
        if not others:
            Failure(f"no process could be started for it: {why}").save(attempt.folder)
            return False
        self._most = min(self._most, others)
        said = f"no process could be started for cell {attempt.folder.name} beside others: {why}"
        logger.warning("%s; from now on %s at once", said, counted(self._most, "cells"))
        self.waiting.insert(0, attempt.folder)
        _unmark(attempt)
        return True

    def _next(self) -> tuple[Path, Place, bool] | None:
        """(cell, place, alone): what may begin now."""
        running = len(self.running)
        if self._alone is not None or running >= self._most:
            return None
        if self.waiting:
            free = [place for place in self.places if len(place.running) < place.limit]
            free.sort(key=lambda place: len(place.running))
            # the longest are first; one that does not fit yet lets a smaller one pass, and has its turn as room is left
            fitting = ((f, p) for f in self.waiting for p in free if self._rooms is None or self._rooms.fits(p, f))
            found = next(fitting, None)
            return None if found is None else (*found, False)
        for folder, memory in self._again.items():
            empty = next((place for place in self.places if not place.running), None)
            if empty is not None and (memory != "host" or not running):
                return folder, empty, True
        return None

    def _note(self) -> None:
        """Remember of all that run beside how many they do."""
        running = self.running
        for attempt in running:
            attempt.crowd = max(attempt.crowd, len(running) - 1)
            attempt.beside = max(attempt.beside, len(attempt.place.running) - 1)

    def _lost(self, attempt: Attempt, code: int) -> str:
        """Whose memory ran out: "gpu", "host", or "" where that was not the end of it.

        The system ends what takes too much of the machine's memory by SIGKILL, and counts that. A cell that somebody
        else killed, as by hand, stays ended.
        """
        if code == 1 and (failure := Failure.read(attempt.folder)) is not None:
            return failure.memory
        if code == -signal.SIGKILL and attempt.kills is not None and (oom_kills() or 0) > attempt.kills:
            if not attempt.crowd:
                Failure(f"the system killed it for want of memory; it worked alone on {attempt.place.name}",
                        "host").save(attempt.folder)  # fmt: skip
            return "host"
        return ""


def _unmark(attempt: Attempt) -> None:
    for name in (ERROR_FILE, "running"):
        with contextlib.suppress(OSError):
            (attempt.folder / name).unlink()


def oom_kills(vmstat: Callable[[], str] = _VMSTAT.read_text) -> int | None:
    """Processes that the system has killed for want of memory since it started; None where it does not count them."""
    try:
        return next((int(line.split()[1]) for line in vmstat().splitlines() if line.startswith("oom_kill ")), None)
    except OSError:
        return None
