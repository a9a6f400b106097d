"""A config for so many processes: Detectron2's numbers, and what cannot be shared out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scaleprior.config import get_cfg
from scaleprior.config.sources import open_config
from scaleprior.detect.workers import check_share, other_schedule_told, scaled
from scaleprior.errors import UserError

KEYS = ("IMS_PER_BATCH", "BASE_LR", "MAX_ITER", "WARMUP_ITERS", "STEPS", "CHECKPOINT_PERIOD", "REFERENCE_WORLD_SIZE")
PIECE = {"_BASE_": "COCO-Detection/faster_rcnn_R_50_C4_imagenet.yaml", "SOLVER.REFERENCE_WORLD_SIZE": 8}


def solver_of(cfg: Any) -> dict[str, Any]:
    return {key: cfg.SOLVER[key] for key in KEYS}


def test_on_one_gpu_an_eighth_of_the_batch_and_the_rate_for_eight_times_as_long() -> None:
    cfg = open_config(PIECE).cfg
    one = scaled(cfg, 1)
    assert solver_of(one) == {
        "IMS_PER_BATCH": 2, "BASE_LR": 0.0025, "MAX_ITER": 720_000, "WARMUP_ITERS": 8000, "STEPS": (480_000, 640_000),
        "CHECKPOINT_PERIOD": 40_000, "REFERENCE_WORLD_SIZE": 1,
    }  # fmt: skip
    assert one.is_frozen()
    assert scaled(one, 1) is one
    assert scaled(cfg, 8) is cfg


@pytest.mark.detectron2
@pytest.mark.parametrize("meant", [0, 1, 3, 8])
@pytest.mark.parametrize("processes", [1, 2, 5, 8, 64])
def test_the_numbers_are_detectron2s(meant: int, processes: int) -> None:
    """Also where halves are rounded: its steps and ours go to the even number."""
    from detectron2.config import get_cfg as theirs
    from detectron2.engine import DefaultTrainer

    found = []
    for cfg, scale in ((theirs(), DefaultTrainer.auto_scale_workers), (get_cfg(), scaled)):
        solver: Any = cfg.SOLVER
        solver.IMS_PER_BATCH, solver.BASE_LR, solver.REFERENCE_WORLD_SIZE = 24, 0.07, meant
        solver.MAX_ITER, solver.WARMUP_ITERS, solver.STEPS, solver.CHECKPOINT_PERIOD = 1001, 333, (500, 875), 77
        found.append(solver_of(scale(cfg, processes)))
    assert found[0] == found[1]


def test_what_cannot_be_shared_out_names_both_numbers(tmp_path: Path) -> None:
    cfg = get_cfg()
    with pytest.raises(UserError, match=r"SOLVER.IMS_PER_BATCH is 16, .* with 3 processes; give a multiple of 3"):
        check_share(cfg, 3)
    check_share(cfg, 8)
    for meant in (-1, 5):
        cfg.SOLVER.REFERENCE_WORLD_SIZE = meant
        with pytest.raises(UserError, match=rf"REFERENCE_WORLD_SIZE is {meant}, SOLVER.IMS_PER_BATCH 16; give"):
            scaled(cfg, 1)


def test_a_run_of_another_schedule_by_another_number_of_processes_is_told(tmp_path: Path) -> None:
    cfg = get_cfg()
    for meant, then, said in ((0, 2, "no"), (4, 4, "no"), (4, None, "no"), (4, 2, "holds a run of 2 processes; on 4 ")):
        cfg.SOLVER.REFERENCE_WORLD_SIZE = meant
        with pytest.raises(UserError, match=said), other_schedule_told(cfg, tmp_path, now=4, then=then):
            raise UserError("no")
