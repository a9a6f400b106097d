"""Where randomness comes from: global generators, seeded once."""

from __future__ import annotations

import random

import numpy as np
import torch

__all__ = ["seed_everything"]


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's global and torch's generators (CPU and all GPUs); negative counts as 0."""
    seed = max(seed, 0)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 (libraries that draw from the global generator are meant)
    torch.manual_seed(seed)
