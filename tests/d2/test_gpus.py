"""docs/gpus.md: its numbers are Detectron2's own arithmetic, its commands are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from scaleprior.config import data_file
from scaleprior.errors import UserError

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gpus.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| (1x|3x) \| (.*) \|$", PAGE, re.MULTILINE)


@pytest.mark.detectron2
@pytest.mark.parametrize(("schedule", "cells"), ROWS, ids=lambda text: text[:4].strip(" |"))
def test_the_table_is_what_detectron2_makes_of_the_configs(schedule: str, cells: str) -> None:
    from detectron2.config import CfgNode, get_cfg
    from detectron2.engine import DefaultTrainer

    gpus, *shown = [cell.strip() for cell in cells.split("|")]
    cfg: CfgNode = get_cfg()
    for piece in ("faster_rcnn_R_50_C4_imagenet", f"Base-Schedule-{schedule}", "Base-Schedule-any-gpus"):
        cfg.merge_from_file(str(data_file("configs", f"COCO-Detection/{piece}.yaml")))
    solver = DefaultTrainer.auto_scale_workers(cfg, int(gpus)).SOLVER
    batch = solver.IMS_PER_BATCH
    values = (batch, solver.BASE_LR, solver.WARMUP_ITERS, solver.STEPS, solver.MAX_ITER, solver.CHECKPOINT_PERIOD)
    assert batch == 2 * int(gpus)
    assert re.search(rf"\b{solver.MAX_ITER * batch}( images in all)? at {schedule}\b", PAGE)
    assert shown == [
        ", ".join(f"{v:.12g}" for v in (value if isinstance(value, tuple) else (value,))) for value in values
    ]


@pytest.mark.detectron2
def test_the_piece_changes_nothing_on_eight_gpus() -> None:
    from detectron2.config import get_cfg
    from detectron2.engine import DefaultTrainer

    cfg = get_cfg()
    cfg.merge_from_file(str(data_file("configs", "COCO-Detection/Base-Schedule-any-gpus.yaml")))
    assert DefaultTrainer.auto_scale_workers(cfg, 8) is cfg


def test_both_schedules_are_shown_on_one_four_and_eight() -> None:
    assert [(schedule, cells.split(" ")[0]) for schedule, cells in ROWS] == [
        (s, n) for s in ("1x", "3x") for n in "148"
    ]


@pytest.mark.detectron2
def test_the_commands_have_detectron2s_flags_and_keys() -> None:
    from detectron2.engine import default_argument_parser

    from scaleprior.config import load_config
    from scaleprior.d2.plan import default_config

    commands = [line for line in PAGE.replace("\\\n", " ").splitlines() if line.startswith("python tools/train_net.py")]
    assert len(commands) == 3
    gpus = []
    for command in commands:
        args = default_argument_parser().parse_args(shlex.split(command)[2:])
        gpus.append(args.num_gpus)
        loaded = load_config(args.config_file, args.opts, defaults=default_config())
        assert loaded.cfg.SOLVER.REFERENCE_WORLD_SIZE == 8
    assert gpus == [1, 4, 8]


@pytest.mark.detectron2
def test_synchronised_norms_in_several_processes_on_a_cpu_are_refused_by_key(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Arm-SyncBN: one process takes it, where it is BN; torch would refuse several when the model is built."""
    from scaleprior.d2.checks import check_solver
    from scaleprior.d2.plan import default_config

    cfg = default_config()
    cfg.MODEL.DEVICE = "cpu"
    cfg.merge_from_file(str(data_file("configs", "COCO-Detection/Arm-SyncBN.yaml")))
    check_solver(cfg)
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 2)
    with pytest.raises(UserError, match=r"MODEL.RESNETS.NORM is 'SyncBN' in 2 processes with MODEL.DEVICE cpu"):
        check_solver(cfg)
