"""Pretraining inside Detectron2's frame: its ``launch``, its set-up, its log files, its events.

What is computed is ``scaleprior.pretrain.pretrain``, to the bit; this module decides who starts the processes and
where the figures go. An iteration of Detectron2 counts from 0: iteration i is step i + 1.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import torch
from detectron2.engine import default_setup, launch as detectron2_launch
from detectron2.utils.events import (
    CommonMetricPrinter,
    EventStorage,
    EventWriter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.logger import setup_logger

from scaleprior.config import LoadedConfig, load_config
from scaleprior.config.seed import run_seed
from scaleprior.d2.logs import without_effects_in_logs
from scaleprior.d2.plan import default_config
from scaleprior.errors import ScalePriorError, UserError
from scaleprior.pretrain import evaluate_pretrained, pretrain
from scaleprior.pretrain.figures.boards import Board, weights_and_biases
from scaleprior.pretrain.figures.recorder import Recorder
from scaleprior.pretrain.metrics import PretrainMetrics
from scaleprior.terminal import say
from scaleprior.training.device import resolve_device
from scaleprior.training.launching import check_counts, supervise
from scaleprior.training.metrics_file import cut_lines
from scaleprior.training.processes import join_processes
from scaleprior.wording import in_flags, parameter

if TYPE_CHECKING:
    from scaleprior.pretrain.figures.recorder import Counters
    from scaleprior.training.processes import ProcessGroup

__all__ = ["EventRecorder", "launch_pretraining", "main"]

logger = logging.getLogger(__name__)

_EVENTS = "metrics.json"  # Detectron2's name for its JSON lines
# What a median over 20 iterations, as Detectron2's writers take it, says nothing sensible about.
_NOT_NOISY = ("lr", "epoch", "unreadable")


def launch_pretraining(args: argparse.Namespace) -> None:
    """Run :func:`main` in ``args.num_gpus`` processes by Detectron2's ``launch``, in this one if that is 1.

    Args:
        args: Detectron2's flags: config_file, resume, eval_only, num_gpus, num_machines, machine_rank, dist_url, opts.

    Raises:
        UserError: wrong keys or flags, said once and not by every process; otherwise as ``supervise`` does.
    """
    check_counts(args.num_gpus, args.num_machines, args.machine_rank, args.dist_url)
    _load(args)
    if args.eval_only or args.num_gpus * args.num_machines == 1:
        detectron2_launch(main, 1, args=(args,))
        return
    if urlsplit(args.dist_url).scheme not in ("tcp", "file") and args.dist_url != "auto":
        raise UserError(
            f"{parameter('dist_url')} is {args.dist_url!r}", hint="give tcp://HOST:PORT, file://PATH or auto"
        )
    if torch.cuda.is_available() and args.num_gpus > torch.cuda.device_count():
        raise UserError(
            f"{parameter('num_gpus')} is {args.num_gpus}", hint=f"there are {torch.cuda.device_count()} here"
        )
    counts = (args.num_gpus, args.num_machines, args.machine_rank)
    supervise(lambda guarded: detectron2_launch(guarded, *counts, args.dist_url, args=(args,)), main)


def main(args: argparse.Namespace) -> None:
    """One process' share: pretrain, or with ``args.eval_only`` evaluate, in ``OUTPUT_DIR``; process 0 prints the
    result."""
    loaded = _load(args)
    out = loaded.cfg.OUTPUT_DIR
    try:
        with join_processes(resolve_device(loaded.cfg.MODEL.DEVICE)) as processes:
            if args.eval_only:
                if processes.main:
                    say(_evaluate(loaded, out))
                return
            check = not getattr(args, "no_check", False)  # a script of one's own may have Detectron2's flags alone
            result = pretrain(loaded, out, resume=args.resume, check=check, recorder=EventRecorder(loaded, args))
            if processes.main:
                say(f"{result.backbone}: {result.metrics.to_dict()}")
    except ScalePriorError as e:
        # Before the set-up there are no handlers, and the caller's one line is all there should be.
        if logger.hasHandlers():
            logger.error("%s", in_flags(e))  # who reads this log typed a command
        raise
    except Exception:
        logger.exception("Exception during training:")  # log.txt is where Detectron2's users look for it
        raise


def _load(args: argparse.Namespace) -> LoadedConfig:
    """The config over Detectron2's own keys, so that a YAML made for Detectron2 is read whole."""
    return load_config(args.config_file, args.opts, defaults=default_config())


def _evaluate(loaded: LoadedConfig, out: str) -> dict[str, float | int]:
    figures = evaluate_pretrained(loaded, out).to_dict()
    setup_logger(out, name="scaleprior")
    without_effects_in_logs()
    logger.info("held out: %s", figures)
    return figures


class _BoardWriter(EventWriter):
    """Detectron2's events on a board of ours."""

    def __init__(self, board: Board) -> None:
        self._board = board
        self._last = -1

    def write(self) -> None:
        """Show what is new; an iteration i is step i + 1."""
        found: dict[int, dict[str, float]] = {}
        for name, (value, iteration) in get_event_storage().latest_with_smoothing_hint(20).items():
            if iteration > self._last:
                found.setdefault(iteration, {})[name] = value
        for iteration in sorted(found):
            self._board.show(iteration + 1, found[iteration])
        self._last = max(found, default=self._last)

    def close(self) -> None:
        self._board.close()


class EventRecorder(Recorder):
    """A run's numbers as Detectron2's events: its ``EventStorage`` is the current one while training goes on.

    Written every PRETRAIN.METRICS_PERIOD iterations, at the end and at an interruption: the terminal and ``log.txt``,
    ``metrics.json`` (JSON lines: iteration, total_loss, lr, time, data_time, eta_seconds, epoch, images_per_s,
    unreadable), TensorBoard where it is installed, and Weights & Biases where PRETRAIN.WANDB asks for it. Figures of a
    measurement are ``held_out/NAME`` and ``probe/NAME``, on the line of the iteration that it came after; those of the
    end at the iteration after the last, as Detectron2 does it.

    Args:
        args: as the command line gave them; for the log.
    """

    _storage: EventStorage  # of the main process, once it is open

    def __init__(self, loaded: LoadedConfig, args: argparse.Namespace) -> None:
        self._loaded = loaded
        self._args = args
        self._out = Path(loaded.cfg.OUTPUT_DIR)
        self._period = loaded.cfg.PRETRAIN.METRICS_PERIOD
        self._measured_every = loaded.cfg.PRETRAIN.EVAL.PERIOD
        self._board: Callable[[int], Board] | None = None
        self._writers: list[EventWriter] = []
        self._open = contextlib.ExitStack()
        self._dirty = False
        self._shown: Board | None = None

    def prepare(self, processes: ProcessGroup) -> None:
        """Detectron2's ``default_setup``, then our logger beside its own."""
        if self._loaded.cfg.PRETRAIN.WANDB:
            self._board = weights_and_biases(self._loaded.cfg, self._out)
        cfg = self._loaded.cfg.clone()
        cfg.defrost()
        cfg.SEED = run_seed(cfg)  # what pretraining takes; below 0 Detectron2 would note a random seed
        file = {"config_file": self._loaded.source}  # it opens it, and ours may be given by its name in configs/
        default_setup(cfg, argparse.Namespace(**{**vars(self._args), **file}))
        setup_logger(str(self._out), distributed_rank=processes.rank, name="scaleprior")
        without_effects_in_logs()

    def open(self, processes: ProcessGroup, counters: Counters, total: int) -> None:
        if not processes.main:
            return
        done = counters.step
        cut_lines(self._out / _EVENTS, "iteration", done - 1)
        self._storage = self._open.enter_context(EventStorage(done))
        # The printer comes first: the time left that it works out is an event, too.
        self._writers = [CommonMetricPrinter(total), JSONWriter(str(self._out / _EVENTS)), *self._tensorboard(done)]
        if self._board is not None:
            self._shown = self._board(done)
            self._writers.append(_BoardWriter(self._shown))
        for writer in self._writers:
            self._open.callback(writer.close)

    def _tensorboard(self, done: int) -> list[EventWriter]:
        try:
            import torch.utils.tensorboard  # noqa: F401 (Detectron2 imports it at the first event)
        except ImportError:
            logger.info("no events for TensorBoard: it is not installed")
            return []
        return [TensorboardXWriter(str(self._out), purge_step=done)]

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        self._storage.iter = done - 1
        self._storage.put_scalar("total_loss", numbers["loss"])
        for name in ("lr", "time", "data_time", "epoch", "images_per_s", "unreadable"):
            self._storage.put_scalar(name, numbers[name], smoothing_hint=name not in _NOT_NOISY)
        self._dirty = True
        # A writer passes over an iteration that it wrote once; where a measurement is due, it brings the line.
        waits = self._measured_every and done % self._measured_every == 0 and done != total
        if (done % self._period == 0 or done == total) and not waits:
            self._write()

    def measured(self, done: int, figures: Mapping[str, float]) -> None:
        self._storage.iter = done - 1
        self._put(figures)
        self._write()

    def finish(self, metrics: PretrainMetrics) -> None:
        self._storage.iter = metrics.steps
        self._put(metrics.measured.to_dict())
        self._write()
        if self._shown is not None:
            self._shown.finish(metrics.to_dict())

    def _put(self, figures: Mapping[str, float]) -> None:
        for name, value in figures.items():
            self._storage.put_scalar(name, value, smoothing_hint=False)
            logger.info("%s: %.4g", name.replace("held_out/", "held out, "), value)

    def _write(self) -> None:
        for writer in self._writers:
            writer.write()
        self._dirty = False

    def close(self) -> None:
        with self._open:
            if self._dirty:
                self._write()
