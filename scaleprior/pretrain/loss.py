"""Per-label logistic loss with sparse targets: every label that is not listed for an image is a negative.

B images, C labels, M positives in the batch. Labels are CSR: image i has ``labels[offsets[i]:offsets[i + 1]]``.
Sun et al. 2017 train JFT-300M with this loss; their 18,291 labels make the dense B x C target mostly zeros, so it is
never built here. Beyond the logits, the forward pass and the backward pass hold one B x C tensor each.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["sparse_logistic_loss"]


def sparse_logistic_loss(
    logits: Tensor, labels: Tensor, offsets: Tensor, *, reduction: Literal["mean", "sum", "none"] = "mean"
) -> Tensor:
    """Logistic loss summed over labels, ``sum_c softplus(x_c) - sum_(c positive) x_c``, in float32 or wider.

    The positives' ``softplus(x) - x`` is evaluated as ``softplus(-x)``, so that confident positives do not cancel.

    Args:
        logits: floating [B, C].
        labels: integers [M] in [0, C). A label listed twice for an image counts once.
        offsets: integers [B + 1], from 0 to M, not decreasing.
        reduction: "mean" over the B images, their "sum", or "none" for [B].

    Raises:
        ValueError: shapes that do not fit, a label outside [0, C), or an unknown reduction.
    """
    if logits.ndim != 2 or offsets.ndim != 1 or len(offsets) != len(logits) + 1 or labels.ndim != 1:
        raise ValueError(
            f"need logits [B, C], labels [M], offsets [B + 1]; got {tuple(logits.shape)}, {tuple(labels.shape)}, "
            f"{tuple(offsets.shape)}"
        )
    counts = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != len(labels) or bool((counts < 0).any()):
        raise ValueError(f"offsets must rise from 0 to the number of labels, {len(labels)}")
    if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= logits.shape[1]):
        raise ValueError(f"labels {int(labels.min())}..{int(labels.max())} are outside [0, {logits.shape[1]})")
    # Where the labels come from the CPU, all of this stays there: on a GPU each check would wait for the device.
    rows = torch.repeat_interleave(torch.arange(len(counts), device=counts.device), counts).to(logits.device)
    wide = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    per_image = _SparseLogistic.apply(wide, rows, labels.to(logits.device, torch.int64))
    if reduction == "none":
        return per_image
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, take mean, sum or none")
    return per_image.mean() if reduction == "mean" else per_image.sum()


class _SparseLogistic(torch.autograd.Function):
    """Written by hand because autograd would scatter the positives' gradient into a second dense B x C tensor."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, labels: Tensor) -> Tensor:
        ctx.save_for_backward(logits, rows, labels)
        losses = _softplus(logits)
        losses[rows, labels] = _softplus(-logits[rows, labels])
        return losses.sum(dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, rows, labels = ctx.saved_tensors
        slopes = torch.sigmoid(logits)
        slopes[rows, labels] = -torch.sigmoid(-logits[rows, labels])
        return slopes.mul_(grad[:, None]), None, None


def _softplus(x: Tensor) -> Tensor:
    # Above its threshold torch takes softplus(x) = x; at the default of 20 that shows in float64.
    return F.softplus(x, threshold=40.0)
