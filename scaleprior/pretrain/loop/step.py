"""One step: forward, backward, and an update that only finite numbers bring about. It does not wait for the device."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from scaleprior.pretrain.data.feed import Feed, Part
from scaleprior.pretrain.loop.compiled import compile_errors, compiled
from scaleprior.pretrain.loop.graphs import Lengths, Parts
from scaleprior.pretrain.loop.memory import Memory
from scaleprior.pretrain.network.sharded import ShardedHead
from scaleprior.pretrain.optim.clipping import clip_gradients, gradient_norm
from scaleprior.pretrain.optim.optimizers import set_rate
from scaleprior.training.graphs import GraphedUpdate
from scaleprior.training.optimizers import guard, guards_itself
from scaleprior.training.parallel import in_parallel

if TYPE_CHECKING:
    from scaleprior.pretrain.data.batches import LabelledBatch
    from scaleprior.pretrain.network.pretrainer import Pretrainer
    from scaleprior.pretrain.optim.average import WeightAverage
    from scaleprior.training.processes import ProcessGroup

__all__ = ["StepFigures", "StepRecord", "TrainStep"]

logger = logging.getLogger(__name__)


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

    def together(self) -> Tensor:
        """float32 [4]: loss, own, gradient_norm, and finite as 0 or 1."""
        return torch.stack((self.loss, self.own, self.gradient_norm, self.finite.float()))


@dataclass(frozen=True)
class StepRecord:
    """A step that was asked for.

    Attributes:
        step: from 0. rows: of its images on this process, indices into the fraction.
        numbers: what the host knew of it then.
    """

    step: int
    rows: Tensor
    numbers: Mapping[str, float]


class TrainStep:
    """What is done with a batch.

    Args:
        model: on its device. optimizer: over its parameters.
        accumulate: parts of a batch that go through the network one after the other; their gradients are added up.
            Norms over a batch (BN) see a part.
        clip_norm: largest norm of the gradient; 0 = any.
        amp: bfloat16 autocast of trunk and head.
        average: of the weights, which follows them.
        mode: as PRETRAIN.STEP.MODE: "eager", "compile", "graph" (one process on a GPU, with an optimiser that
            ``guards_itself``) or "compile_graph".

    Attributes:
        accumulate: see above.
        apart: steps whose batch had another shape than those that were compiled or recorded, and was learnt from as
            if ``mode`` were "eager".
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
        mode: str = "eager",
    ) -> None:
        self.optimizer = optimizer
        self.apart = 0
        self._processes = processes
        self.accumulate = accumulate
        self._clip_norm = clip_norm
        self._amp = amp
        self._mode = mode
        self.average = average
        self._plain = _parallel(model, processes)
        self._net = compiled(self._plain, model) if mode.startswith("compile") else self._plain
        self._graphed: GraphedUpdate[Parts, StepFigures] | None = None
        if mode.endswith("graph"):
            self._graphed = GraphedUpdate(self._recorded, optimizer.zero_grad, processes.device)
        change = Lengths() if self._graphed is not None else None
        self._feed = Feed(processes.device, change=change)
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
        parts = self._feed(batch, self._parts(batch))
        if self._usual(batch, parts):
            with compile_errors(self._mode):
                figures = self._graphed(Parts(parts, images)) if self._graphed else self._update(parts, images)
        else:
            self.apart += 1
            bad = len(batch.unreadable)
            logger.info("a batch of %d images, %d of them unreadable, goes by itself", len(batch) + bad, bad)
            figures = self._update(parts, images, net=self._plain)
        if self.average is not None:  # by itself, for its decay is another one in every step
            self.average.update()
        return figures

    def _parts(self, batch: LabelledBatch) -> int:
        # BN has no variance of one, so a batch from which images are missing may have fewer parts.
        parts = max(min(self.accumulate, len(batch) // 2), 1)
        # What processes exchange in a forward pass, as norms do, has to meet.
        return self._processes.least(parts) if self.accumulate > 1 else parts

    def memory(self, batch: LabelledBatch) -> Memory | None:
        """Of the GPU, for passes of the first images of ``batch``; the step is of no use afterwards.

        None on a CPU, and with several processes: in a pass that the others do not make one would wait for them.
        """
        device = self._processes.device
        if device.type != "cuda" or self._processes.size > 1:
            return None
        self._graphed = None
        self.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()

        def taken(images: int) -> int:
            torch.cuda.reset_peak_memory_stats(device)
            part = replace(batch, images=batch.images[:images], targets=batch.targets.part(0, images))
            try:
                with self._without_exchange():
                    self._gradients(self._plain, self._feed(part), images)
                return torch.cuda.max_memory_allocated(device)
            finally:
                self.optimizer.zero_grad(set_to_none=True)

        return Memory(torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device), taken)

    def _usual(self, batch: LabelledBatch, parts: Sequence[Part]) -> bool:
        """Its shapes are those of other batches; where nothing depends on that, any are."""
        if self._graphed is not None:
            return not batch.unreadable and all(targets.repeats is not None for _, targets in parts)
        return self._net is self._plain or not batch.unreadable

    def _recorded(self, batch: Parts) -> StepFigures:
        return self._update(batch.parts, batch.images)

    def _update(self, parts: Sequence[Part], images: int, *, net: nn.Module | None = None) -> StepFigures:
        """The step's work on the device, of tensors that are there; no answer of it is waited for."""
        self.optimizer.zero_grad(set_to_none=True)
        total = self._gradients(self._net if net is None else net, parts, images)
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
        own = sum(len(pixels) for pixels, _ in parts)
        return StepFigures(loss, total / max(own, 1), norm, finite)

    def _gradients(self, net: nn.Module, parts: Sequence[Part], images: int) -> Tensor:
        """Backward passes over the parts of the batch; returns the sum of its images' losses."""
        device, total = self._processes.device, None
        share = images / self._processes.size  # gradients are averaged over the processes
        for part, (pixels, targets) in enumerate(parts, 1):
            with contextlib.nullcontext() if part == len(parts) else self._without_exchange():
                with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._amp):
                    loss = net(pixels, targets)
                (loss / share).backward()
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _without_exchange(self) -> contextlib.AbstractContextManager[None]:
        net = self._plain
        return net.no_sync() if isinstance(net, nn.parallel.DistributedDataParallel) else contextlib.nullcontext()


def _parallel(model: Pretrainer, processes: ProcessGroup) -> nn.Module:
    if not processes.joined:
        return model
    if isinstance(model.head, ShardedHead):
        model.head.keep_from_exchange(model, "head")
        if not any(p.requires_grad for p in model.trunk.parameters()):
            return model  # nothing is left to exchange
    return in_parallel(model, processes)
