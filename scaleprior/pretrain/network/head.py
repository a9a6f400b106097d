"""The linear layer with a logit per label, and its loss.

B images, F features, C labels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from scaleprior.pretrain.losses.chunked import chunked_logistic_loss
from scaleprior.pretrain.losses.logistic import logistic_loss
from scaleprior.pretrain.losses.targets import Targets

__all__ = ["LinearHead"]


class LinearHead(nn.Linear):
    """Features [B, F] to logits [B, C], or with the labels of the images to their loss.

    Args:
        features: F. labels: C.
        bias: where the biases start; the weights are drawn with a standard deviation of 0.01.
        chunk: labels whose logits the loss holds at a time; 0 = all.
        smoothing: of the labels, see :func:`~scaleprior.pretrain.losses.logistic.logistic_loss`.
    """

    own: slice | None = None
    """The labels that this process alone has; None: it has all, as the others have."""

    def __init__(self, features: int, labels: int, *, bias: float, chunk: int = 0, smoothing: float = 0.0) -> None:
        super().__init__(features, labels)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.constant_(self.bias, bias)
        self.chunk = chunk
        self.smoothing = smoothing

    def scores(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits of some labels, int64 [k]: [B, F] -> [B, k]."""
        return F.linear(features.to(self.weight.dtype), self.weight[labels], self.bias[labels])

    def whole(self) -> LinearHead:
        """Itself; see :meth:`ShardedHead.whole`."""
        return self

    def logits(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, C]."""
        return self(features)

    def loss(self, features: Tensor, targets: Targets) -> Tensor:
        """The sum of the losses of the B images, in float32 or wider."""
        if 0 < self.chunk < self.out_features:
            settings = {"chunk": self.chunk, "smoothing": self.smoothing}
            return chunked_logistic_loss(features, self.weight, self.bias, targets, **settings)
        return logistic_loss(self.logits(features), targets, smoothing=self.smoothing)
