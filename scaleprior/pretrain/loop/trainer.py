"""The training loop: step, checkpoints, and going on exactly where a killed run stopped.

Everything a step needs follows from the step's number (batch, crops, learning rate) or is in the checkpoint (model,
optimiser, generators, counters). So "resume" is: load, and continue with the next number.
"""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scaleprior.errors import FailureError
from scaleprior.files import WriteError
from scaleprior.pretrain.data.batches import LabelledBatch, TrainBatches, batches
from scaleprior.pretrain.data.decoding import decoded_batches
from scaleprior.pretrain.figures.recorder import Counters, Recorder
from scaleprior.pretrain.loop.admission import Admission, Refusal, admit
from scaleprior.pretrain.loop.memory import memory_errors
from scaleprior.pretrain.loop.step import StepRecord, TrainStep
from scaleprior.pretrain.network.sharded import own_state, whole_state
from scaleprior.training.checkpoint import restore_rng, rng_state
from scaleprior.training.metrics_file import write_errors
from scaleprior.training.optimizers import load_optimizer
from scaleprior.training.pending import Pending
from scaleprior.training.run_folder import restoring, with_room, with_way_on
from scaleprior.training.seeds import step_seed
from scaleprior.training.signals import Interrupted, catch_sigterm
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from scaleprior.pretrain.evaluation.measures import Measures
    from scaleprior.pretrain.metrics import Measured
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.pretrain.optim.schedule import Schedule
    from scaleprior.progress import ProgressFn
    from scaleprior.training.checkpoints import Checkpoints, SavedState
    from scaleprior.training.processes import ProcessGroup
    from scaleprior.training.run_folder import RunFolder
    from scaleprior.training.signals import StopRequest

__all__ = ["PretrainTrainer"]

logger = logging.getLogger(__name__)


@dataclass
class PretrainTrainer:
    """One run's moving parts; see the module's text.

    Attributes:
        model: on its device. step: what is done with a batch. schedule: factor on ``base_lr``.
        dataset: batch of any step. folder: of the run. checkpoints: in it.
        checkpoint_period: in steps; 0 = no periodic checkpoints.
        max_unreadable: share in [0, 1]. workers: loader processes. decode_on_device: JPEGs of a batch.
        measures: what the model is measured on. measure_period: in steps; 0 = never within the loop.
        saved: steps in the last checkpoint.
        draw_seed: what the network draws in a step (stochastic depth) follows from this, the step and the rank; None:
            it draws nothing.
    """

    model: Pretrainer
    step: TrainStep
    schedule: Schedule
    dataset: TrainBatches
    processes: ProcessGroup
    folder: RunFolder
    checkpoints: Checkpoints
    base_lr: float
    checkpoint_period: int
    max_unreadable: float
    workers: int = 0
    decode_on_device: bool = False
    measures: Measures | None = None
    measure_period: int = 0
    draw_seed: int | None = None
    counters: Counters = field(default_factory=Counters)
    saved: int = 0

    def resume(self, saved: SavedState) -> None:
        """Go on from a checkpoint of this run.

        Raises:
            UserError: it holds other names or shapes.
        """
        with restoring(saved.path):
            state = own_state(saved.state, self.model.head, self.step.optimizer)
            self.model.load_state_dict(state["model"])
            load_optimizer(self.step.optimizer, state["optimizer"])
            if self.step.average is not None:
                self.step.average.load_state_dict(state["average"])
            restore_rng(state["rng"])
            self.counters = Counters(**state["counters"])
            self.saved = self.counters.step
        logger.info("resuming %s after step %d", self.folder.out, self.counters.step)

    def save(self) -> None:
        """Write a checkpoint (the main process; others give what they alone have).

        Raises:
            WriteError: there is no room for it; says how to go on.
        """
        state = {
            "fingerprint": self.folder.fingerprint,
            "model": self._model_state,
            "optimizer": self.step.optimizer.state_dict(),
            "rng": rng_state(),
            "counters": asdict(self.counters),
        }
        if self.step.average is not None:
            state["average"] = self.step.average.state_dict()
        state = whole_state(state, self.model.head, self.step.optimizer)
        if self.processes.main:
            self.checkpoints.save(self.counters.step, state)
        self.saved = self.counters.step

    def _save(self, watch: _Watch) -> None:
        """As :meth:`save`, with what was told of the steps on the disk first.

        Raises:
            WriteError: there is no room for one of them; of figures alone the state is saved.
        """
        try:
            if watch.recorder is not None:
                self.checkpoints.making_room(watch.recorder.flush)
        except WriteError as e:
            self.save()
            raise with_room(e, self.counters.step) from e
        self.save()

    def averaged(self) -> contextlib.AbstractContextManager[None]:
        """A block in which the model has the weights that are evaluated and saved: their average, if there is one."""
        average = self.step.average
        return contextlib.nullcontext() if average is None else average.in_place()

    @cached_property
    def _model_state(self) -> dict[str, Tensor]:
        # Training changes these tensors in place, so the names need to be collected only once.
        return dict(self.model.state_dict(keep_vars=True))

    def train(self, recorder: Recorder, progress: ProgressFn | None = None) -> None:
        """Run the remaining steps; ``recorder`` is open, and is told of every step on the main process.

        Raises:
            Interrupted: SIGTERM came; the state is saved.
            FailureError: a loss or gradient that is not finite; or too many unreadable images, or no room for figures,
                and the state is saved; or no room for that.
        """
        total, first = self.schedule.total, self.counters.step
        self.model.train()
        source = self._batches(first, total)
        pending: Pending[StepRecord] = Pending(self.processes.device)
        watch = _Watch(self.counters, recorder if self.processes.main else None, progress, total)
        with catch_sigterm() as stop:
            owed, self.counters.unmeasured = self.counters.unmeasured, False
            if owed and self._to_measure(first):
                self._measure(watch, stop)
            mark = time.perf_counter()
            for step in range(first, total):
                begun = time.perf_counter()
                batch = next(source)
                waited = time.perf_counter() - begun
                # Before the forward pass, which changes what BN remembers: the state to go on from is that of now.
                admission = self._admission(
                    step, batch, pending, watch, first=first, stop=stop.requested, waited=waited
                )
                if self.draw_seed is not None:
                    torch.manual_seed(step_seed(self.draw_seed, self.processes.rank, step))
                rate = self.base_lr * self.schedule(step)
                with memory_errors(step, batch, parts=self.step.accumulate, memory=self.step.memory):
                    figures = self.step(batch, images=admission.images, rate=rate)
                self.counters.step = step + 1
                self.counters.images_seen, self.counters.unreadable = admission.seen, admission.unreadable
                now = time.perf_counter()
                self.counters.seconds += now - mark
                self.counters.wait(admission.waited)
                numbers = self._numbers(rate, now - mark, max(admission.waited), admission.images)
                mark = now
                pending.add(StepRecord(step, batch.rows, numbers), figures.together())
                due = self.checkpoint_period and (step + 1) % self.checkpoint_period == 0
                last = step + 1 == total
                save = due or admission.stop or last
                measure = not last and self._to_measure(step + 1)
                self._settle_or_save(pending, watch, everything=save or measure)
                if measure and admission.stop:
                    self.counters.unmeasured = True
                elif measure:  # before the checkpoint, so that no run that goes on from it measures this step again
                    self._measure(watch, stop)
                    mark = time.perf_counter()  # that was no time of training
                if save:
                    self._save(watch)
                if admission.stop and not last:
                    self.processes.wait()  # else the first to leave would have the others ended while they save
                    raise self._stopped()

    def _stopped(self) -> Interrupted:
        said = f"stopped by SIGTERM after step {self.counters.step} of {self.schedule.total}"
        return Interrupted(said, hint=f"add {parameter('resume', True)}")

    def _batches(self, start: int, stop: int) -> Iterator[LabelledBatch]:
        if self.decode_on_device:
            return decoded_batches(self.dataset, start, stop, workers=self.workers, device=self.processes.device)
        pinned = self.processes.device.type == "cuda"
        return batches(self.dataset, start, stop, workers=self.workers, pinned=pinned)

    def _to_measure(self, done: int) -> bool:
        return self.measures is not None and self.measure_period > 0 and done % self.measure_period == 0

    def measured(self, stop: StopRequest) -> Measured:
        """Figures of the model with the weights that are saved; every process calls this.

        Raises:
            Interrupted: a process was asked to stop meanwhile. FailureError: no image can be read.
        """
        assert self.measures is not None
        try:
            with self.averaged():
                return self.measures(self.model, stop=stop)
        except Interrupted as e:
            raise self._stopped() from e

    def _measure(self, watch: _Watch, stop: StopRequest) -> None:
        """Measure the model as it is, and tell it; every process does.

        Raises:
            Interrupted: a process was asked to stop meanwhile; the state is saved, to be measured by who goes on.
            WriteError: the figures cannot be written; they and the state are saved.
        """
        try:
            found = self.measured(stop)
        except Interrupted:
            self.counters.unmeasured = True
            self._save(watch)
            self.processes.wait()
            raise
        try:
            watch.measured(self.counters.step, found.to_dict())
        except WriteError as e:
            self.counters.unwritten = watch.unwritten
            self._save(watch)
            raise with_room(e, self.counters.step) from e

    def _admission(
        self,
        step: int,
        batch: LabelledBatch,
        pending: Pending[StepRecord],
        watch: _Watch,
        *,
        first: int,
        stop: bool,
        waited: float,
    ) -> Admission:
        limit = self.max_unreadable
        try:
            return admit(
                step, batch, self.dataset, self.counters, self.processes, limit=limit, stop=stop, waited=waited
            )
        except Refusal as e:
            if step == first:  # the state of now is on the disk already, or there is none
                raise
            self._settle_or_save(pending, watch, everything=True)
            self._save(watch)
            self.processes.wait()  # else the first to leave would have the others ended while they save
            raise with_way_on(e, step) from None

    def _settle_or_save(self, pending: Pending[StepRecord], watch: _Watch, *, everything: bool) -> None:
        """As :meth:`_settle`; where figures cannot be written, the state is saved, and they with it.

        Not where others have a part of the state: they are in their next step, and the last checkpoint has to do.

        Raises:
            WriteError: that is so; says how to go on.
        """
        try:
            self._settle(pending, watch, everything=everything)
        except WriteError as e:
            if self.model.head.own is not None:
                raise with_room(e, self.saved) from e
            for _ in range(len(pending)):
                with contextlib.suppress(WriteError):
                    self._settle(pending, watch, everything=True)
            self.counters.unwritten = watch.unwritten
            self._save(watch)
            raise with_room(e, self.counters.step) from e

    def _settle(self, pending: Pending[StepRecord], watch: _Watch, *, everything: bool) -> None:
        """Read the figures that are there, or all of them, and tell them.

        Raises:
            FailureError: those of a step are not finite; names it. WriteError: nobody can write them down.
        """
        for record, (loss, own, norm, finite) in pending.settled(all_of_them=everything):
            if not finite:
                raise self._not_finite(record, loss, own, norm)
            self.counters.loss = loss
            watch.tell(record, loss)

    def _not_finite(self, record: StepRecord, loss: float, own: float, norm: float) -> FailureError:
        what = f"loss is {loss}" if not math.isfinite(loss) else f"the gradient's norm is {norm}"
        keys = "on another process"
        if not math.isfinite(own) or math.isfinite(loss):
            shown = [repr(self.dataset.images.key(row)) for row in record.rows[:8].tolist()]
            more = f" and {len(record.rows) - 8} more" if len(record.rows) > 8 else ""
            keys = f"with images {', '.join(shown)}{more}"
        return FailureError(
            f"{what} at step {record.step}, {keys}",
            hint="lower PRETRAIN.OPTIMIZER.BASE_LR or lengthen the warmup",
        )

    def _numbers(self, rate: float, seconds: float, waited: float, images: int) -> dict[str, float]:
        counters = self.counters
        return {
            "lr": rate,
            "images": counters.images_seen,
            "epoch": counters.images_seen / self.dataset.plan.images,
            "unreadable": counters.unreadable,
            "time": seconds,
            "data_time": waited,
            "images_per_s": images / max(seconds, 1e-9),
        }


@dataclass
class _Watch:
    """Who is told of steps as their figures come in."""

    counters: Counters
    recorder: Recorder | None
    progress: ProgressFn | None
    total: int

    def __post_init__(self) -> None:
        self._since = time.perf_counter(), self.counters.images_seen

    @property
    def unwritten(self) -> tuple[str, ...]:
        return () if self.recorder is None else self.recorder.unwritten

    def measured(self, done: int, figures: Mapping[str, float]) -> None:
        if self.recorder is not None:
            with write_errors(f"the measurement after step {done}"):
                self.recorder.measured(done, figures)

    def tell(self, record: StepRecord, loss: float) -> None:
        done = record.step + 1
        if self.recorder is not None:
            with write_errors(f"the figures of step {done}"):
                self.recorder.step(done, self.total, {"loss": loss, **record.numbers})
        if self.progress is not None:
            then, images = self._since
            rate = (record.numbers["images"] - images) / max(time.perf_counter() - then, 1e-9)
            self.progress(done, self.total, {"loss": loss, "images/s": rate})
