"""How the steps of a run calculate, from ``PRETRAIN.STEP``."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from scaleprior.training.arithmetic import arithmetic

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["calculating"]


_KEPT = "TORCHINDUCTOR_CACHE_DIR"  # which torch sets, and we for what is compiled


@contextlib.contextmanager
def calculating(cfg: CfgNode) -> Iterator[None]:
    """The block in which torch calculates as ``cfg.PRETRAIN.STEP`` says; entered before a GPU is touched.

    Behind it the program has what it had.

    Raises:
        UserError: see :func:`scaleprior.training.arithmetic.arithmetic`; when it is entered.
    """
    step, before = cfg.PRETRAIN.STEP, os.environ.get(_KEPT)
    settings = arithmetic(
        tf32=step.TF32,
        cudnn_benchmark=step.CUDNN_BENCHMARK,
        deterministic=step.DETERMINISTIC,
        gpu=cfg.MODEL.DEVICE != "cpu",
    )
    try:
        with settings:
            yield
    finally:
        if before is None:
            os.environ.pop(_KEPT, None)
        else:
            os.environ[_KEPT] = before
