"""The logistic loss of single logits and its slope, for blocks of images and labels; no autograd.

b images, K labels, m listed pairs of image and label. Losses are float32 or wider whatever the logits are, slopes have
the logits' type. A listed pair has sign -1 where its label is present and 1 where it is absent: its loss is
``softplus(sign * x)``, so that confident positives do not cancel. Listed terms are written over those of the others,
never added to them, so a pair that is listed twice counts once.

On a CPU everything happens in blocks of rows, whose memory is used again; on a GPU in few launches, none of which the
host waits for.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from scaleprior.pretrain.losses.targets import Targets

__all__ = [
    "fill_losses",
    "fill_slopes",
    "listed_losses",
    "listed_pairs",
    "listed_slopes",
    "row_blocks",
    "wide_dtype",
    "widened",
]

_BLOCK_BYTES = 16 * 2**20
"""Of a block of losses: glibc gives memory below 32 MiB that was freed again, with its pages, where more costs a page
fault for every 4 KiB; and smaller blocks would start and gather threads more often, which takes long where threads
outnumber cores (measured with 2 of each at a load of 10: 0.5 MiB a thread took six times as long as 16)."""
_THRESHOLD = 40.0
"""Above its threshold torch takes softplus(x) = x; at the default of 20 that shows in float64."""


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """What losses of logits of ``dtype`` are computed in: float32 for half precision, else the same."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def widened(x: Tensor) -> Tensor:
    """``x`` in float32 or wider; itself if it is that."""
    return x.to(wide_dtype(x.dtype))


def listed_pairs(targets: Targets) -> tuple[Tensor, Tensor, Tensor | None]:
    """Images and labels of the listed pairs, int64 [m], and their signs; None for the signs where all are present."""
    if targets.absent is None:
        return targets.rows, targets.labels, None
    rows, labels = targets.absent
    signs = torch.ones(len(targets.rows) + len(rows), device=rows.device)
    signs[: len(targets.rows)] = -1
    return torch.cat((targets.rows, rows)), torch.cat((targets.labels, labels)), signs


def row_blocks(logits: Tensor, rows: Tensor) -> Iterator[tuple[slice, slice]]:
    """Images of [B, C] that are worked on together, and which of the pairs are theirs; ``rows`` [m] rise."""
    images, step = len(logits), len(logits)
    if logits.device.type == "cpu" and not torch.compiler.is_compiling():  # a compiler makes loops of its own
        row_bytes = max(logits.shape[1] * wide_dtype(logits.dtype).itemsize, 1)
        step = max(_BLOCK_BYTES // row_bytes, 1)
    if step >= images:
        yield slice(0, images), slice(0, len(rows))
        return
    edges = [*range(0, images, step), images]
    bounds = torch.searchsorted(rows, torch.tensor(edges)).tolist()
    for place, start in enumerate(edges[:-1]):
        yield slice(start, edges[place + 1]), slice(bounds[place], bounds[place + 1])


def fill_losses(losses: Tensor, logits: Tensor, smoothing: float = 0.0) -> None:
    """Write ``softplus(x) - smoothing / 2 * x``, the loss of labels that are absent, into ``losses``, wide [b, K]."""
    if logits.dtype == losses.dtype:
        torch.ops.aten.softplus.out(logits, 1.0, _THRESHOLD, out=losses)
    elif _fuses(logits):  # log(exp(x) + exp(0)) reads half and writes float32 at once, without a float32 copy of x
        torch.logaddexp(logits, losses.new_zeros(1), out=losses)
    else:
        torch.ops.aten.softplus.out(losses.copy_(logits), 1.0, _THRESHOLD, out=losses)
    if smoothing:
        losses.sub_(logits, alpha=smoothing / 2)


def listed_losses(signed: Tensor, smoothing: float = 0.0) -> Tensor:
    """``softplus(s) - smoothing / 2 * s`` of ``s = sign * x``, wide [m]."""
    losses = F.softplus(signed, threshold=_THRESHOLD)
    return losses.sub_(signed, alpha=smoothing / 2) if smoothing else losses


def fill_slopes(slopes: Tensor, logits: Tensor, scale: Tensor | None, smoothing: float = 0.0) -> None:
    """Write ``scale * (sigmoid(x) - smoothing / 2)`` into ``slopes``, [b, K]; ``scale`` is wide, [b, 1]; None is 1."""
    wide = wide_dtype(logits.dtype)
    half = logits.dtype != wide
    if _fuses(logits) and not smoothing:
        if scale is None or half:  # not in one kernel: that would round the scale to half, and all slopes with it
            torch.sigmoid(logits, out=slopes)
            if scale is not None:
                slopes.mul_(scale)
        else:
            torch.ops.aten.softplus_backward.grad_input(scale, logits, 1.0, _THRESHOLD, grad_input=slopes)
        return
    exact = logits.to(wide).sigmoid_() if half else torch.sigmoid(logits, out=slopes)
    if smoothing:
        exact.sub_(smoothing / 2)
    if scale is not None:
        exact.mul_(scale)
    if half:
        slopes.copy_(exact)


def listed_slopes(signed: Tensor, signs: Tensor | None, scale: Tensor, smoothing: float = 0.0) -> Tensor:
    """``scale * sign * (sigmoid(s) - smoothing / 2)``, wide [m]; ``scale`` is [m] or [1], ``signs`` None is all -1."""
    slopes = torch.sigmoid(signed)
    if smoothing:
        slopes.sub_(smoothing / 2)
    slopes.mul_(scale)
    return slopes.neg_() if signs is None else slopes.mul_(signs)


def _fuses(logits: Tensor) -> bool:
    """Kernels of a GPU change types as they read and write; on a CPU each change is a copy."""
    return logits.device.type == "cuda"
