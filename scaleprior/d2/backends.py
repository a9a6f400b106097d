"""Keys that Detectron2's ``default_setup`` turns into settings of torch, for runs that do not go through it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from detectron2.config import CfgNode

from scaleprior.errors import UserError

__all__ = ["check_backends", "torch_settings"]

_PRECISIONS = ("", "highest", "high", "medium")


def check_backends(cfg: CfgNode) -> None:
    """Refuse a precision that torch does not know.

    Raises:
        UserError: names it.
    """
    precision = cfg.get("FLOAT32_PRECISION", "")
    if precision not in _PRECISIONS:
        raise UserError(f"FLOAT32_PRECISION is {precision!r}", hint="use one of " + ", ".join(map(repr, _PRECISIONS)))


@contextlib.contextmanager
def torch_settings(cfg: CfgNode, *, training: bool) -> Iterator[None]:
    """``CUDNN_BENCHMARK`` (of a training only) and ``FLOAT32_PRECISION`` (on a GPU only) while a run lasts.

    They are those of the whole process, whose other work may want others: they are put back at the end.
    """
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    precision = cfg.get("FLOAT32_PRECISION", "")  # not in older Detectron2s
    try:
        if training:
            cudnn.benchmark = cfg.CUDNN_BENCHMARK
        if precision and torch.cuda.is_available():
            torch.set_float32_matmul_precision(precision)
            cudnn.allow_tf32 = precision != "highest"
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])
