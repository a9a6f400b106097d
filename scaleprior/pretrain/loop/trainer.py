"""The training loop: step, checkpoints, and going on exactly where a killed run stopped.

Everything a step needs follows from the step's number (batch, crops, learning rate) or is in the checkpoint (model,
optimiser, generators, counters). So "resume" is: load, and continue with the next number.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scaleprior.errors import FailureError
from scaleprior.pretrain.data.batches import LabelledBatch, TrainBatches, batches
from scaleprior.pretrain.figures.recorder import Counters, Recorder
from scaleprior.pretrain.losses.logistic import known_logistic_loss, sparse_logistic_loss
from scaleprior.pretrain.optim.optimizers import load_optimizer
from scaleprior.training.checkpoint import load_checkpoint, restore_rng, rng_state, save_checkpoint
from scaleprior.training.run_folder import refuse_other_run, restoring, with_way_on
from scaleprior.training.signals import Interrupted, catch_sigterm
from scaleprior.wording import parameter

if TYPE_CHECKING:
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.pretrain.optim.schedule import Schedule
    from scaleprior.progress import ProgressFn
    from scaleprior.training.processes import ProcessGroup
    from scaleprior.training.run_folder import RunFolder

__all__ = ["CHECKPOINT", "PretrainTrainer", "read_run_checkpoint"]

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint.safetensors"
_GRACE = 1000  # images read before the share of unreadable ones is judged by itself


@dataclass
class PretrainTrainer:
    """One run's moving parts; see the module's text.

    Attributes:
        model: on its device. optimizer: over its parameters. schedule: factor on ``base_lr``.
        dataset: batch of any step. folder: of the run; another's checkpoint is refused.
        checkpoint_period: in steps; 0 = no periodic checkpoints.
        max_unreadable: share in [0, 1]. workers: loader processes. amp: bfloat16 autocast.
    """

    model: Pretrainer
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    dataset: TrainBatches
    processes: ProcessGroup
    folder: RunFolder
    base_lr: float
    checkpoint_period: int
    max_unreadable: float
    workers: int = 0
    amp: bool = False
    counters: Counters = field(default_factory=Counters)

    def resume(self) -> bool:
        """Load the checkpoint in ``out``; False if there is none.

        Raises:
            UserError: the checkpoint is another run's.
        """
        state, path = read_run_checkpoint(self.folder), self._checkpoint
        if state is None:
            return False
        with restoring(path):
            self.model.load_state_dict(state["model"])
            load_optimizer(self.optimizer, state["optimizer"])
            restore_rng(state["rng"])
            self.counters = Counters(**state["counters"])
        logger.info("resuming %s after step %d", self.folder.out, self.counters.step)
        return True

    def save(self) -> None:
        """Write the checkpoint (the main process; others do nothing)."""
        if self.processes.main:
            state = {
                "fingerprint": self.folder.fingerprint,
                "model": self._model_state,
                "optimizer": self.optimizer.state_dict(),
                "rng": rng_state(),
                "counters": asdict(self.counters),
            }
            save_checkpoint(self._checkpoint, state)

    @property
    def _checkpoint(self) -> Path:
        return self.folder.out / CHECKPOINT

    @cached_property
    def _model_state(self) -> dict[str, Tensor]:
        # Training changes these tensors in place, so the names need to be collected only once.
        return dict(self.model.state_dict(keep_vars=True))

    def train(self, recorder: Recorder, progress: ProgressFn | None = None) -> None:
        """Run the remaining steps; ``recorder`` is open, and is told of every step on the main process.

        Raises:
            Interrupted: SIGTERM came; the state is saved.
            FailureError: a loss that is not finite; or too many unreadable images, and the state is saved.
        """
        total, first = self.schedule.total, self.counters.step
        net = self._parallel()
        self.model.train()
        source = batches(self.dataset, self.counters.step, total, workers=self.workers)
        with catch_sigterm() as stop:
            mark = time.perf_counter()
            started = (mark, self.counters.images_seen)
            for step in range(self.counters.step, total):
                begun, images = time.perf_counter(), self.counters.images_seen
                batch = next(source)
                waited = time.perf_counter() - begun
                # Before the forward pass, which changes what BN remembers: the state to go on from is that of now.
                counts = self._admitted(step, batch, saved=step == first)
                loss, stopped = self._step(net, step, batch, stop_requested=stop.requested)
                self.counters.images_seen, self.counters.unreadable = counts
                now = time.perf_counter()
                self.counters.step, self.counters.loss = step + 1, loss
                self.counters.seconds += now - mark
                mark = now
                if self.processes.main:
                    recorder.step(step + 1, total, self._numbers(now - begun, waited, images))
                if progress is not None:
                    rate = (self.counters.images_seen - started[1]) / max(now - started[0], 1e-9)
                    progress(step + 1, total, {"loss": loss, "images/s": rate})
                due = self.checkpoint_period and (step + 1) % self.checkpoint_period == 0
                if due or stopped or step + 1 == total:
                    self.save()
                if stopped and step + 1 < total:
                    self.processes.wait()  # else the first to leave would have the others ended while they save
                    raise Interrupted(
                        f"stopped by SIGTERM after step {step + 1} of {total}", hint=f"add {parameter('resume', True)}"
                    )

    def _numbers(self, seconds: float, waited: float, images_before: int) -> dict[str, float]:
        counters = self.counters
        return {
            "loss": counters.loss,
            "lr": self.optimizer.param_groups[0]["lr"],
            "images": counters.images_seen,
            "epoch": counters.images_seen / self.dataset.plan.images,
            "unreadable": counters.unreadable,
            "time": seconds,
            "data_time": waited,
            "images_per_s": (counters.images_seen - images_before) / max(seconds, 1e-9),
        }

    def _parallel(self) -> nn.Module:
        if self.processes.size == 1:
            return self.model
        ids = [self.processes.device] if self.processes.device.type == "cuda" else None
        return nn.parallel.DistributedDataParallel(self.model, device_ids=ids)

    def _step(self, net: nn.Module, step: int, batch: LabelledBatch, *, stop_requested: bool) -> tuple[float, bool]:
        """Forward, backward, update; returns (mean loss over all processes, somebody was asked to stop)."""
        device = self.processes.device
        rate = self.base_lr * self.schedule(step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.amp):
            logits = net(batch.images.to(device, non_blocking=True))
        loss = _loss(logits, batch)
        self.optimizer.zero_grad(set_to_none=True)
        # The check comes before the update: a poisoned gradient must reach neither the weights nor a checkpoint.
        own = loss.item()
        sums = self.processes.sum(own, float(stop_requested))
        mean = sums[0] / self.processes.size
        self._check(step, batch, own, mean)
        loss.backward()
        self.optimizer.step()
        return mean, sums[1] > 0

    def _check(self, step: int, batch: LabelledBatch, own: float, mean: float) -> None:
        if math.isfinite(mean):
            return
        keys = "on another process"
        if not math.isfinite(own):
            shown = [repr(self.dataset.images.key(row)) for row in batch.rows[:8].tolist()]
            more = f" and {len(batch.rows) - 8} more" if len(batch.rows) > 8 else ""
            keys = f"with images {', '.join(shown)}{more}"
        raise FailureError(
            f"loss is {mean} at step {step}, {keys}", hint="lower PRETRAIN.OPTIMIZER.BASE_LR or lengthen the warmup"
        )

    def _admitted(self, step: int, batch: LabelledBatch, *, saved: bool) -> tuple[int, int]:
        """Images seen and images that could not be read, of all processes and steps, with this batch.

        Args:
            saved: the state of now is on the disk already, or there is none.

        Raises:
            FailureError: too many cannot be read; the steps before are saved.
        """
        for row, reason in batch.unreadable:
            logger.warning("skipped image %r: %s", self.dataset.images.key(row), reason)
        asked = len(batch.rows) + len(batch.unreadable)
        too_few = len(batch.rows) < min(2, asked)  # BN has no variance of one
        sums = self.processes.sum(len(batch.rows), len(batch.unreadable), float(too_few))
        seen, unreadable = self.counters.images_seen + round(sums[0]), self.counters.unreadable + round(sums[1])
        read = seen + unreadable
        # Early on a single bad image would be a large share of the few read.
        floor = min(_GRACE, self.dataset.plan.images)
        if not sums[2] and unreadable <= self.max_unreadable * max(read, floor):
            return seen, unreadable
        hint = "check the corpus' files; their keys are in the log"
        if sums[2]:
            error = FailureError(f"step {step}: {self._first_unreadable(batch, asked)}", hint=hint)
        else:
            said = f"{unreadable} of {read} images read so far are unreadable, more than the share "
            said += f"{self.max_unreadable:g} that PRETRAIN.LOADER.MAX_UNREADABLE allows"
            error = FailureError(said, hint=hint)
        if saved:
            raise error
        self.save()
        self.processes.wait()  # else the first to leave would have the others ended while they save
        raise with_way_on(error, step)

    def _first_unreadable(self, batch: LabelledBatch, asked: int) -> str:
        if not batch.unreadable:
            return "another process has too few images that can be read"
        row, reason = batch.unreadable[0]
        key = self.dataset.images.key(row)
        return f"{len(batch.unreadable)} of {asked} images cannot be read, first {key!r}: {reason}"


def _loss(logits: Tensor, batch: LabelledBatch) -> Tensor:
    if batch.absent is None:
        return sparse_logistic_loss(logits, batch.labels, batch.offsets)
    return known_logistic_loss(logits, batch.labels, batch.offsets, *batch.absent)


def read_run_checkpoint(folder: RunFolder) -> dict[str, Any] | None:
    """The state that a run goes on from; None where it has no checkpoint yet.

    Raises:
        UserError: the checkpoint is damaged, or another run's.
    """
    path = folder.out / CHECKPOINT
    if not path.exists():
        return None
    state = load_checkpoint(path)
    refuse_other_run(state, folder.fingerprint, str(path), folder.parts)
    return state
