"""Per-label logistic loss with sparse targets: what is not listed for an image is a negative, or left out.

B images, C labels, M positives in the batch. Labels are CSR: image i has ``labels[offsets[i]:offsets[i + 1]]``.
Sun et al. 2017 train JFT-300M with this loss; their 18,291 labels make the dense B x C target mostly zeros, so it is
never built here. Beyond the logits, the forward pass and the backward pass hold one B x C tensor each; where unlisted
labels are left out, the backward pass alone.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from scaleprior.pretrain.losses.targets import Targets

__all__ = ["known_logistic_loss", "logistic_loss", "sparse_logistic_loss"]

Reduction = Literal["mean", "sum", "none"]


def logistic_loss(logits: Tensor, targets: Targets) -> Tensor:
    """The sum over B images of the loss below that their targets ask for, in float32 or wider; a scalar.

    Args:
        logits: floating [B, C]. targets: of these images, on the same device.
    """
    if targets.absent is None:
        return _SparseLogistic.apply(_widened(logits), targets.rows, targets.labels).sum()
    places, signs = _known_places(targets)
    return _KnownLogistic.apply(logits, places, signs).sum()


def sparse_logistic_loss(logits: Tensor, labels: Tensor, offsets: Tensor, *, reduction: Reduction = "mean") -> Tensor:
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
    targets = _targets(logits, labels, offsets).to(logits.device)
    return _reduced(_SparseLogistic.apply(_widened(logits), targets.rows, targets.labels), reduction)


def known_logistic_loss(
    logits: Tensor,
    labels: Tensor,
    offsets: Tensor,
    absent: Tensor,
    absent_offsets: Tensor,
    *,
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
        reduction: "mean" over the B images, their "sum", or "none" for [B].

    Raises:
        ValueError: shapes that do not fit, a label outside [0, C), or an unknown reduction.
    """
    # Where the labels come from the CPU, all checks stay there: on a GPU each would wait for the device.
    targets = _targets(logits, labels, offsets, (absent, absent_offsets)).to(logits.device)
    places, signs = _known_places(targets)
    losses = _KnownLogistic.apply(logits, places, signs)
    if reduction == "mean":  # without the sums of each image, which a GPU adds in an order of its own
        return losses.sum() / len(logits)
    return _reduced(losses.new_zeros(len(logits)).index_add(0, places // logits.shape[1], losses), reduction)


def _targets(logits: Tensor, labels: Tensor, offsets: Tensor, absent: tuple[Tensor, Tensor] | None = None) -> Targets:
    if logits.ndim != 2 or offsets.ndim != 1 or len(offsets) != len(logits) + 1 or labels.ndim != 1:
        raise ValueError(
            f"need logits [B, C], labels [M], offsets [B + 1]; got {tuple(logits.shape)}, {tuple(labels.shape)}, "
            f"{tuple(offsets.shape)}"
        )
    return Targets.from_csr(labels, offsets, classes=logits.shape[1], absent=absent)


def _widened(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits


def _known_places(targets: Targets) -> tuple[Tensor, Tensor]:
    """Places of the known labels in the flattened logits, and -1 for those that are present, 1 for the others."""
    assert targets.absent is not None
    rows, labels = targets.absent
    present, missing = targets.rows * targets.classes + targets.labels, rows * targets.classes + labels
    signs = torch.ones(len(present) + len(missing), device=present.device)
    signs[: len(present)] = -1
    return torch.cat((present, missing)), signs


def _reduced(per_image: Tensor, reduction: Reduction) -> Tensor:
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


class _KnownLogistic(torch.autograd.Function):
    """``softplus(sign * x)`` at unique places of the flattened logits; by hand for the reason above."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, places: Tensor, signs: Tensor) -> Tensor:
        known = logits.flatten()[places]
        known = _widened(known)
        signed = known * signs.to(known)
        ctx.save_for_backward(signed, signs, places)
        ctx.like = logits.shape, logits.dtype
        return _softplus(signed)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        signed, signs, places = ctx.saved_tensors
        shape, dtype = ctx.like
        slopes = torch.zeros(shape, dtype=dtype, device=grad.device)
        slopes.view(-1)[places] = (signs.to(signed) * torch.sigmoid(signed) * grad).to(dtype)
        return slopes, None, None


def _softplus(x: Tensor) -> Tensor:
    # Above its threshold torch takes softplus(x) = x; at the default of 20 that shows in float64.
    return F.softplus(x, threshold=40.0)
