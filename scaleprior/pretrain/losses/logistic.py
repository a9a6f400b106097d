"""Per-label logistic loss with sparse targets: what is not listed for an image is a negative, or left out.

B images, C labels, M positives in the batch. Labels are CSR: image i has ``labels[offsets[i]:offsets[i + 1]]``.
Sun et al. 2017 train JFT-300M with this loss; their 18,291 labels make the dense B x C target mostly zeros, so it is
never built here. Beyond the logits, the backward pass holds one B x C tensor, of their type: the gradient. On a GPU the
forward pass holds one in float32, on a CPU blocks of rows; where unlisted labels are left out, neither.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.losses.terms import (
    fill_losses,
    fill_slopes,
    listed_losses,
    listed_pairs,
    listed_slopes,
    row_blocks,
    wide_dtype,
    widened,
)

__all__ = ["known_logistic_loss", "logistic_loss", "sparse_logistic_loss"]

Reduction = Literal["mean", "sum", "none"]


def logistic_loss(logits: Tensor, targets: Targets, *, smoothing: float = 0.0) -> Tensor:
    """The sum over B images of the loss below that their targets ask for, in float32 or wider; a scalar.

    Args:
        logits: floating [B, C]. targets: of these images, on the same device.
        smoothing: in [0, 1); a present label's target is ``1 - smoothing / 2``, an absent one's ``smoothing / 2``.
    """
    losses = _losses(logits, targets, smoothing)
    total = losses.sum()
    if targets.absent is None or targets.repeats is None:
        return total
    last = torch.stack((losses[len(targets.rows) - 1], losses[-1])).detach()
    # Of the value only: each repetition writes the gradient of the first once more.
    return total - (last * targets.repeats).sum()


def sparse_logistic_loss(
    logits: Tensor, labels: Tensor, offsets: Tensor, *, smoothing: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Logistic loss summed over labels, ``sum_c softplus(x_c) - sum_(c positive) x_c``, in float32 or wider.

    The positives' ``softplus(x) - x`` is evaluated as ``softplus(-x)``, so that confident positives do not cancel.

    Args:
        logits: floating [B, C].
        labels: integers [M] in [0, C). A label listed twice for an image counts once.
        offsets: integers [B + 1], from 0 to M, not decreasing.
        smoothing: see :func:`logistic_loss`.
        reduction: "mean" over the B images, their "sum", or "none" for [B].

    Raises:
        ValueError: shapes that do not fit, a label outside [0, C), or an unknown reduction.
    """
    # Where the labels come from the CPU, all checks stay there: on a GPU each would wait for the device.
    targets = _targets(logits, labels, offsets).to(logits.device)
    return _reduced(_losses(logits, targets, smoothing), reduction)


def known_logistic_loss(
    logits: Tensor,
    labels: Tensor,
    offsets: Tensor,
    absent: Tensor,
    absent_offsets: Tensor,
    *,
    smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Logistic loss over the labels that are known of an image; the others have neither loss nor gradient.

    ``sum_(c present) softplus(-x_c) + sum_(c absent) softplus(x_c)``, in float32 or wider. It is not divided by the
    number of known labels, so an image of which more is known counts more.

    Args:
        logits: floating [B, C].
        labels, offsets: the present labels, as in :func:`sparse_logistic_loss`.
        absent, absent_offsets: the absent ones, in the same form. A label listed twice counts once, and one that is
            listed as both counts as present.
        smoothing: see :func:`logistic_loss`.
        reduction: "mean" over the B images, their "sum", or "none" for [B].

    Raises:
        ValueError: shapes that do not fit, a label outside [0, C), or an unknown reduction.
    """
    targets = _targets(logits, labels, offsets, (absent, absent_offsets)).to(logits.device)
    losses = _losses(logits, targets, smoothing)
    if reduction == "mean":  # without the sums of each image, which a GPU adds in an order of its own
        return losses.sum() / len(logits)
    rows = listed_pairs(targets)[0]
    return _reduced(losses.new_zeros(len(logits)).index_add(0, rows, losses), reduction)


def _targets(logits: Tensor, labels: Tensor, offsets: Tensor, absent: tuple[Tensor, Tensor] | None = None) -> Targets:
    if logits.ndim != 2 or offsets.ndim != 1 or len(offsets) != len(logits) + 1 or labels.ndim != 1:
        raise ValueError(
            f"need logits [B, C], labels [M], offsets [B + 1]; got {tuple(logits.shape)}, {tuple(labels.shape)}, "
            f"{tuple(offsets.shape)}"
        )
    return Targets.from_csr(labels, offsets, classes=logits.shape[1], absent=absent)


def _losses(logits: Tensor, targets: Targets, smoothing: float) -> Tensor:
    """Of each image, [B]; where only some labels are known, of each of these, [m]."""
    rows, labels, signs = listed_pairs(targets)
    places = rows * targets.classes + labels
    if signs is None:
        return _SparseLogistic.apply(logits.contiguous(), rows, places, smoothing)
    return _KnownLogistic.apply(logits, places, signs, smoothing)


def _reduced(per_image: Tensor, reduction: Reduction) -> Tensor:
    if reduction == "none":
        return per_image
    if reduction not in ("mean", "sum"):
        raise ValueError(f"reduction is {reduction!r}, take mean, sum or none")
    return per_image.mean() if reduction == "mean" else per_image.sum()


class _SparseLogistic(torch.autograd.Function):
    """Written by hand because autograd would scatter the positives' gradient into a second dense B x C tensor."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, rows: Tensor, places: Tensor, smoothing: float) -> Tensor:
        negated = -widened(logits.view(-1).index_select(0, places))
        ctx.save_for_backward(logits, rows, places, negated)
        ctx.smoothing = smoothing
        positives = listed_losses(negated, smoothing)
        per_image = logits.new_empty(len(logits), dtype=wide_dtype(logits.dtype))
        for images, listed in row_blocks(logits, rows):
            losses = per_image.new_empty(logits[images].shape)
            fill_losses(losses, logits[images], smoothing)
            before = images.start * logits.shape[1]
            losses.view(-1).scatter_(0, places[listed] - before if before else places[listed], positives[listed])
            per_image[images] = losses.sum(dim=1)
        return per_image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        logits, rows, places, negated = ctx.saved_tensors
        slopes = torch.empty_like(logits)
        for images, _ in row_blocks(logits, rows):
            fill_slopes(slopes[images], logits[images], grad[images, None], ctx.smoothing)
        positives = listed_slopes(negated, None, grad.index_select(0, rows), ctx.smoothing)
        slopes.view(-1).scatter_(0, places, positives.to(slopes.dtype))
        return slopes, None, None, None


class _KnownLogistic(torch.autograd.Function):
    """``softplus(sign * x)`` at unique places of the flattened logits; by hand for the reason above."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, places: Tensor, signs: Tensor, smoothing: float) -> Tensor:
        known = widened(logits.flatten().index_select(0, places))
        signs = signs.to(known.dtype)
        signed = known.mul_(signs)
        ctx.save_for_backward(signed, signs, places)
        ctx.like = logits.shape, logits.dtype
        ctx.smoothing = smoothing
        return listed_losses(signed, smoothing)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        signed, signs, places = ctx.saved_tensors
        shape, dtype = ctx.like
        slopes = torch.zeros(shape, dtype=dtype, device=grad.device)
        slopes.view(-1).scatter_(0, places, listed_slopes(signed, signs, grad, ctx.smoothing).to(dtype))
        return slopes, None, None, None
