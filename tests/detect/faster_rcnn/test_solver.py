"""Learning rates and clipping worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scaleprior.detect.faster_rcnn.solver import build_optimizer, clip_gradients, lr_factor
from tests.detect.conftest import tiny_config


def _rates(*overrides: str) -> list[float]:
    cfg = tiny_config("FPN", overrides).cfg
    factor = lr_factor(cfg)
    return [factor(step / cfg.SOLVER.MAX_ITER) for step in range(cfg.SOLVER.MAX_ITER)]


def test_warmup_then_steps() -> None:
    rates = _rates(
        *("SOLVER.MAX_ITER", "10", "SOLVER.WARMUP_ITERS", "4", "SOLVER.WARMUP_FACTOR", "0.2"),
        *("SOLVER.STEPS", "(6, 8)", "SOLVER.GAMMA", "0.1"),
    )
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_a_step_at_the_very_end_or_behind_it_changes_nothing() -> None:
    words = ["SOLVER.MAX_ITER", "4", "SOLVER.WARMUP_ITERS", "0", "SOLVER.STEPS"]
    assert _rates(*words, "(2, 4, 9)") == _rates(*words, "(2,)") == pytest.approx([1, 1, 0.1, 0.1])


def test_warmup_to_where_the_cosine_is_by_then() -> None:
    rates = _rates(
        *("SOLVER.MAX_ITER", "8", "SOLVER.WARMUP_ITERS", "2", "SOLVER.WARMUP_FACTOR", "0.5"),
        *("SOLVER.LR_SCHEDULER_NAME", "WarmupCosineLR", "SOLVER.BASE_LR", "0.1", "SOLVER.BASE_LR_END", "0.01"),
    )

    def cosine(step: int) -> float:
        return 0.1 + 0.9 * (1 + math.cos(math.pi * step / 8)) / 2

    assert rates == pytest.approx([0.5, (0.5 + cosine(2)) / 2, *(cosine(step) for step in range(2, 8))])


def _clipped(kind: str, norm_type: str = "2.0") -> list[list[float]]:
    cfg = tiny_config(
        "FPN",
        [
            *("SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", kind),
            *("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "1.0", "SOLVER.CLIP_GRADIENTS.NORM_TYPE", norm_type),
        ],
    ).cfg
    parameters = [torch.nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[0].grad, parameters[1].grad = torch.tensor([3.0, -4.0]), torch.tensor([0.3, 0.4])
    clip_gradients(cfg, torch.optim.SGD(parameters, lr=1.0))
    return [p.grad.tolist() for p in parameters[:2]]


def test_norm_clips_each_parameter_by_itself() -> None:
    # norms 5 and 0.5: the first shrinks to 1, the second stays (a norm over all would shrink both)
    first, second = _clipped("norm")
    assert first == pytest.approx([0.6, -0.8], rel=1e-5)
    assert second == pytest.approx([0.3, 0.4])
    assert _clipped("norm", "1.0")[0] == pytest.approx([3 / 7, -4 / 7], rel=1e-5)


def test_value_clips_each_element() -> None:
    assert _clipped("value") == [[1.0, -1.0], pytest.approx([0.3, 0.4])]


def test_norm_layers_do_not_decay_and_frozen_parameters_are_left_out() -> None:
    cfg = tiny_config("FPN", ["SOLVER.WEIGHT_DECAY", "0.5", "SOLVER.BIAS_LR_FACTOR", "2.0"]).cfg
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2))
    model[2].weight.requires_grad_(False)
    groups = {
        id(p): (g["lr"], g["weight_decay"]) for g in build_optimizer(cfg, model).param_groups for p in g["params"]
    }
    rate = cfg.SOLVER.BASE_LR
    assert groups == {
        id(model[0].weight): (rate, 0.5),
        id(model[0].bias): (2 * rate, 0.5),
        id(model[1].weight): (rate, 0.0),
        id(model[1].bias): (2 * rate, 0.0),
        id(model[2].bias): (2 * rate, 0.5),
    }
