"""A head whose labels are spread over the processes, for label spaces that one device does not hold.

B images of one process, N of all, F features, C labels of which a process has a share. Each process sends the features
of its images to all, works out the losses of all N images over its own labels, and the sums go back to where the images
are: what the head gives, losses and gradients, is what a whole head on each process would give, up to the order of
sums. Sun et al. 2017 split their layer of 18,291 labels into 50 such shards.

A shard is no part of DistributedDataParallel's exchange: it is one process' alone, and has seen the images of all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from scaleprior.pretrain.losses.chunked import loss_and_gradients
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.losses.terms import listed_pairs
from scaleprior.pretrain.network.head import LinearHead

if TYPE_CHECKING:
    from scaleprior.training.processes import ProcessGroup

__all__ = ["ShardedHead", "own_state", "share_of", "whole_state"]


_NAMES = ("head.weight", "head.bias")
"""Of a pretraining model's tensors, those that are spread."""


def share_of(labels: int, rank: int, size: int) -> slice:
    """The labels of process ``rank`` among ``size``: shares follow each other, and differ by one label at most."""
    return slice(labels * rank // size, labels * (rank + 1) // size)


class ShardedHead(nn.Module):
    """As :class:`LinearHead`, with the weights of this process' labels alone; every process has to make each call.

    The initial values are those of the whole head, drawn once on the host, of which each process keeps its own.
    ``load_state_dict`` takes the tensors of a whole head, :meth:`gather` makes them: files hold no shards.

    Args:
        features: F. labels: C, of all processes. bias, chunk, smoothing: as there.
    """

    def __init__(
        self,
        features: int,
        labels: int,
        processes: ProcessGroup,
        *,
        bias: float,
        chunk: int = 0,
        smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.labels = labels
        self.own = share_of(labels, processes.rank, processes.size)
        self.chunk = chunk
        self.smoothing = smoothing
        self._processes = processes
        whole = LinearHead(features, labels, bias=bias)
        self.weight = nn.Parameter(whole.weight[self.own].detach().clone())
        self.bias = nn.Parameter(whole.bias[self.own].detach().clone())

    def scores(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits of some of this process' labels, int64 [k] in [0, C): [B, F] -> [B, k]. Nothing is exchanged."""
        places = labels - self.own.start
        return F.linear(features.to(self.weight.dtype), self.weight[places], self.bias[places])

    @property
    def main(self) -> bool:
        """This process is given what is gathered."""
        return self._processes.main

    def logits(self, features: Tensor) -> Tensor:
        """[B, F] -> [B, C]; without gradients."""
        with torch.no_grad():
            counts = _counts(self._processes, len(features))
            everyone = _gathered(self._processes, features, [images for (images,) in counts])
            most = -(-self.labels // self._processes.size)
            own = F.linear(everyone, self.weight, self.bias)
            parts = _all_gather(self._processes, F.pad(own, (0, most - own.shape[1])))
            before = sum(images for (images,) in counts[: self._processes.rank])
            mine = slice(before, before + len(features))
            shares = (share_of(self.labels, rank, len(parts)) for rank in range(len(parts)))
            return torch.cat([part[mine, : own.stop - own.start] for part, own in zip(parts, shares)], dim=1)

    def loss(self, features: Tensor, targets: Targets) -> Tensor:
        """The sum of the losses of this process' B images over all labels, in float32 or wider.

        Its gradient has to be the same number on all processes. The gradients of the weights are divided by the number
        of processes, since for all other weights DistributedDataParallel takes the mean over them.
        """
        listed = listed_pairs(targets)
        counts = _counts(self._processes, len(features), len(listed[0]))
        pairs = _gathered_pairs(self._processes, listed, counts, self.own.start)
        images = [count for count, _ in counts]
        settings = {"dense": targets.absent is None, "chunk": self.chunk or self.labels, "smoothing": self.smoothing}
        return _ShardedLogistic.apply(features, self.weight, self.bias, self._processes, images, pairs, settings)

    def gather(self, own: Tensor) -> Tensor | None:
        """The rows of all processes, in the order of the labels, on the host of the main process; None on the others.

        Args:
            own: [labels of this process, ...]: a weight, or what an optimiser or an average keeps for each.
        """
        processes, own = self._processes, own.detach().cpu().contiguous()
        if not processes.main:
            if len(own):
                distributed.send(own, 0, group=processes.host)
            return None
        whole = own.new_empty((self.labels, *own.shape[1:]))
        whole[self.own] = own
        for rank in range(1, processes.size):  # one after the other: nobody holds more than the whole and a share
            share = whole[share_of(self.labels, rank, processes.size)]
            if len(share):
                distributed.recv(share, rank, group=processes.host)
        return whole

    def gather_named(self, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
        """``tensors`` by the names of a model, or an average of it, with the head's of all processes together."""
        return {name: self.gather(tensor) if name in _NAMES else tensor for name, tensor in tensors.items()}

    def own_named(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Undo :meth:`gather_named`: of the head's tensors this process' share."""
        return {name: tensor[self.own] if name in _NAMES else tensor for name, tensor in tensors.items()}

    def whole(self) -> LinearHead | None:
        """The head of all labels, where this one is, on the main process; None on the others."""
        weight, bias = self.gather(self.weight), self.gather(self.bias)
        if weight is None or bias is None:
            return None
        with torch.device("meta"):
            head = LinearHead(weight.shape[1], self.labels, bias=0.0, chunk=self.chunk, smoothing=self.smoothing)
        head.load_state_dict({"weight": weight, "bias": bias}, assign=True)
        return head.to(self.weight.device)

    def keep_from_exchange(self, module: nn.Module, name: str) -> None:
        """Have DistributedDataParallel leave the shard alone, which is ``name`` in the ``module`` that it will wrap."""
        names = [f"{name}.{parameter}" for parameter, _ in self.named_parameters()]
        nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, names)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        for name in ("weight", "bias"):
            whole = state_dict.get(prefix + name)
            if whole is not None and len(whole) == self.labels:
                state_dict[prefix + name] = whole[self.own]
        rest = (local_metadata, strict, missing_keys, unexpected_keys, error_msgs)
        super()._load_from_state_dict(state_dict, prefix, *rest)


class _ShardedLogistic(torch.autograd.Function):
    """Gather, loss and gradients over the own labels, and the sums of all processes, in the forward pass.

    So the backward pass exchanges nothing of its own while DistributedDataParallel exchanges the trunk's gradients.
    """

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor,
        processes: ProcessGroup,
        images: list[int],
        pairs: tuple[Tensor, Tensor, Tensor | None],
        settings: dict[str, Any],
    ) -> Tensor:
        everyone = _gathered(processes, features, images)
        wanted = ctx.needs_input_grad[:3]
        found = loss_and_gradients(everyone, weight, bias, pairs, **settings, wanted=wanted)
        before = sum(images[: processes.rank])
        mine = slice(before, before + len(features))
        own_features = None
        if found.features is not None:
            # All of the sum goes to all, not each process' part to it: gloo of older torch cannot do the latter.
            own_features = processes.all_reduce(found.features)[mine].clone()
        ctx.save_for_backward(own_features, found.weight, found.bias)
        ctx.dtype, ctx.processes = features.dtype, processes.size
        return processes.all_reduce(found.per_image)[mine].sum()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weight, bias = ctx.saved_tensors
        share = grad / ctx.processes
        return (
            None if features is None else features.mul_(grad).to(ctx.dtype),
            None if weight is None else weight.mul_(share),
            None if bias is None else bias.mul_(share),
            *[None] * 4,
        )


def whole_state(state: Mapping[str, Any], head: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """A run's "model", "optimizer" and "average", and whatever else ``state`` has, as they are with a whole head.

    Every process has to call it where the head is spread, and the main process has the result. With any other head it
    is ``state``.
    """
    if not isinstance(head, ShardedHead):
        return dict(state)
    kept = dict(state["optimizer"]["state"])
    for place, parameter in _places(optimizer, head):
        whole = {n: head.gather(v) for n, v in kept.get(place, {}).items() if _is_like(v, parameter.shape)}
        kept[place] = {**kept.get(place, {}), **whole}
    optimizer_state = {**state["optimizer"], "state": {place: found for place, found in kept.items() if found}}
    whole = {**state, "model": head.gather_named(state["model"]), "optimizer": optimizer_state}
    if "average" in state:
        whole["average"] = {**state["average"], "average": head.gather_named(state["average"]["average"])}
    return whole


def own_state(state: Mapping[str, Any], head: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Undo :func:`whole_state` for this process; the optimiser may be as it was made."""
    if not isinstance(head, ShardedHead):
        return dict(state)
    kept = dict(state["optimizer"]["state"])
    for place, parameter in _places(optimizer, head):
        whole = (head.labels, *parameter.shape[1:])
        if place in kept:
            kept[place] = {n: v[head.own] if _is_like(v, whole) else v for n, v in kept[place].items()}
    own = {**state, "model": head.own_named(state["model"]), "optimizer": {**state["optimizer"], "state": kept}}
    if "average" in state:
        own["average"] = {**state["average"], "average": head.own_named(state["average"]["average"])}
    return own


def _places(optimizer: torch.optim.Optimizer, head: ShardedHead) -> list[tuple[int, Tensor]]:
    """The head's parameters with the numbers that they have in the optimiser's state."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return [(i, p) for i, p in enumerate(parameters) if p is head.weight or p is head.bias]


def _is_like(value: Any, shape: tuple[int, ...]) -> bool:
    return isinstance(value, Tensor) and tuple(value.shape) == tuple(shape)


def _counts(processes: ProcessGroup, *own: int) -> list[list[int]]:
    """The numbers that each process gives; they lie on the hosts, so no device is waited for."""
    found = [torch.zeros(len(own), dtype=torch.int64) for _ in range(processes.size)]
    if processes.size == 1:
        return [list(own)]
    distributed.all_gather(found, torch.tensor(own), group=processes.host)
    return [numbers.tolist() for numbers in found]


def _all_gather(processes: ProcessGroup, tensor: Tensor) -> list[Tensor]:
    """``tensor`` of every process; all have the same shape."""
    if processes.size == 1:
        return [tensor]
    found = [torch.empty_like(tensor) for _ in range(processes.size)]
    distributed.all_gather(found, tensor.contiguous())
    return found


def _gathered(processes: ProcessGroup, own: Tensor, images: list[int]) -> Tensor:
    """[b, F] of each process as one [N, F]."""
    padded = F.pad(own.detach(), (0, 0, 0, max(images) - len(own)))
    return torch.cat([part[:count] for part, count in zip(_all_gather(processes, padded), images)])


def _gathered_pairs(
    processes: ProcessGroup, own: tuple[Tensor, Tensor, Tensor | None], counts: list[list[int]], first: int
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The listed pairs of all images; labels are counted from ``first``, and those of the filling lie below 0."""
    rows, labels, signs = own
    before = [sum(images for images, _ in counts[:rank]) for rank in range(processes.size)]
    parts = [rows + before[processes.rank], labels] + ([] if signs is None else [signs.to(torch.int64)])
    most = max(pairs for _, pairs in counts)
    filled = F.pad(torch.stack(parts), (0, most - len(rows)), value=-1)
    everyone = torch.cat(_all_gather(processes, filled), dim=1)
    known = None if signs is None else everyone[2].float()
    return everyone[0].clamp(min=0), everyone[1] - first, known
