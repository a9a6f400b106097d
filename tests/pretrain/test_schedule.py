"""Durations and learning rates from hand-made lists."""

from __future__ import annotations

import pytest

from scaleprior.config import load_config
from scaleprior.errors import UserError
from scaleprior.pretrain import Schedule
from scaleprior.pretrain.optim.schedule import budget_steps, to_steps


def test_cosine_with_warmup() -> None:
    schedule = Schedule("cosine", total=6, warmup=2)
    # 1/2, 2/2, then (1 + cos(pi k / 4)) / 2 for k = 0..3
    assert [schedule(s) for s in range(6)] == pytest.approx([0.5, 1.0, 1.0, 0.8535533906, 0.5, 0.1464466094])


def test_exponential_stairs_and_constant() -> None:
    schedule = Schedule("exponential", total=8, decay=2.5, gamma=0.9)
    assert [schedule(s) for s in range(8)] == pytest.approx([1, 1, 1, 0.9, 0.9, 0.81, 0.81, 0.81])
    assert [Schedule("constant", total=3, warmup=2)(s) for s in range(3)] == [0.5, 1.0, 1.0]


def test_the_papers_stairs_scale_with_the_budget() -> None:
    # 4 epochs of 300M images in steps of 32: 37.5M steps, a stair every twelfth (the paper: every 3M of 36M)
    cfg = load_config("Pretrain/R_101_jft.yaml").cfg
    total = budget_steps(4.0, "epochs", images=300_000_000, batch_size=32)
    assert total == 37_500_000
    schedule = Schedule.from_config(cfg, total=total, images=300_000_000)
    assert schedule(3_124_999) == 1.0
    assert schedule(3_125_000) == pytest.approx(0.9)
    assert schedule(total - 1) == pytest.approx(0.9**11)


@pytest.mark.parametrize(
    ("amount", "unit", "steps"), [(7, "steps", 7), (100, "images", 10), (2, "epochs", 6), (0.25, "budget", 50)]
)
def test_units(amount: float, unit: str, steps: float) -> None:
    assert to_steps(amount, unit, images=30, batch_size=10, budget=200) == pytest.approx(steps)


def test_budget_rounds_up_and_is_never_empty() -> None:
    assert budget_steps(1, "epochs", images=31, batch_size=10) == 4
    assert budget_steps(0.1, "epochs", images=300, batch_size=10) == 3  # 0.1 * 30 is 3.0000000000000004
    assert budget_steps(0.001, "epochs", images=30, batch_size=10) == 1
    with pytest.raises(UserError, match=r"unit 'budget'; take one of steps, images, epochs"):
        budget_steps(1, "budget", images=1, batch_size=1)
