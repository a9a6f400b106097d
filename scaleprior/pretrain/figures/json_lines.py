"""A run's numbers as JSON lines, in the log, and on the boards that the config asks for."""

from __future__ import annotations

import json
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from scaleprior.pretrain.figures.boards import Board, boards_of
from scaleprior.pretrain.figures.recorder import Recorder
from scaleprior.training.metrics_file import MetricsFile, cut_lines

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from scaleprior.pretrain.figures.recorder import Counters
    from scaleprior.pretrain.metrics import PretrainMetrics
    from scaleprior.training.processes import ProcessGroup

__all__ = ["METRICS", "JsonLines"]

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_WINDOW = 1000  # steps whose time tells how long the others will take
_SHOWN = ("loss", "lr", "images_per_s", "waited", "epoch", "unreadable")  # on boards


class JsonLines(Recorder):
    """A line of ``metrics.jsonl`` and of the log every ``period`` steps and at the end; the same for boards.

    A measurement is a line of its own: step and its figures, without a loss.

    Args:
        out: folder of the run.
        boards: makers of what else is told, each called once, in the main process, with the finished steps.
    """

    def __init__(self, out: Path, *, period: int, boards: Sequence[Callable[[int], Board]] = ()) -> None:
        self._out = out
        self._period = period
        self._makers = boards
        self._boards: list[Board] = []
        self._file: MetricsFile | None = None
        self._times: deque[float] = deque(maxlen=_WINDOW)
        self._begin()

    @classmethod
    def from_config(cls, cfg: CfgNode, out: Path) -> JsonLines:
        """What ``cfg.PRETRAIN`` asks for.

        Raises:
            UserError: a package that it needs is not installed.
        """
        return cls(out, period=cfg.PRETRAIN.METRICS_PERIOD, boards=boards_of(cfg, out))

    def _begin(self) -> None:
        """Of the steps since the last line: how long they took, how long they waited, their images."""
        self._seconds, self._waited, self._images = 0.0, 0.0, 0.0

    def open(self, processes: ProcessGroup, counters: Counters, total: int) -> None:
        if not processes.main:
            return
        path = self._out / METRICS
        # After the last step a run may have been killed between its last measurement and its end.
        again = total if counters.step == total else None
        cut_lines(path, "step", counters.step, also=lambda line: line["step"] == again and "loss" not in line)
        self._file = MetricsFile(path)
        self.unwritten = counters.unwritten
        self._write_lines()
        counters.unwritten = ()
        self._boards = [make(counters.step) for make in self._makers]

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        self._times.append(numbers["time"])
        self._seconds += numbers["time"]
        self._waited += numbers["data_time"]
        self._images += numbers["images_per_s"] * numbers["time"]
        if done % self._period and done != total:
            return
        left = sum(self._times) / len(self._times) * (total - done)
        line = {
            "step": done,
            "images": numbers["images"],
            "epoch": round(numbers["epoch"], 6),
            "loss": numbers["loss"],
            "lr": numbers["lr"],
            "images_per_s": round(self._images / max(self._seconds, 1e-9), 1),
            "waited": round(min(self._waited / max(self._seconds, 1e-9), 1.0), 4),
            "eta_seconds": round(left, 1),
            "unreadable": numbers["unreadable"],
        }
        self._begin()
        self._write(line)
        logger.info(
            "step %d/%d loss %.4g lr %.3g %.0f images/s, waited %.0f %% for data, %s left",
            *(done, total, line["loss"], line["lr"], line["images_per_s"], 100 * line["waited"]),
            timedelta(seconds=round(left)),
        )
        self._show(done, {f"pretrain/{name}": line[name] for name in _SHOWN})

    def measured(self, done: int, figures: Mapping[str, float]) -> None:
        if not figures:
            return
        self._write({"step": done, **figures})
        shares = {name: value for name, value in figures.items() if isinstance(value, float)}  # the others are counts
        logger.info("step %d %s", done, ", ".join(f"{name} {value:.4g}" for name, value in shares.items()))
        self._show(done, figures)

    def saving(self) -> None:
        if self._file is not None:
            self._file.flush()

    def finish(self, metrics: PretrainMetrics) -> None:
        self.measured(metrics.steps, metrics.measured.to_dict())
        for board in self._boards:
            board.finish(metrics.to_dict())

    def _write(self, line: Mapping[str, float]) -> None:
        if self._file is not None:
            self.unwritten += (json.dumps(line),)
            self._write_lines()

    def _write_lines(self) -> None:
        while self._file is not None and self.unwritten:
            self._file.write(self.unwritten[0])
            self.unwritten = self.unwritten[1:]

    def _show(self, done: int, figures: Mapping[str, float]) -> None:
        for board in self._boards:
            board.show(done, figures)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        for board in self._boards:
            board.close()
