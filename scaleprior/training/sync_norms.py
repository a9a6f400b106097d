"""BatchNorm whose statistics are of the whole batch, not of each process' share of it.

n_r values a channel on process r, x_r their sum: ``mean = sum(x_r) / sum(n_r)``, and the biased variance likewise from
the squared distances to that mean, so shares may differ in size. On GPUs these are torch's ``SyncBatchNorm``, which
takes no tensors of the CPU; there the same sums go over gloo, and autograd does the rest.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, distributed, nn

__all__ = ["share_statistics"]


def share_statistics(module: nn.Module, device: torch.device) -> nn.Module:
    """``module`` with each BatchNorm below it synchronised over torch's default process group, in place.

    Names, shapes and tensors stay those of BatchNorm, and so do files.

    Args:
        device: where the module lies.
    """
    module = convert_sync_batchnorm(module)
    if device.type == "cpu":
        for parent in list(module.modules()):
            for name, child in parent.named_children():
                if isinstance(child, nn.SyncBatchNorm):
                    setattr(parent, name, _HostSyncBatchNorm(child))
    return module


class _HostSyncBatchNorm(nn.BatchNorm2d):
    """``like`` on the CPU, of maps: its tensors, and what timm's norms do to the output.

    No ``SyncBatchNorm``, because DistributedDataParallel takes those on GPUs only.
    """

    def __init__(self, like: nn.SyncBatchNorm) -> None:
        super().__init__(like.num_features, like.eps, like.momentum, like.affine, like.track_running_stats)
        for name, tensor in (*like.named_parameters(recurse=False), *like.named_buffers(recurse=False)):
            setattr(self, name, tensor)
        self.drop = getattr(like, "drop", nn.Identity())
        self.act = getattr(like, "act", nn.Identity())
        self.train(like.training)

    def forward(self, input: Tensor) -> Tensor:
        output = self._normalised(input) if self.training else super().forward(input)
        return self.act(self.drop(output))

    def _normalised(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        axes, shape = (0, 2, 3), (1, -1, 1, 1)
        # In float64, as torch's BatchNorm adds up on the CPU: the order of the sums is then all that differs from it.
        count = torch.full((1,), x.numel() // x.shape[1], dtype=torch.float64)
        sums = _SumOverProcesses.apply(torch.cat([x.sum(axes, dtype=torch.float64), count]))
        total = sums[-1].detach()
        mean = sums[:-1] / total
        centred = x - mean.to(x.dtype).view(shape)
        variance = _SumOverProcesses.apply(centred.square().sum(axes, dtype=torch.float64)) / total
        self._remember(mean.detach(), variance.detach() * total / (total - 1))
        scale = (variance + self.eps).rsqrt().to(x.dtype)
        if not self.affine:
            return centred * scale.view(shape)
        return centred * (scale * self.weight).view(shape) + self.bias.view(shape)

    @torch.no_grad()
    def _remember(self, mean: Tensor, unbiased: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.add_(1)
        rate = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
        for kept, new in ((self.running_mean, mean), (self.running_var, unbiased)):
            kept.lerp_(new.to(kept.dtype), rate)


class _SumOverProcesses(torch.autograd.Function):
    """The sum of a vector over all processes; its gradient is the sum of theirs, because each has used it."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor) -> Tensor:
        total = vector.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total
