"""The training loop: one function from a model, its data and a config to trained weights, resumable to the bit.

Everything random in a step comes from (seed, step), so a checkpoint holds no generator and a run that was killed and
resumed ends with the same bits as an undisturbed one (CPU). Of several processes the first writes; before every step
they tell one another whether all have their images and whether anybody was asked to stop, so that all end together.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.detect.data.loader import DetectionBatch, TrainLoader
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.step import TrainStep
from scaleprior.errors import UserError
from scaleprior.files import WriteError
from scaleprior.progress import ProgressFn
from scaleprior.training.agreement import agree, agree_on_steps
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.metrics_file import MetricsFile, cut_lines
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.run_folder import RunFolder, refuse_other_run, restoring, with_room, with_way_on
from scaleprior.training.signals import Interrupted, StopRequest, catch_sigterm
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["METRICS", "DetectorTrainer", "checkpoint_steps"]

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
_METRICS_PERIOD = 20  # steps between lines of metrics.jsonl, Detectron2's own


class DetectorTrainer:
    """Trains ``model`` in place.

    Args:
        loader: of this process' share.
        folder: of the run, for the checkpoints and the metrics; a checkpoint of another run is refused.
    """

    def __init__(
        self, cfg: CfgNode, model: Detector, loader: TrainLoader, folder: RunFolder, processes: ProcessGroup
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.loader = loader
        self.folder = folder
        self.processes = processes
        self.checkpoints = Checkpoints(folder.out)
        self.take = TrainStep(cfg, model, seed=loader.seed, processes=processes)
        self.step = 0
        self._saved = 0  # steps that a checkpoint has, or the start
        self._unwritten = ""  # the lines of figures that the disk had no room for
        self._lines: MetricsFile | None = None
        self._progress: ProgressFn | None = None

    def resume(self) -> None:
        """Go on from the newest whole checkpoint in the folder, if there is any; nothing is written.

        Raises:
            UserError: it belongs to another run.
            FailureError: the processes find different ones.
        """
        found = self.checkpoints.load(tell=self.processes.main)
        if found is not None:
            self._restore(*found)
        agree_on_steps(self.processes, None if found is None else self.step, self.folder.out)

    def _restore(self, path: Path, state: Mapping[str, Any]) -> None:
        if not self._is_before_extension(state):
            refuse_other_run(state, self.folder.fingerprint, str(path), self.folder.parts)
        with restoring(path):
            self.model.load_state_dict(state["model"])
            self.take.load_state_dict(state)
            self.step = self._saved = state["step"]
            self._unwritten = state.get("unwritten", "")
        logger.info("resumed at step %d from %s", self.step, path)

    def train(self, *, progress: ProgressFn | None = None) -> None:
        """Run the steps that are left. Of several processes each calls this, and each has the same errors.

        Raises:
            FailureError: the loss is not finite; names the step and the images. WriteError: the disk is full, perhaps;
                of a line of figures that does not fit the state is saved, and the line with it.
            Interrupted: SIGTERM came; the state is saved.
            UserError: an image cannot be used; the state is saved.
        """
        total, period = self.cfg.SOLVER.MAX_ITER, self.cfg.SOLVER.CHECKPOINT_PERIOD
        self.model.train()
        with (
            self._metrics() as self._lines,
            catch_sigterm() as stop,
            contextlib.closing(self.loader.batches(self.step, total)) as batches,
        ):
            self._progress = progress
            for batch in self._admitted(batches, stop):
                self.take(batch, self.step)
                self.step += 1
                save = bool(period) and self.step % period == 0 and self.step < total
                self._settle(everything=save or self.step == total)
                if save:
                    self._save()
            if self._lines is not None:
                self.checkpoints.making_room(self._lines.flush)  # after the last one nobody tells of them again

    def _admitted(self, batches: Iterator[DetectionBatch], stop: StopRequest) -> Iterator[DetectionBatch]:
        """The batches, each once every process has its share and nobody was asked to stop.

        Else all end together, and the steps that are done are saved first.

        Raises:
            UserError: a process cannot use its images; says how to go on. Interrupted: one was asked to stop.
        """
        total = self.cfg.SOLVER.MAX_ITER
        while self.step < total:
            batch, error = None, None
            try:
                batch = next(batches)
            except UserError as e:
                error = e
            found, stopped = agree(self.processes, error, stop=stop.requested)
            if batch is not None and found is None and not stopped:
                yield batch
                continue
            to_save = self.step > self._saved  # else it is on the disk, or nothing was trained yet
            if to_save:
                self._settle(everything=True)
                self._save()
                self.processes.wait()  # else the first to leave would have the others ended while main saves
            if stopped:
                raise Interrupted(
                    f"stopped by SIGTERM after step {self.step} of {total}",
                    hint=f"run again with {parameter('resume', True)} to go on",
                )
            assert found is not None
            raise (with_way_on(found, self.step) if to_save else found) from error

    def _settle(self, *, everything: bool) -> None:
        """Read what steps found, and tell it.

        Args:
            everything: of the newest step, too, for which a GPU is waited for.

        Raises:
            FailureError: a loss was not finite. WriteError: a line of figures has no room; it is saved with the state.
        """
        full = None
        for done, numbers in self.take.settled(all_of_them=everything):
            if self._lines is not None and (done % _METRICS_PERIOD == 0 or done == self.cfg.SOLVER.MAX_ITER):
                line = json.dumps({"step": done, **numbers})
                try:
                    self._lines.write(line)
                except WriteError as e:
                    full = e
                    self._unwritten = "\n".join(filter(None, (self._unwritten, line)))
            if self._progress is not None:
                self._progress(done, self.cfg.SOLVER.MAX_ITER, {"loss": numbers["loss"]})
        if full is not None:
            self._settle(everything=True)
            self._save()
            raise with_room(full, self.step) from full

    def _save(self) -> None:
        self._saved = self.step
        if not self.processes.main:
            return
        full = None
        if self._lines is not None:
            try:
                # Whoever goes on from here does not tell of these steps again.
                self.checkpoints.making_room(self._lines.flush)
            except WriteError as e:
                full = e
        state: dict[str, Any] = {
            "fingerprint": self.folder.fingerprint,
            "step": self.step,
            "model": dict(self.model.state_dict()),
            **self.take.state_dict(),
            "unwritten": self._unwritten,
        }
        self.checkpoints.save(self.step, state)
        if full is not None:
            raise with_room(full, self.step) from full

    def _is_before_extension(self, state: Mapping[str, Any]) -> bool:
        """Whether a checkpoint is the one that the run was extended from, the last under the former schedule."""
        last = self.folder.history[-1] if self.folder.history else None
        return last is not None and (state.get("fingerprint"), state.get("step")) == (last.fingerprint, last.steps)

    def _metrics(self) -> contextlib.AbstractContextManager[MetricsFile | None]:
        """metrics.jsonl, open for appending, on the process that writes it; lines past the step we start from are
        those of the lost steps."""
        if not self.processes.main:
            return contextlib.nullcontext()
        path = self.folder.out / METRICS
        cut_lines(path, "step", self.step)
        metrics = MetricsFile(path)
        if self._unwritten:
            metrics.write(self._unwritten)
            self._unwritten = ""
        return contextlib.closing(metrics)


def checkpoint_steps(checkpoints: Checkpoints) -> int | None:
    """How many steps the checkpoint to go on from has behind it; None where there is none.

    Raises:
        UserError: another version of ScalePrior wrote it.
    """
    found = checkpoints.load(tell=False)
    if found is None:
        return None
    with restoring(found.path):
        return found.state["step"]
