"""Seeds of runs and steps."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from scaleprior.config import get_cfg
from scaleprior.config.seed import run_seed
from scaleprior.training.seeds import mixed_seed, seed_everything, step_seed


@pytest.mark.parametrize(("said", "meant"), [(-1, 0), (-7, 0), (0, 0), (3, 3)])
def test_below_zero_is_zero(said: int, meant: int) -> None:
    cfg = get_cfg()
    cfg.SEED = said
    assert run_seed(cfg) == meant


def test_seeds_of_neighbouring_steps_differ() -> None:
    seeds = {step_seed(seed, rank, step) for seed in range(5) for rank in range(3) for step in range(50)}
    assert len(seeds) == 5 * 3 * 50
    mixed = {mixed_seed(seed, step) for seed in range(20) for step in range(500)}
    assert len(mixed) == 20 * 500
    assert min(mixed) >= 0
    assert max(mixed) < 2**63


def test_every_global_generator_is_seeded() -> None:
    def draw() -> tuple[float, float, float]:
        seed_everything(5)
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    assert draw() == draw()
