"""Where randomness comes from: one seed a step, and the global generators."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

from scaleprior.training.checkpoint import restore_rng, rng_state

__all__ = ["generators_kept", "mixed_seed", "seed_everything", "step_seed"]


def step_seed(seed: int, *numbers: int) -> int:
    """A 32-bit seed from ``seed`` and numbers such as (rank, step); unlike inputs give unrelated seeds."""
    return int(np.random.SeedSequence([seed, *numbers]).generate_state(1)[0])


def mixed_seed(seed: int, step: int) -> int:
    """As :func:`step_seed` for one number, below 2**63, in a microsecond (SplitMix64's constants)."""
    value = (seed * 0x9E3779B97F4A7C15 + step * 0xBF58476D1CE4E5B9 + 0x94D049BB133111EB) % 2**64
    value ^= value >> 31
    return (value * 0xD6E8FEB86659FD93 % 2**64) >> 1


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's global and torch's generators (CPU and all GPUs) with ``seed`` >= 0."""
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that draw from the global generator are meant)
    torch.manual_seed(seed)


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """Python's, NumPy's and torch's generators, which a run seeds, are as before at the end, whatever ends it."""
    state, numpy = rng_state(), np.random.get_state()  # noqa: NPY002 (the global one)
    try:
        yield
    finally:
        restore_rng(state)
        np.random.set_state(numpy)  # noqa: NPY002
