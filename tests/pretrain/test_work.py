"""The length of runs on a ladder of fractions, by hand."""

from __future__ import annotations

import pytest

from scaleprior.config import load_config
from scaleprior.errors import UserError
from scaleprior.pretrain.costs.work import Work, ladder_work, pretraining_work


def config(*keys: str):
    return load_config("Pretrain/Base-Pretrain.yaml", ["PRETRAIN.BATCH_SIZE", "10", *keys]).cfg


@pytest.mark.parametrize(
    ("unit", "amount", "steps"),
    [("epochs", "2", [20, 21, 200]), ("steps", "7", [7, 7, 7]), ("images", "45", [5, 5, 5])],
)
def test_epochs_grow_with_the_fraction_and_other_budgets_do_not(unit: str, amount: str, steps: list[int]) -> None:
    cfg = config("PRETRAIN.BUDGET.UNIT", unit, "PRETRAIN.BUDGET.AMOUNT", amount)
    works = ladder_work(cfg, 1000, [100, 101, 1000])
    assert works == [Work(n, s, 10 * s) for n, s in zip([100, 101, 1000], steps)]
    assert works[0].epochs == pytest.approx(steps[0] / 10)


def test_the_config_keeps_its_own_fraction() -> None:
    cfg = config("PRETRAIN.FRACTION.RATIO", "0.5", "PRETRAIN.BUDGET.UNIT", "steps", "PRETRAIN.BUDGET.AMOUNT", "3")
    assert ladder_work(cfg, 200, [20])[0].images == 20
    assert pretraining_work(cfg, 200) == Work(100, 3, 30)


def test_a_fraction_that_a_run_would_refuse_is_refused() -> None:
    cfg = config("PRETRAIN.HELD_OUT.IMAGES", "50")
    with pytest.raises(UserError, match="the last 50 to evaluate on overlap in a corpus of 200"):
        ladder_work(cfg, 200, [100, 151])
