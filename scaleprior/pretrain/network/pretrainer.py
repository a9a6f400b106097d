"""Trunk and multi-label head.

B images, S pixels a side, F features, C labels: uint8 [B, S, S, 3] -> logits [B, C].
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.trunk import build_trunk
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.network.head import LinearHead
from scaleprior.pretrain.network.sharded import ShardedHead

if TYPE_CHECKING:
    from scaleprior.training.processes import ProcessGroup

__all__ = ["Pretrainer", "prior_bias"]


class Pretrainer(nn.Module):
    """Normalisation, a trunk of any family, pooling over places, and one linear layer with a logit per label.

    Args:
        pixel_mean, pixel_std: three floats on the 0-255 scale in the images' channel order.
        bias: where the head's biases start; see :func:`prior_bias`.
        norm_eps: see ``build_trunk``.
        chunk: labels whose logits the loss holds at a time; 0 = all.
        shards: processes over which the head's labels are spread; None: each has all of them.
        smoothing: of the labels.
        drop_path: stochastic depth, see ``Trunk.set_drop_path``; 0 = none.

    Attributes:
        frozen: the trunk does not learn.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        spec: TrunkSpec,
        labels: int,
        *,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        bias: float,
        norm_eps: float | None = None,
        channels_last: bool = False,
        chunk: int = 0,
        shards: ProcessGroup | None = None,
        smoothing: float = 0.0,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.frozen = False
        self.trunk = build_trunk(spec, norm_eps=norm_eps)
        if drop_path:
            self.trunk.set_drop_path(drop_path)
        features = spec.out_channels["res5"]
        self.head: LinearHead | ShardedHead = (
            LinearHead(features, labels, bias=bias, chunk=chunk, smoothing=smoothing)
            if shards is None
            else ShardedHead(features, labels, shards, bias=bias, chunk=chunk, smoothing=smoothing)
        )
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std), persistent=False)
        self.channels_last = channels_last
        if channels_last:
            self.trunk.to(memory_format=torch.channels_last)

    def freeze_trunk(self) -> Pretrainer:
        """Let the head alone learn, in place; returns self. The trunk's BN keeps its statistics."""
        self.frozen = True
        self.trunk.requires_grad_(False)
        return self.train(self.training)

    def train(self, mode: bool = True) -> Pretrainer:
        """As torch's; a frozen trunk stays in the mode of evaluation."""
        super().train(mode)
        if self.frozen:
            self.trunk.eval()
        return self

    def learning_state(self) -> dict[str, Tensor]:
        """What training changes, parameters and buffers by name: the very tensors."""
        state = self.state_dict(keep_vars=True)
        return {name: tensor for name, tensor in state.items() if not (self.frozen and name.startswith("trunk."))}

    def forward(self, images: Tensor, targets: Targets | None = None) -> Tensor:
        """uint8 [B, S, S, 3] -> logits [B, C]; with their targets, the sum of the images' losses.

        The loss belongs to the forward pass so that a head may work it out without ever holding all logits, and so
        that what spreads or compiles a forward pass has the whole of it.
        """
        features = self.features(images)
        return self.head.logits(features) if targets is None else self.head.loss(features, targets)

    def features(self, images: Tensor) -> Tensor:
        """uint8 [B, S, S, 3] -> what the head reads, [B, F]."""
        pixels = ((images - self.pixel_mean) / self.pixel_std).permute(0, 3, 1, 2)
        # The permuted view already lies in memory as channels_last wants it.
        return self.trunk.pooled(pixels if self.channels_last else pixels.contiguous())


def prior_bias(prior: float) -> float:
    """``log(prior / (1 - prior))``: a bias at which the sigmoid is ``prior``, in (0, 1).

    Without it thousands of absent labels a image start at probability 1/2 and their loss drowns the first steps
    (Lin et al. 2017, section 3.3).
    """
    return math.log(prior) - math.log1p(-prior)
