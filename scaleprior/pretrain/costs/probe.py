"""A few real steps of a run, on its data and device, of which nothing stays."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from scaleprior.pretrain.costs.memory import MemoryGauge
from scaleprior.pretrain.figures.recorder import Recorder
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.run_folder import RunFolder
from scaleprior.training.seeds import generators_kept
from scaleprior.training.signals import Interrupted

if TYPE_CHECKING:
    from scaleprior.pretrain.loop.trainer import PretrainTrainer
    from scaleprior.progress import ProgressFn

__all__ = ["Probe", "probe_steps"]

_AHEAD = 2  # batches that a loader process prepares ahead, torch's default


@dataclass(frozen=True)
class Probe:
    """What a run's first steps took.

    Attributes:
        device: as torch names it. processes: that shared out each batch.
        warmup: steps before the ones that are timed: the first set up and choose algorithms, and loader processes start
            with all their batches ahead.
        seconds: of each timed step, from one to the next, waiting included.
        waited: share, in [0, 1], of the time of these steps in which process 0 waited for its images.
        memory: bytes at most: of a GPU what torch reserved; on the CPU the growth of the process, without those of its
            loader.
    """

    device: str
    processes: int
    warmup: int
    seconds: tuple[float, ...]
    waited: float
    memory: int

    @property
    def seconds_per_step(self) -> float:
        """Mean of the timed steps."""
        return statistics.fmean(self.seconds)

    @property
    def error(self) -> float | None:
        """Standard error of the mean, seconds; None of a single step."""
        count = len(self.seconds)
        return statistics.stdev(self.seconds) / count**0.5 if count > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "device": self.device,
            "processes": self.processes,
            "warmup": self.warmup,
            "steps": len(self.seconds),
            "seconds_per_step": self.seconds_per_step,
            "standard_error": self.error,
            "least": min(self.seconds),
            "median": statistics.median(self.seconds),
            "most": max(self.seconds),
            "waited": self.waited,
            "memory": self.memory,
        }


class _Enough(Exception):
    """Ends a run from within, before it would save anything."""


def probe_steps(
    build: Callable[[RunFolder, Checkpoints], PretrainTrainer],
    count: int,
    *,
    device: torch.device,
    progress: ProgressFn | None = None,
) -> Probe:
    """Run the first steps of a run and time ``count`` of them, or as many as it has; every process calls this.

    The generators of the program are as before afterwards, and no file is left.

    Args:
        build: makes the run's trainer, fresh, for a folder and its checkpoints.
        count: at least 1.
        device: where it runs.
        progress: called once a step with (steps done, in all, {}).

    Raises:
        Interrupted: SIGTERM. Otherwise what the run would raise.
    """
    with generators_kept(), tempfile.TemporaryDirectory() as nowhere:
        gauge = MemoryGauge(device)
        folder = RunFolder(Path(nowhere), {"fingerprint": "a probe"}, parts="none")
        trainer = build(folder, Checkpoints(folder.out))
        warmup = min(max(3, _AHEAD * trainer.workers), max(trainer.schedule.total - count, 0))
        last = min(warmup + count, trainer.schedule.total)
        clock = _Clock(warmup, last, progress)
        trainer.checkpoint_period = 0
        with contextlib.suppress(_Enough):
            try:
                trainer.train(clock, clock.tick)
            except Interrupted as e:
                raise Interrupted("stopped by SIGTERM; nothing was trained", hint="run it again") from e
        waited = min(sum(clock.waited) / sum(clock.seconds), 1.0) if clock.waited else 0.0
        return Probe(
            device=str(device),
            processes=trainer.processes.size,
            warmup=warmup,
            seconds=tuple(clock.seconds),
            waited=waited,
            memory=gauge.peak,
        )


class _Clock(Recorder):
    """Times steps as their figures come in, which on a GPU is when the device has done them."""

    def __init__(self, warmup: int, last: int, progress: ProgressFn | None) -> None:
        self._warmup, self._last, self._progress = warmup, last, progress
        self._mark = time.perf_counter()
        self.seconds: list[float] = []
        self.waited: list[float] = []

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if done > self._warmup:
            self.waited.append(numbers["data_time"])

    def tick(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """The run's progress, told of after :meth:`step`, and in every process."""
        now = time.perf_counter()
        if done > self._warmup:
            self.seconds.append(now - self._mark)
        self._mark = now
        if self._progress is not None:
            self._progress(done, self._last, {})
        if done == self._last:
            raise _Enough
