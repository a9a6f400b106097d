"""The size of the whole gradient, and its limit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from scaleprior.training.processes import ProcessGroup

__all__ = ["clip_gradients", "gradient_norm"]


def gradient_norm(
    gradients: Sequence[Tensor], *, shards: Sequence[Tensor] = (), processes: ProcessGroup | None = None
) -> Tensor:
    """The 2-norm over all elements of all ``gradients``, float32 scalar on their device; not finite if one is not.

    Args:
        shards: gradients of what is spread over ``processes``; those of each of them count, and each has to call this.
    """
    if not shards:
        return _norm(gradients)
    assert processes is not None
    squares = processes.all_reduce(_norm(shards) ** 2)
    return torch.sqrt(_norm(gradients) ** 2 + squares) if gradients else torch.sqrt(squares)


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    norms = torch._foreach_norm(list(gradients))  # pyright: ignore[reportPrivateUsage] (what clip_grad_norm_ calls)
    return torch.linalg.vector_norm(torch.stack(norms))


def clip_gradients(gradients: Iterable[Tensor], norm: Tensor, limit: float) -> None:
    """Scale in place by ``limit / norm`` where that is below 1, as ``torch.nn.utils.clip_grad_norm_`` does."""
    torch._foreach_mul_(list(gradients), (limit / (norm + 1e-6)).clamp(max=1.0))  # pyright: ignore[reportPrivateUsage]
