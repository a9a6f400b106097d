"""Logistic regression with an L2 penalty, by L-BFGS on all images at once: no step size, no order, no generator.

N images, D features, k labels. Softmax over the labels where each image has one of them:
``mean_i -log softmax(x_i W + b)[y_i] + penalty / 2 |W|^2``; else one regression a label, over the images of which it is
known: ``mean_i softplus(-+(x_i w + b)) + penalty / 2 |w|^2``. Biases are not penalised.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from scaleprior.pretrain.evaluation.average_precision import Pairs

__all__ = ["Linear", "fit_linear"]

_TOGETHER = 512  # regressions that are fitted at once: of separate labels it makes no difference to what is found
_STEPS = 100


@dataclass(frozen=True)
class Linear:
    """What was learned.

    Attributes:
        labels: int64 [k], ascending. weight: [D, k]. bias: [k].
    """

    labels: Tensor
    weight: Tensor
    bias: Tensor

    def loss(self, features: Tensor, present: Pairs, known: Pairs | None, single: Tensor | None) -> float:
        """Mean loss on other images, without the penalty; of those whose label was to be learned."""
        if single is not None:
            ours = torch.isin(single, self.labels)
            if not bool(ours.any()):
                return 0.0
            logits = features[ours] @ self.weight + self.bias
            return float(F.cross_entropy(logits, torch.searchsorted(self.labels, single[ours])))
        total = 0.0
        for part in torch.arange(len(self.labels), device=features.device).split(_TOGETHER):
            signs = _signs(self.labels[part], len(features), present, known, features.dtype)
            total += float(_losses(features @ self.weight[:, part] + self.bias[part], signs).sum())
        return total / max(len(self.labels), 1)


def fit_linear(
    features: Tensor,
    labels: Tensor,
    present: Pairs,
    known: Pairs | None = None,
    single: Tensor | None = None,
    *,
    penalty: float,
    start: Linear | None = None,
) -> Linear:
    """Learn to tell ``labels`` apart; see the module's text.

    Args:
        features: float32 or float64 [N, D], about standardised.
        labels: int64 [k], ascending.
        present, known: as for ``average_precisions``; used where ``single`` is None.
        single: the label of each image, one of ``labels``; int64 [N].
        start: where to begin, of the same labels; zeros by default.
    """
    weight, bias = features.new_zeros(features.shape[1], len(labels)), features.new_zeros(len(labels))
    if start is not None:
        weight, bias = start.weight.clone(), start.bias.clone()
    if single is not None:
        target = torch.searchsorted(labels, single)

        def softmax(w: Tensor, b: Tensor) -> Tensor:
            return F.cross_entropy(features @ w + b, target) + 0.5 * penalty * w.square().sum()

        _minimise(softmax, weight, bias)
        return Linear(labels, weight, bias)
    for part in torch.arange(len(labels), device=features.device).split(_TOGETHER):
        signs = _signs(labels[part], len(features), present, known, features.dtype)
        own = weight[:, part], bias[part]

        def separate(w: Tensor, b: Tensor, signs: Tensor = signs) -> Tensor:
            return _losses(features @ w + b, signs).sum() + 0.5 * penalty * w.square().sum()

        _minimise(separate, *own)
        weight[:, part], bias[part] = own
    return Linear(labels, weight, bias)


def _signs(labels: Tensor, images: int, present: Pairs, known: Pairs | None, dtype: torch.dtype) -> Tensor:
    """[N, k]: -1 where an image has a label, 1 where it has not, 0 where that is unknown."""
    has = present.mask(labels, images=images)
    signs = torch.where(has, -1.0, 1.0).to(dtype)
    return signs if known is None else signs * known.mask(labels, images=images)


def _losses(logits: Tensor, signs: Tensor) -> Tensor:
    """Mean loss of each label over the images of which it is known, [k]."""
    losses = F.softplus(signs * logits, threshold=40.0) * signs.abs()
    return losses.sum(dim=0) / signs.abs().sum(dim=0).clamp(min=1)


def _minimise(objective: Callable[[Tensor, Tensor], Tensor], weight: Tensor, bias: Tensor) -> None:
    """Move ``weight`` and ``bias``, in place, to where ``objective(weight, bias)`` is least."""
    with torch.enable_grad():
        moved = [weight.detach().requires_grad_(), bias.detach().requires_grad_()]
        optimizer = torch.optim.LBFGS(
            moved, max_iter=_STEPS, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = objective(*moved)
            loss.backward()
            return loss

        optimizer.step(closure)
