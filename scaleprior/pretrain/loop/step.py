"""One step: forward, backward, and an update that only finite numbers bring about. It does not wait for the device."""

from __future__ import annotations

import contextlib
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from scaleprior.pretrain.network.sharded import ShardedHead
from scaleprior.pretrain.optim.clipping import clip_gradients, gradient_norm
from scaleprior.pretrain.optim.optimizers import guard, guards_itself, set_rate

if TYPE_CHECKING:
    from scaleprior.pretrain.data.batches import LabelledBatch
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.pretrain.optim.average import WeightAverage
    from scaleprior.training.processes import ProcessGroup

__all__ = ["StepFigures", "TrainStep"]


@dataclass(frozen=True)
class StepFigures:
    """What a step found, scalars on its device.

    Attributes:
        loss: mean over the images of all processes. own: of this process' alone.
        gradient_norm: of the mean gradient, before clipping.
        finite: the three are; otherwise nothing was updated.
    """

    loss: Tensor
    own: Tensor
    gradient_norm: Tensor
    finite: Tensor


class TrainStep:
    """What is done with a batch.

    Args:
        model: on its device. optimizer: over its parameters.
        accumulate: parts of a batch that go through the network one after the other; their gradients are added up.
            Norms over a batch (BN) see a part.
        clip_norm: largest norm of the gradient; 0 = any.
        amp: bfloat16 autocast of trunk and head.
        average: of the weights, which follows them.
    """

    def __init__(
        self,
        model: Pretrainer,
        optimizer: torch.optim.Optimizer,
        processes: ProcessGroup,
        *,
        accumulate: int = 1,
        clip_norm: float = 0.0,
        amp: bool = False,
        average: WeightAverage | None = None,
    ) -> None:
        self.optimizer = optimizer
        self._processes = processes
        self._accumulate = accumulate
        self._clip_norm = clip_norm
        self._amp = amp
        self.average = average
        self._net = _parallel(model, processes)
        self._found_inf: Tensor | None = None
        if processes.device.type == "cuda" and guards_itself(optimizer):
            self._found_inf = torch.zeros((), device=processes.device)
            guard(optimizer, self._found_inf)
        shards = set(model.head.parameters()) if isinstance(model.head, ShardedHead) else set()
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self._parameters = [p for p in parameters if p not in shards]
        self._shards = [p for p in parameters if p in shards]

    def __call__(self, batch: LabelledBatch, *, images: int, rate: float) -> StepFigures:
        """Learn from ``batch``.

        Args:
            images: of all processes together, over which the mean is taken.
            rate: learning rate.
        """
        set_rate(self.optimizer, rate)
        self.optimizer.zero_grad(set_to_none=True)
        total = self._gradients(batch, images)
        loss = self._processes.all_reduce(total.clone()) / images
        gradients, shards = (
            [p.grad for p in parameters if p.grad is not None] for parameters in (self._parameters, self._shards)
        )
        norm = gradient_norm(gradients, shards=shards, processes=self._processes)
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        if self._clip_norm:
            clip_gradients(gradients + shards, norm, self._clip_norm)
        if self._found_inf is not None:
            self._found_inf.copy_(~finite)
            self.optimizer.step()
        elif bool(finite):
            self.optimizer.step()
        if self.average is not None:
            self.average.update()
        return StepFigures(loss, total / max(len(batch), 1), norm, finite)

    def _gradients(self, batch: LabelledBatch, images: int) -> Tensor:
        """Backward passes over the parts of the batch; returns the sum of its images' losses."""
        device, total = self._processes.device, None
        share = images / self._processes.size  # gradients are averaged over the processes
        # BN has no variance of one, so a batch from which images are missing may have fewer parts.
        parts = max(min(self._accumulate, len(batch) // 2), 1)
        if self._accumulate > 1:  # what processes exchange in a forward pass, as norms do, has to meet
            parts = self._processes.least(parts)
        for part, (pixels, targets) in enumerate(batch.parts(parts)):
            with contextlib.nullcontext() if part + 1 == parts else self._without_exchange():
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._amp):
                    loss = self._net(pixels.to(device, non_blocking=True), targets.to(device, non_blocking=True))
                (loss / share).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _without_exchange(self) -> contextlib.AbstractContextManager[None]:
        net = self._net
        return net.no_sync() if isinstance(net, nn.parallel.DistributedDataParallel) else contextlib.nullcontext()


def _parallel(model: Pretrainer, processes: ProcessGroup) -> nn.Module:
    if not processes.joined:
        return model
    if isinstance(model.head, ShardedHead):
        model.head.keep_from_exchange(model, "head")
        if not any(p.requires_grad for p in model.trunk.parameters()):
            return model  # nothing is left to exchange
    ids = [processes.device] if processes.device.type == "cuda" else None
    # The only buffers that change are BN's: each process has its own, and main's are saved. So none are sent about.
    new_name = "forward_sync_buffers" in inspect.signature(nn.parallel.DistributedDataParallel).parameters
    buffers: dict[str, Any] = {
        "forward_sync_buffers" if new_name else "broadcast_buffers": False
    }  # renamed after torch 2.4
    return nn.parallel.DistributedDataParallel(model, device_ids=ids, gradient_as_bucket_view=True, **buffers)
