"""One training step with nothing around it, timed: what other times on a machine are a multiple of.

A batch that is ready, forward, loss against a dense target, backward, torch's own SGD; no loader, no checks, no
figures, no checkpoints. On a slower machine it takes longer by about the factor by which a run or a study does.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional as F

from scaleprior.backbones.trunks.selection import spec_from_config
from scaleprior.pretrain.network.pretrainer import Pretrainer

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["BareStep", "time_bare_step"]

_LABELS = 32  # a head this narrow costs nothing beside a trunk


@dataclass(frozen=True)
class BareStep:
    """A step that was timed, on the CPU.

    Attributes:
        images, pixels: of its batch, and of a side of each. threads: that it ran on.
        seconds, cpu_seconds: medians of the timed steps, on the wall's clock and on this process' own.
    """

    images: int
    pixels: int
    threads: int
    seconds: float
    cpu_seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in vars(self).items()}


def time_bare_step(cfg: CfgNode, *, threads: int = 1, warm_up: int = 2, steps: int = 5) -> BareStep:
    """Time steps of the trunk, batch and image size that ``cfg`` pretrains with, on the CPU.

    torch's number of threads and its global generator are left as they were.

    Args:
        threads: of torch, while it is timed.
        warm_up: steps before those that count: the first ones choose kernels and allocate memory.
        steps: that are timed.

    Raises:
        UserError: see :func:`spec_from_config`.
    """
    node, before = cfg.PRETRAIN, torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.random.fork_rng(devices=[]):
            step = _step(cfg)
            times = [step() for _ in range(warm_up + steps)][warm_up:]
    finally:
        torch.set_num_threads(before)
    seconds, cpu_seconds = (statistics.median(column) for column in zip(*times))
    return BareStep(node.BATCH_SIZE, node.INPUT.SIZE, threads, seconds, cpu_seconds)


def _step(cfg: CfgNode) -> Callable[[], tuple[float, float]]:
    """A function that makes a step and returns its (wall, CPU) seconds."""
    node = cfg.PRETRAIN
    model = Pretrainer(
        spec_from_config(cfg),
        _LABELS,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
        bias=0.0,
        channels_last=node.CHANNELS_LAST,
    )
    # nothing is learnt at a rate of 0, and as much is calculated
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9, nesterov=True, weight_decay=1e-4)
    images = torch.randint(0, 256, (node.BATCH_SIZE, node.INPUT.SIZE, node.INPUT.SIZE, 3), dtype=torch.uint8)
    target = (torch.rand(node.BATCH_SIZE, _LABELS) < 0.1).float()

    def step() -> tuple[float, float]:
        begun = time.perf_counter(), time.process_time()
        optimizer.zero_grad()
        F.binary_cross_entropy_with_logits(model(images), target).backward()
        optimizer.step()
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    return step
