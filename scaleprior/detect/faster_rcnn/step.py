"""One step of fine-tuning: losses, gradients, and an update that only finite losses bring about.

On a GPU the host asks for no answer: whether there is an update is decided on the device, and what a step found is
read when the next one was handed over.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from scaleprior.detect.data.loader import DetectionBatch
from scaleprior.detect.faster_rcnn.inputs import Inputs
from scaleprior.detect.faster_rcnn.model import Detector, has_idle_parameters
from scaleprior.detect.faster_rcnn.model_file import model_names
from scaleprior.detect.faster_rcnn.solver import build_optimizer, clip_gradients, lr_factor
from scaleprior.detect.overflow import first_overflow, label_of
from scaleprior.detect.precision import amp_dtype
from scaleprior.detect.scaling import ScaleWatch
from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.training.agreement import agree
from scaleprior.training.graphs import GraphedUpdate
from scaleprior.training.optimizers import begin_at_zero, guard, guards_itself, load_optimizer
from scaleprior.training.parallel import in_parallel
from scaleprior.training.pending import Pending
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.seeds import mixed_seed

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["StepRecord", "TrainStep"]

_HINT = "lower SOLVER.BASE_LR, lengthen the warmup or clip gradients (SOLVER.CLIP_GRADIENTS.ENABLED True)"

_RECORDINGS = 16  # sizes of batches that are recorded; the memory of all is that of the largest
_OBJECTS = 16  # a recording fits batches whose images have up to so many, or a multiple of it


@dataclass(frozen=True)
class StepRecord:
    """A step that was handed to the device.

    Attributes:
        step: from 0. batch: of this process.
        names: of the losses. rate: learning rate.
    """

    step: int
    batch: DetectionBatch
    names: tuple[str, ...]
    rate: float


class TrainStep:
    """What is done with a batch; everything random in it comes from the seed, the step and an image's place.

    Args:
        model: on its device.
        seed: of the run.
        processes: that share out the batches; gradients and figures are the means of theirs. None: this one alone.
        optimizer: over the model's parameters; by default that of the config.

    Attributes:
        dtype: of autocast; None without.

    Raises:
        UserError: SCALEPRIOR.STEP_MODE asks for what cannot be here.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: Detector,
        *,
        seed: int,
        processes: ProcessGroup | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> None:
        self.cfg = cfg
        self.model = model
        self.seed = seed
        self.device = model.pixel_mean.device
        self.processes = processes or ProcessGroup(0, 1, self.device)
        if self.processes.size > 1:
            model.roi_heads.processes = self.processes
        self.net = in_parallel(model, self.processes, unused=has_idle_parameters(cfg))
        self.optimizer = build_optimizer(cfg, model) if optimizer is None else optimizer
        self.factor = lr_factor(cfg)
        self.dtype = amp_dtype(cfg, self.device)
        # bfloat16 has float32's range, so only float16 needs its loss scaled
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)
        self._scale = ScaleWatch()
        self._pending: Pending[StepRecord] = Pending(self.device)
        self._found_inf: Tensor | None = None
        if guards_itself(self.optimizer):
            begin_at_zero(self.optimizer)
            self._found_inf = torch.zeros((), device=self.device)
        self._names: tuple[str, ...] = ()
        self._graphed: GraphedUpdate[Inputs, Tensor] | None = None
        if cfg.SCALEPRIOR.STEP_MODE == "graph":
            reason = self._cannot_record()
            if reason is not None:
                raise UserError(f"SCALEPRIOR.STEP_MODE is graph, and {reason}", hint="take eager")
            self._graphed = GraphedUpdate(self._make, self.optimizer.zero_grad, self.device, most=_RECORDINGS)

    def __call__(self, batch: DetectionBatch, step: int) -> None:
        """Learn from ``batch`` as step ``step`` (from 0); :meth:`settled` tells what it found."""
        rate = self.factor(step / self.cfg.SOLVER.MAX_ITER)
        self._set_rate(rate)
        torch.manual_seed(mixed_seed(self.seed, step))  # of what else may draw from torch's global generator
        inputs = self._inputs(batch, step)
        values = self._make(inputs) if self._graphed is None else self._graphed(inputs)
        self._pending.add(StepRecord(step, batch, self._names, self.cfg.SOLVER.BASE_LR * rate), values)

    def _set_rate(self, factor: float) -> None:
        for group in self.optimizer.param_groups:
            if isinstance(group["lr"], Tensor):  # on the device, where a recorded step reads it
                group["lr"].fill_(group["initial_lr"] * factor)
            else:
                group["lr"] = group["initial_lr"] * factor

    def _cannot_record(self) -> str | None:
        """Why no step could be recorded as a CUDA graph; None if it can be."""
        if self.device.type != "cuda":
            return f"the device is {self.device.type}"
        if self.processes.joined:
            return "this process is one of a group"
        return self.model.waits_for()

    def _make(self, inputs: Inputs) -> Tensor:
        """The step's work on the device; what it found, as :attr:`_pending` keeps it."""
        self.optimizer.zero_grad(set_to_none=True)  # the maps of a forward pass have the room of the last gradients
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=self.dtype is not None):
            losses = self._losses(self.net, inputs)
        self._names = tuple(losses)
        own = torch.stack([loss.detach() for loss in losses.values()])
        # What all processes see alike: none may update what another leaves, or come to an exchange alone.
        means = self.processes.all_reduce(own.clone()) / self.processes.size
        finite = torch.isfinite(means).all()
        if self._found_inf is not None or bool(finite):
            self._update(torch.stack(list(losses.values())).sum(), finite)
        # scale() is how a scaler gives its scale without waiting for it
        scale = self.scaler.scale(own.new_ones(1))
        return torch.cat((means, own, cast("Tensor", scale)))

    def settled(self, *, all_of_them: bool = False) -> Iterator[tuple[int, dict[str, float]]]:
        """(steps done, figures) of the steps whose figures are to be read now, each once.

        Figures are "loss", their sum, the mean over all processes of every loss, and "lr".

        Args:
            all_of_them: the newest, too, for which a GPU is waited for.

        Raises:
            FailureError: a loss was not finite, and that step updated nothing; or none has been for long, because
                float16 holds no gradient. Every process raises it, with the images of the first of them.
        """
        for record, values in self._pending.settled(all_of_them=all_of_them):
            means = dict(zip(record.names, values))
            if not all(map(math.isfinite, means.values())):
                raise self._not_finite(record, values[len(means) : 2 * len(means)])
            if self.scaler.is_enabled():
                self._scale.look(record.step, values[-1])
            yield record.step + 1, {"loss": sum(means.values()), **means, "lr": record.rate}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the scale of the loss, as a checkpoint has them."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave, on whatever device; other keys are passed over."""
        load_optimizer(self.optimizer, state["optimizer"])
        if state["scaler"]:  # empty where it was saved on a device that needs none
            self.scaler.load_state_dict(state["scaler"])

    def _inputs(self, batch: DetectionBatch, step: int) -> Inputs:
        """Of a shape that comes back, where steps are recorded; on the device, for which DDP would wait."""
        seed = mixed_seed(self.seed, step)
        seeds = [mixed_seed(seed, slot) % 2**32 for slot in batch.slots]
        if self._graphed is None:
            return Inputs.of(batch, seeds, self.device)
        return Inputs.of(batch, seeds, self.device, divisor=max(self.model.divisibility, 1), objects=_OBJECTS)

    def _losses(self, net: nn.Module, inputs: Inputs) -> dict[str, Tensor]:
        return net(inputs.images, inputs.sizes, inputs.truth, inputs.seeds)

    def _update(self, loss: Tensor, finite: Tensor) -> None:
        """Gradients of ``loss`` and the optimiser's step, which an optimiser that guards itself makes if ``finite``."""
        scaled = cast("Tensor", self.scaler.scale(loss))
        if self._found_inf is not None:
            if self.scaler.is_enabled():  # it looks at the gradients alone, so they have to say so
                scaled = scaled * torch.where(finite, 1.0, torch.nan)
            else:
                self._found_inf.copy_(~finite)
                guard(self.optimizer, self._found_inf)
        scaled.backward()
        if self.cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.cfg, self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _not_finite(self, record: StepRecord, own: Sequence[float]) -> ScalePriorError:
        """What to say of a step whose loss was not finite in some process; the same in all, which all call this."""
        hint, cause = _HINT, ""
        if self.dtype is not None:
            inputs = self._inputs(record.batch, record.step)
            found = first_overflow(self.model, lambda: self._losses(self.model, inputs), self.dtype)
            if found is not None:
                cause = f"; {found.words(label_of(found.module, model_names(self.model)))}"
                hint = found.hint if found.fits_float32 else hint
        bad = [f"{name} {value}" for name, value in zip(record.names, own) if not math.isfinite(value)]
        said = f"the loss is not finite at step {record.step}: {', '.join(bad)}"
        error = FailureError(f"{said}; images {', '.join(map(str, record.batch.ids))}{cause}", hint=hint)
        first, _ = agree(self.processes, error if bad else None)
        assert first is not None
        return first
