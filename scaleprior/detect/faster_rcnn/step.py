"""One step of fine-tuning: losses, gradients, and the update of the weights."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch

from scaleprior.detect.data.loader import DetectionBatch
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.solver import build_optimizer, clip_gradients, lr_factor
from scaleprior.detect.faster_rcnn.truth import Truth
from scaleprior.errors import FailureError
from scaleprior.training.checkpoint import lay_out_as_weights
from scaleprior.training.seeds import mixed_seed

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["TrainStep"]


class TrainStep:
    """What is done with a batch; everything random in it comes from the seed and the number of the step.

    Args:
        model: on its device.
        seed: of the run.
    """

    def __init__(self, cfg: CfgNode, model: Detector, *, seed: int) -> None:
        self.cfg = cfg
        self.model = model
        self.seed = seed
        self.optimizer = build_optimizer(cfg, model)
        self.factor = lr_factor(cfg)
        self.device = model.pixel_mean.device
        # bfloat16 has float32's range, so only float16, on a GPU, needs its loss scaled
        self.scaler = torch.amp.GradScaler(
            self.device.type, enabled=cfg.SOLVER.AMP.ENABLED and self.device.type == "cuda"
        )

    def __call__(self, batch: DetectionBatch, step: int) -> dict[str, float]:
        """Learn from ``batch`` as step ``step`` (from 0); the losses and the learning rate.

        Raises:
            FailureError: a loss is not finite; nothing was updated.
        """
        rate = self.factor(step / self.cfg.SOLVER.MAX_ITER)
        for group in self.optimizer.param_groups:
            group["lr"] = group["initial_lr"] * rate
        # the samplers of proposals draw from torch's global generator
        torch.manual_seed(mixed_seed(self.seed, step))
        kind = torch.float16 if self.device.type == "cuda" else torch.bfloat16
        with torch.autocast(self.device.type, dtype=kind, enabled=self.cfg.SOLVER.AMP.ENABLED):
            losses = self.model(batch.images, batch.sizes, Truth.padded(batch.boxes, batch.classes, batch.masks))
        loss = torch.stack(list(losses.values())).sum()
        parts = {name: value.item() for name, value in losses.items()}
        if not all(math.isfinite(value) for value in parts.values()):
            bad = ", ".join(f"{name} {value}" for name, value in parts.items() if not math.isfinite(value))
            raise FailureError(
                f"the loss is not finite at step {step}: {bad}; images {', '.join(map(str, batch.ids))}",
                hint="lower SOLVER.BASE_LR, lengthen the warmup or clip gradients (SOLVER.CLIP_GRADIENTS.ENABLED True)",
            )
        self.optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        if self.cfg.SOLVER.CLIP_GRADIENTS.ENABLED:
            self.scaler.unscale_(self.optimizer)
            clip_gradients(self.cfg, self.optimizer)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return {"loss": sum(parts.values()), **parts, "lr": self.cfg.SOLVER.BASE_LR * rate}

    def state_dict(self) -> dict[str, Any]:
        """The optimiser's state and the scale of the loss, as a checkpoint has them."""
        return {"optimizer": self.optimizer.state_dict(), "scaler": self.scaler.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from what :meth:`state_dict` gave; other keys are passed over."""
        self.optimizer.load_state_dict(state["optimizer"])
        lay_out_as_weights(self.optimizer)
        self.scaler.load_state_dict(state["scaler"])
