"""Durations in steps, and the learning rate as a pure function of the step, so that a resume needs no counter."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scaleprior.errors import UserError

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["Schedule", "budget_steps", "to_steps"]

_MOST_IMAGES = 1e13


def to_steps(amount: float, unit: str, *, images: int, batch_size: int, budget: int | None = None) -> float:
    """``amount`` of ``unit`` as a number of steps, not rounded.

    Args:
        unit: "steps", "images", "epochs" (passes over ``images``), or "budget" (shares of ``budget`` steps).
        images: length of the fraction.
        batch_size: images a step, all processes together.

    Raises:
        UserError: an unknown unit, or "budget" where there is none.
    """
    factors = {"steps": 1.0, "images": 1 / batch_size, "epochs": images / batch_size}
    if budget is not None:
        factors["budget"] = float(budget)
    if unit not in factors:
        raise UserError(f"a duration has the unit {unit!r}", hint=f"take one of {', '.join(factors)}")
    return amount * factors[unit]


def budget_steps(amount: float, unit: str, *, images: int, batch_size: int) -> int:
    """Steps of a run: ``amount`` of ``unit`` rounded up, at least 1.

    Raises:
        UserError: so many that they and their time cannot be counted.
    """
    steps = to_steps(amount, unit, images=images, batch_size=batch_size)
    if steps * batch_size > _MOST_IMAGES:
        raise UserError(
            f"PRETRAIN.BUDGET is {amount:g} {unit}, which are {steps * batch_size:g} images",
            hint=f"make it smaller: {_MOST_IMAGES:g} images are more than any run sees",
        )
    return max(1, math.ceil(steps - 1e-9))  # 0.1 * 30 is not 3 in floats, but means 3


@dataclass(frozen=True)
class Schedule:
    """Factor on the base learning rate.

    With s = 0, 1, ..., total - 1 the step, w the warmup:
    s < w: ``(s + 1) / w`` (linear);
    cosine: ``(1 + cos(pi (s - w) / (total - w))) / 2``;
    exponential: ``gamma ** floor(s / decay)``, in stairs, counted from the first step;
    constant: 1.

    Attributes:
        name: "cosine", "exponential" or "constant".
        total, warmup, decay: in steps.
        gamma: factor per ``decay`` steps, in (0, 1].
    """

    name: str
    total: int
    warmup: int = 0
    decay: float = math.inf
    gamma: float = 1.0

    @classmethod
    def from_config(cls, cfg: CfgNode, *, total: int, images: int) -> Schedule:
        """The schedule that ``cfg.PRETRAIN.SCHEDULE`` describes for a run of ``total`` steps."""
        node = cfg.PRETRAIN.SCHEDULE
        size = {"images": images, "batch_size": cfg.PRETRAIN.BATCH_SIZE, "budget": total}
        return cls(
            name=node.NAME,
            total=total,
            warmup=min(round(to_steps(node.WARMUP, node.UNIT, **size)), total),
            decay=to_steps(node.DECAY_EVERY, node.UNIT, **size),
            gamma=node.GAMMA,
        )

    def __call__(self, step: int) -> float:
        """Factor in [0, 1] for ``step``, 0-based."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.name == "cosine":
            return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(self.total - self.warmup, 1)))
        if self.name == "exponential":
            return self.gamma ** math.floor(step / self.decay + 1e-9)
        return 1.0
