"""Where a run's numbers go while it trains; what is done with them, a subclass decides (``json_lines.JsonLines``).

The trainer knows no files of figures; it calls a :class:`Recorder`. Under Detectron2 that is its event storage.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.files import WriteError
from scaleprior.training.metrics_file import write_errors

if TYPE_CHECKING:
    from scaleprior.pretrain.metrics import PretrainMetrics
    from scaleprior.training.processes import ProcessGroup

__all__ = ["Counters", "Recorder", "closed_after"]


@dataclass
class Counters:
    """Running totals of a run, over all processes and resumes.

    Attributes:
        step: finished steps. images_seen: images trained on. loss: of the last step.
        unreadable: images that could not be read, once for every time.
        seconds: of training, without those of measurements. waited: of them, for images, in every step those of the
            process that waited longest. waits: those of each process, by rank, while they are as many.
        unwritten: lines of figures that the disk had no room for when the run stopped; the next start writes them.
        unmeasured: the run was asked to stop before the model of ``step`` was measured, as it was due; the next start
            begins with that.
    """

    step: int = 0
    images_seen: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    waited: float = 0.0
    unwritten: tuple[str, ...] = ()
    waits: tuple[float, ...] = ()
    unmeasured: bool = False

    def wait(self, seconds: Sequence[float]) -> None:
        """Count what each process, by rank, waited for its images of a step."""
        self.waited += max(seconds)
        before = self.waits if len(self.waits) == len(seconds) else (0.0,) * len(seconds)
        self.waits = tuple(map(sum, zip(before, seconds)))


class Recorder:
    """What a run tells, in this order; a subclass takes what it needs. The same object serves one run, once.

    Every process calls ``prepare``, ``open`` and ``close``; only the main one calls the others. An OSError of
    any of them, or a WriteError, ends the run; within the loop with the state saved.

    Attributes:
        unwritten: lines that could not be written; the checkpoint keeps them.
    """

    unwritten: tuple[str, ...] = ()

    def prepare(self, processes: ProcessGroup) -> None:
        """The folder is ours and the config is legal; nothing is written, seeded or built yet."""

    def open(self, processes: ProcessGroup, counters: Counters, total: int) -> None:
        """Training goes on after ``counters.step`` of ``total`` steps; whatever was recorded of later steps is void."""

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """Step ``done`` (from 1) is finished.

        Args:
            numbers: loss and lr of the step; images and unreadable so far and epoch (passes over the fraction), over
                all processes and resumes; time since the step before was finished and, of it, data_time (of the process
                that waited longest for its batch), seconds; images_per_s of this step. On a GPU these are times of the
                host, which hands work to the device ahead: those of one step say little, their sums are right.
        """

    def measured(self, done: int, figures: Mapping[str, float]) -> None:
        """The model was measured after step ``done``; ``figures`` by names like "held_out/map"."""

    def saving(self) -> None:
        """The state is about to be saved: a run that goes on from it does not tell again of the steps so far, so they
        should be on the disk."""

    def flush(self) -> None:
        """Call ``saving``.

        Raises:
            WriteError: what was told cannot be written.
        """
        with write_errors("the figures so far"):
            self.saving()

    def finish(self, metrics: PretrainMetrics) -> None:
        """Training and evaluation are done; ``metrics`` is about to become ``result.json``, after a last ``saving``."""

    def close(self) -> None:
        """Last call, after an error, too, even one before ``open``."""


@contextlib.contextmanager
def closed_after(recorder: Recorder, out: Path) -> Iterator[None]:
    """Close ``recorder`` at the end; what that meets of a full disk does not hide the error that ended the block.

    Raises:
        WriteError: the block was fine, and the last figures cannot be written.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError, WriteError):
            recorder.close()
        raise
    with write_errors(out):
        recorder.close()
