"""One step of fine-tuning: losses, gradients, and the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scaleprior.detect.data.loader import DetectionBatch
from scaleprior.detect.faster_rcnn.model import Detector, has_idle_parameters
from scaleprior.detect.faster_rcnn.solver import build_optimizer, clip_gradients, lr_factor
from scaleprior.detect.faster_rcnn.truth import Truth
from scaleprior.errors import FailureError
from scaleprior.training.agreement import agree
from scaleprior.training.checkpoint import lay_out_as_weights
from scaleprior.training.parallel import in_parallel
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.seeds import mixed_seed

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["TrainStep"]


class TrainStep:
    """What is done with a batch; everything random in it comes from the seed and the number of the step.

    Args:
        model: on its device.
        seed: of the run.
        processes: that share out the batches; gradients and figures are the means of theirs. None: this one alone.
    """

    def __init__(self, cfg: CfgNode, model: Detector, *, seed: int, processes: ProcessGroup | None = None) -> None:
        self.cfg = cfg
        self.seed = seed
        self.device = model.pixel_mean.device
        self.processes = processes or ProcessGroup(0, 1, self.device)
        if self.processes.size > 1:
            model.roi_heads.processes = self.processes
        self.net = in_parallel(model, self.processes, unused=has_idle_parameters(cfg))
        self.optimizer = build_optimizer(cfg, model)
        self.factor = lr_factor(cfg)
        # bfloat16 has float32's range, so only float16, on a GPU, needs its loss scaled
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=cfg.SOLVER.AMP.ENABLED and self.device.type == "cuda"
        )

    def __call__(self, batch: DetectionBatch, step: int) -> dict[str, float]:
        """Learn from ``batch`` as step ``step`` (from 0); the losses and the learning rate.

        Raises:
            FailureError: a loss is not finite; nothing was updated, in no process.
        """
        rate = self.factor(step / self.cfg.SOLVER.MAX_ITER)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        seed = mixed_seed(self.seed, step)
        torch.manual_seed(seed)  # of what else may draw from torch's global generator
        seeds = [mixed_seed(seed, slot) % 2**32 for slot in batch.slots]
        kind = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=self.cfg.SOLVER.AMP.ENABLED):
            losses = self.net(batch.images, batch.sizes, Truth.padded(batch.boxes, batch.classes, batch.masks), seeds)
        loss = torch.stack(list(losses.values())).sum()
        parts = self._finite(losses, batch, step)
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.cfg, self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": sum(parts.values()), **parts, "lr": self.cfg.SOLVER.BASE_LR * rate}

    def _finite(self, losses: Mapping[str, Tensor], batch: DetectionBatch, step: int) -> dict[str, float]:
        """The mean over all processes of each loss.

        Raises:
            FailureError: one is not finite; in every process with the images of the first in which it is.
        """
        values = torch.stack([loss.detach() for loss in losses.values()])
        means = dict(zip(losses, (self.processes.all_reduce(values.clone()) / self.processes.size).tolist()))
        if all(math.isfinite(value) for value in means.values()):
            return means
        own = {name: value for name, value in zip(losses, values.tolist()) if not math.isfinite(value)}
        error = None
        if own:
            bad = ", ".join(f"{name} {value}" for name, value in own.items())
            error = FailureError(
                f"the loss is not finite at step {step}: {bad}; images {', '.join(map(str, batch.ids))}",
                hint="lower SOLVER.BASE_LR, lengthen the warmup or clip gradients (SOLVER.CLIP_GRADIENTS.ENABLED True)",
            )
        found, _ = agree(self.processes, error)
        assert found is not None, means
        raise found

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the scale of the loss, as a checkpoint has them."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; other keys are passed over."""
        self.optimizer.load_state_dict(state["optimizer"])
        lay_out_as_weights(self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
