"""Mixed precision in Detectron2's ``AMPTrainer``: the numbers of SCALEPRIOR.AMP_DTYPE, and what becomes of overflow.

Detectron2 builds it for float16 with a scaled loss, whatever a config says. bfloat16 has the range of float32: its loss
is not scaled, by a scaler that is switched off.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.engine import AMPTrainer
from detectron2.engine.train_loop import SimpleTrainer
from detectron2.layers import ROIAlign
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from scaleprior.detect.overflow import first_overflow, label_of
from scaleprior.detect.precision import amp_dtype
from scaleprior.detect.scaling import ScaleWatch

__all__ = ["LossScale", "overflow_in", "set_precision", "with_scaler"]

logger = logging.getLogger("detectron2.scaleprior")

_SCALER = "grad_scaler"  # in the state of Detectron2's trainer


def set_precision(trainer: SimpleTrainer, cfg: CfgNode) -> None:
    """Have a trainer that Detectron2 built for mixed precision calculate in the numbers that ``cfg`` asks for.

    Its model pools regions where they are: Detectron2 rounds their corners to the type of the maps, which at 800 pixels
    is by up to a quarter of a pixel in float16 and by two in bfloat16.

    Raises:
        UserError: the device cannot.
    """
    dtype = amp_dtype(cfg, torch.device(cfg.MODEL.DEVICE))
    if isinstance(trainer, AMPTrainer) and dtype is not None:
        trainer.precision = dtype
        if dtype != torch.float16:
            trainer.grad_scaler = torch.amp.GradScaler("cuda", enabled=False)
        for module in trainer.model.modules():
            if type(module) is ROIAlign:
                module.__class__ = _ExactROIAlign


class _ExactROIAlign(ROIAlign):
    """Detectron2's for maps of 16 bits, with corners in float32; in what autocast has torchvision calculate anyway."""

    def forward(self, input: Tensor, rois: Tensor) -> Tensor:
        return super().forward(input.float(), rois).to(input.dtype)


def with_scaler(state: Mapping[str, Any], trainer: SimpleTrainer) -> dict[str, Any]:
    """The state of a trainer, with a fresh scale where it was saved by one that scaled nothing and this one scales.

    torch refuses such a state: that of a run in float32, or in bfloat16, which goes on in float16.
    """
    inner = dict(state["_trainer"])
    if isinstance(trainer, AMPTrainer) and not inner.get(_SCALER):
        inner[_SCALER] = trainer.grad_scaler.state_dict()
        if trainer.grad_scaler.is_enabled():
            logger.info("the checkpoint has no scale of the loss: it begins with that of a new run")
    return {**state, "_trainer": inner}


class LossScale:
    """Looks at a trainer's scale of the loss; of one that scales nothing there is none."""

    def __init__(self, trainer: SimpleTrainer) -> None:
        scaler = trainer.grad_scaler if isinstance(trainer, AMPTrainer) else None
        self._scaler = scaler if scaler is not None and scaler.is_enabled() else None
        self._watch = ScaleWatch()

    def look(self, step: int) -> None:
        """After ``step``. It waits for the GPU, as the scaler did for Detectron2's optimiser.

        Raises:
            FailureError: it has fallen to almost nothing.
        """
        if self._scaler is not None:
            self._watch.look(step, self._scaler.get_scale())


def overflow_in(model: nn.Module, dtype: torch.dtype | None, batch: list[Any] | None, step: int) -> tuple[str, str]:
    """(what of the network is not finite in a training pass of ``batch``, what to do); "" where neither is known.

    Args:
        dtype: of autocast; None without.
        batch: as the model takes it, of the loader that knows it.
    """
    model = getattr(model, "module", model)
    shared = comm.get_world_size() > 1 and any("SyncBatchNorm" in type(m).__name__ for m in model.modules())
    if dtype is None or not batch or shared:  # norms that processes share would wait for the others' passes
        return "", ""
    with EventStorage(step):  # what Detectron2's heads write in training has to go somewhere
        found = first_overflow(model, lambda: model(batch), dtype)
    if found is None:
        return "", ""
    words = found.words(label_of(found.module, {name: name for name in model.state_dict()}))
    return f"; {words}", found.hint if found.fits_float32 else ""
