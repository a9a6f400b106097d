"""How the steps of a run calculate, from ``PRETRAIN.STEP``."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from scaleprior.training.arithmetic import arithmetic

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["calculating"]


def calculating(cfg: CfgNode) -> contextlib.AbstractContextManager[None]:
    """The block in which torch calculates as ``cfg.PRETRAIN.STEP`` says; entered before a GPU is touched.

    Raises:
        UserError: see :func:`scaleprior.training.arithmetic.arithmetic`; when it is entered.
    """
    step = cfg.PRETRAIN.STEP
    return arithmetic(
        tf32=step.TF32,
        cudnn_benchmark=step.CUDNN_BENCHMARK,
        deterministic=step.DETERMINISTIC,
        gpu=cfg.MODEL.DEVICE != "cpu",
    )
