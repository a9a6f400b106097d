"""Where a run's numbers go while it trains: ``metrics.jsonl`` and TensorBoard, unless the caller brings a recorder.

The trainer knows no files of figures; it calls a :class:`Recorder`. Under Detectron2 that is its event storage.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.errors import UserError
from scaleprior.files import WriteError
from scaleprior.training.metrics_file import MetricsFile, cut_lines, write_errors

if TYPE_CHECKING:
    from scaleprior.pretrain.metrics import PretrainMetrics
    from scaleprior.training.processes import ProcessGroup

__all__ = ["METRICS", "Counters", "JsonLines", "Recorder", "closed_after"]

METRICS = "metrics.jsonl"


@dataclass
class Counters:
    """Running totals of a run, over all processes and resumes.

    Attributes:
        step: finished steps. images_seen: images trained on. loss: of the last step.
        unreadable: images that could not be read, once for every time. seconds: of training.
        unwritten: lines of figures that the disk had no room for when the run stopped; the next start writes them.
    """

    step: int = 0
    images_seen: int = 0
    unreadable: int = 0
    seconds: float = 0.0
    loss: float = math.nan
    unwritten: tuple[str, ...] = ()


class Recorder:
    """What a run tells, in this order; a subclass takes what it needs. The same object serves one run, once.

    Every process calls ``prepare``, ``open`` and ``close``; only the main one calls ``step`` and ``finish``. An OSError
    of any of them, or a WriteError, ends the run; where that was a step, with the state saved.

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
                all processes and resumes; time and, of it, data_time (waiting for the batch), seconds of this step;
                images_per_s of this step.
        """

    def finish(self, metrics: PretrainMetrics) -> None:
        """Training and evaluation are done; ``metrics`` is about to become ``result.json``."""

    def close(self) -> None:
        """Last call, after an error, too, even one before ``open``."""


class JsonLines(Recorder):
    """A line of ``metrics.jsonl`` every ``period`` steps and at the end and, if asked, the same for TensorBoard."""

    def __init__(self, out: Path, *, period: int, tensorboard: bool = False) -> None:
        self._out = out
        self._period = period
        self._tensorboard = tensorboard
        self._file: MetricsFile | None = None
        self._board: Any = None
        self._since = (0.0, 0.0)

    def open(self, processes: ProcessGroup, counters: Counters, total: int) -> None:
        self._since = (time.perf_counter(), counters.images_seen)
        if processes.main:
            path = self._out / METRICS
            cut_lines(path, "step", counters.step)
            self._file = MetricsFile(path)
            self.unwritten = counters.unwritten
            self._write()
            counters.unwritten = ()
            if self._tensorboard:
                self._board = _summary_writer(self._out / "tensorboard", counters.step)

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if self._file is None or (done % self._period and done != total):
            return
        then, images = self._since
        self._since = (time.perf_counter(), numbers["images"])
        rate = (numbers["images"] - images) / max(self._since[0] - then, 1e-9)
        line = {
            "step": done,
            "images": numbers["images"],
            "epoch": round(numbers["epoch"], 6),
            "loss": numbers["loss"],
            "lr": numbers["lr"],
            "images_per_s": round(rate, 1),
            "unreadable": numbers["unreadable"],
        }
        self.unwritten += (json.dumps(line),)
        self._write()
        if self._board is not None:
            for name in ("loss", "lr", "images_per_s"):
                self._board.add_scalar(f"pretrain/{name}", line[name], done)

    def _write(self) -> None:
        while self._file is not None and self.unwritten:
            self._file.write(self.unwritten[0])
            self.unwritten = self.unwritten[1:]

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        if self._board is not None:
            self._board.close()


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


def _summary_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as e:
        raise UserError(
            "PRETRAIN.TENSORBOARD needs the tensorboard package", hint="pip install tensorboard, or set it to False"
        ) from e
    return SummaryWriter(str(folder), purge_step=step + 1)
