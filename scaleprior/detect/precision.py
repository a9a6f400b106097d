"""The numbers that a detector's training calculates in: those of SOLVER.AMP and SCALEPRIOR.AMP_DTYPE."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from scaleprior.errors import UserError
from scaleprior.training.memory import is_out_of_memory

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["amp_dtype", "name_of"]


def amp_dtype(cfg: CfgNode, device: torch.device) -> torch.dtype | None:
    """What autocast casts to on ``device``; None without SOLVER.AMP.ENABLED: float32.

    Raises:
        UserError: the device cannot calculate in it.
    """
    if not cfg.SOLVER.AMP.ENABLED:
        return None
    said: str = cfg.SCALEPRIOR.AMP_DTYPE
    if said == "auto":
        return torch.float16 if device.type == "cuda" else torch.bfloat16
    kind = torch.float16 if said == "float16" else torch.bfloat16
    refused = _refusal(kind, device)
    if refused:
        other = "bfloat16" if said == "float16" else "float16"
        raise UserError(
            f"SCALEPRIOR.AMP_DTYPE is {said!r}, which torch {torch.__version__} cannot train in on {device}: {refused}",
            hint=f"take {other}, auto, or SOLVER.AMP.ENABLED False",
        )
    return kind


def name_of(dtype: torch.dtype) -> str:
    """ "float16" for ``torch.float16``."""
    return str(dtype).removeprefix("torch.")


def _refusal(dtype: torch.dtype, device: torch.device) -> str:
    """Why ``dtype`` does not do there, or "": asked by a small convolution, for what a CPU can do no version says."""
    weight = torch.ones(8, 8, 3, 3, device=device, requires_grad=True)
    try:
        with torch.autocast(device.type, dtype=dtype):
            # Of a device that cannot, autocast of CPUs only warns, and calculates in float32.
            found = F.conv2d(torch.ones(1, 8, 4, 4, device=device), weight)
            if found.dtype != dtype:
                return f"autocast gives {name_of(found.dtype)}"
        found.float().sum().backward()
    except RuntimeError as e:
        if is_out_of_memory(e):
            raise
        return " ".join(str(e).split())
    return ""
