"""A study that is real in every part and takes seconds."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import processes

TINY: dict[str, Any] = {
    "name": "tiny",
    "corpus": {
        "world": {"seed": 3, "images": 80, "image_size": 24, "shapes": ["disk", "star"], "textures": ["dots", "grid"]}
    },
    "detection": {"world": {"train": 12, "val": 8, "canvas": 48}},
    "ladder": [16, 32, 64],
    "architectures": {"R-50": {"MODEL.RESNETS.DEPTH": 50}},
    "noise": {"rate": 0.2},
    "pretrain": {
        "config": "Pretrain/quickstart.yaml",
        "overrides": {
            "PRETRAIN.BUDGET.AMOUNT": 4.0,
            "PRETRAIN.BATCH_SIZE": 8,
            "PRETRAIN.HELD_OUT.IMAGES": 8,
            "PRETRAIN.INPUT.SIZE": 24,
            "PRETRAIN.INPUT.RESIZE": 24,
            "PRETRAIN.CHECKPOINT_PERIOD": 1,
        },
    },
    "finetune": {
        "config": "COCO-Detection/quickstart_FPN.yaml",
        "overrides": {
            "SOLVER.MAX_ITER": 3,
            "SOLVER.WARMUP_ITERS": 1,
            "SOLVER.CHECKPOINT_PERIOD": 1,
            "SOLVER.IMS_PER_BATCH": 2,
            "INPUT.MIN_SIZE_TRAIN": [48],
            "INPUT.MAX_SIZE_TRAIN": 48,
            "INPUT.MIN_SIZE_TEST": 48,
            "INPUT.MAX_SIZE_TEST": 48,
        },
    },
    "engine": "torchvision",
}


def write_spec(folder: Path, **changes: Any) -> Path:
    """The tiny spec with top-level changes, as a file."""
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump({**copy.deepcopy(TINY), **changes}, sort_keys=False), encoding="utf-8")
    return path


def start_study(spec: Path, out: Path, *arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start ``scaleprior study run`` in a process of its own, with options of ``Popen``."""
    command = [sys.executable, "-m", "scaleprior", "study", "run", spec, "--out", out, *arguments]
    return processes.start(command, cwd=spec.parent, **options)


def run_study_command(spec: Path, out: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run ``scaleprior study run`` to its end."""
    process = start_study(spec, out, *arguments)
    stdout, stderr = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def results_of(finished: Path, *images: int) -> bytes:
    """``results.csv`` of a finished study as one of fewer rungs writes it; 0 is the cell from scratch."""
    head, *lines = (finished / "results.csv").read_bytes().splitlines(keepends=True)
    column = head.decode().split(",").index("images")
    return head + b"".join(line for line in lines if int(line.decode().split(",")[column]) in images)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished tiny study; tests must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    run = run_study_command(write_spec(folder), folder / "out", "--jobs", "2")
    assert run.returncode == 0, run.stderr
    return folder / "out"
