"""Linear layer and logistic loss in one, by chunks of labels: no tensor ever holds the logits of all labels.

B images, F features, C labels, K labels a chunk. With the logits of a chunk at hand, its part of every gradient is
worked out at once, in the forward pass; the backward pass multiplies by the loss' own gradient, a number. The other
way, to work out the logits a second time in the backward pass, costs a third more matrix products and saves nothing
where the head is trained: its [C, F] gradient is made right behind the forward pass anyway, while all of the trunk's
maps are still there. Beyond that gradient, a chunk takes three B x K tensors.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.losses.terms import (
    fill_losses,
    fill_slopes,
    listed_losses,
    listed_pairs,
    listed_slopes,
    wide_dtype,
    widened,
)

__all__ = ["LossAndGradients", "chunked_logistic_loss", "loss_and_gradients"]


def chunked_logistic_loss(
    features: Tensor, weight: Tensor, bias: Tensor, targets: Targets, *, chunk: int, smoothing: float = 0.0
) -> Tensor:
    """:func:`~scaleprior.pretrain.losses.logistic.logistic_loss` of ``features @ weight.T + bias``, a scalar.

    Under autocast the matrix products are in its type, and the loss in float32.

    Args:
        features: floating [B, F]. weight: [C, F]. bias: [C].
        targets: of these images, on the same device.
        chunk: labels whose logits are held at a time.
        smoothing: as there.
    """
    pairs = listed_pairs(targets)
    return _ChunkedLogistic.apply(features, weight, bias, *pairs, targets.absent is None, chunk, smoothing)


@dataclass(frozen=True)
class LossAndGradients:
    """What a pass over all chunks leaves.

    Attributes:
        per_image: losses in float32 or wider, [B].
        features, weight, bias: gradients of the sum of ``per_image``; None where not asked for.
    """

    per_image: Tensor
    features: Tensor | None
    weight: Tensor | None
    bias: Tensor | None


def loss_and_gradients(
    features: Tensor,
    weight: Tensor,
    bias: Tensor,
    pairs: tuple[Tensor, Tensor, Tensor | None],
    *,
    dense: bool,
    chunk: int,
    smoothing: float,
    wanted: tuple[bool, bool, bool],
) -> LossAndGradients:
    """Losses and gradients over the labels that ``weight`` has rows for.

    Args:
        features, weight, bias, chunk, smoothing: as above; nothing is recorded for autograd.
        pairs: images, labels and signs of the listed pairs; a label outside [0, C) belongs to somebody else.
        dense: what is not listed is absent; else it is left out.
        wanted: gradients of features, weight, bias.
    """
    device = features.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    wide, inputs = wide_dtype(dtype), features.to(dtype)
    found = LossAndGradients(
        torch.zeros(len(features), dtype=wide, device=features.device),
        torch.zeros(features.shape, dtype=wide, device=features.device) if wanted[0] else None,
        torch.empty_like(weight) if wanted[1] else None,
        torch.empty_like(bias) if wanted[2] else None,
    )
    rows, labels, signs = pairs
    signs = None if signs is None else signs.to(wide)
    for start in range(0, len(weight), chunk):
        part = slice(start, min(start + chunk, len(weight)))
        rows_of_part = weight[part].to(dtype)
        logits = torch.addmm(bias[part].to(dtype), inputs, rows_of_part.T)
        block = _Block(logits, rows, labels - start, signs, dense=dense, smoothing=smoothing)
        found.per_image.add_(block.losses())
        if not any(wanted):
            continue
        slopes = block.slopes()
        if found.features is not None:
            found.features.add_(slopes @ rows_of_part)
        if found.weight is not None:
            found.weight[part] = slopes.T @ inputs
        if found.bias is not None:
            found.bias[part] = slopes.sum(0, dtype=wide)
    return found


class _Block:
    """Logits [B, K] of some labels. Listed pairs of other labels are sent to one place behind the last."""

    def __init__(
        self, logits: Tensor, rows: Tensor, labels: Tensor, signs: Tensor | None, *, dense: bool, smoothing: float
    ) -> None:
        self.logits, self.signs, self.dense, self.smoothing = logits, signs, dense, smoothing
        count = logits.shape[1]
        # Which pairs are of these labels is not asked of the device, so the host need not wait for an answer.
        inside = (labels >= 0) & (labels < count)
        self.places = (rows * count + labels).masked_fill_(~inside, logits.numel())
        known = widened(logits.view(-1).index_select(0, self.places.clamp(max=logits.numel() - 1)))
        self.signed = known.neg_() if signs is None else known.mul_(signs)

    def losses(self) -> Tensor:
        """Of each image, wide [B]."""
        room = self._room(self.signed.dtype)
        losses = room[:-1].view(self.logits.shape)
        if self.dense:
            fill_losses(losses, self.logits, self.smoothing)
        else:
            losses.zero_()
        room.scatter_(0, self.places, listed_losses(self.signed, self.smoothing))
        return losses.sum(dim=1)

    def slopes(self) -> Tensor:
        """[B, K], of the logits' type."""
        room = self._room(self.logits.dtype)
        slopes = room[:-1].view(self.logits.shape)
        if self.dense:
            fill_slopes(slopes, self.logits, None, self.smoothing)
        else:
            slopes.zero_()
        one = self.signed.new_ones(1)
        room.scatter_(0, self.places, listed_slopes(self.signed, self.signs, one, self.smoothing).to(room.dtype))
        return slopes

    def _room(self, dtype: torch.dtype) -> Tensor:
        return self.logits.new_empty(self.logits.numel() + 1, dtype=dtype)


class _ChunkedLogistic(torch.autograd.Function):
    """Written by hand because autograd would keep the logits of every chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        rows: Tensor,
        labels: Tensor,
        signs: Tensor | None,
        dense: bool,
        chunk: int,
        smoothing: float,
    ) -> Tensor:
        found = loss_and_gradients(
            features,
            weight,
            bias,
            (rows, labels, signs),
            dense=dense,
            chunk=chunk,
            smoothing=smoothing,
            wanted=ctx.needs_input_grad[:3],
        )
        ctx.save_for_backward(found.features, found.weight, found.bias)
        ctx.dtype = features.dtype
        return found.per_image.sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weight, bias = (None if saved is None else saved.mul_(grad) for saved in ctx.saved_tensors)
        return None if features is None else features.to(ctx.dtype), weight, bias, *[None] * 6
