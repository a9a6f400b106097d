"""What a run is short of, and what it holds on to: descriptors and memory."""

from __future__ import annotations

import gc
import os
import re
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleprior.errors import FailureError
from scaleprior.pretrain import pretrain
from tests.limits import leave_descriptors, limits_kept
from tests.pretrain.conftest import TINY, outcome

# Measured: +0.2 MiB from step 200 to 2000, +4 KiB from the 10th to the 60th training.
FLAT = (*TINY, "PRETRAIN.BATCH_SIZE", "2", "PRETRAIN.INPUT.SIZE", "8", "PRETRAIN.METRICS_PERIOD", "50")
_LEAST = 8 << 20  # bytes: what an allocator may come to hold at any time; 4 KiB a step would be as much


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def test_without_descriptors_the_run_ends_and_passes_over_no_image(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """Each image is a file of its own; those that could not be opened would be left out of the training."""

    def limit(done: int, total: int, numbers: object) -> None:
        if done == 2:
            leave_descriptors(6)  # enough for a checkpoint

    with limits_kept(resource.RLIMIT_NOFILE), pytest.raises(FailureError) as failed:
        pretrain(small_config(*TINY), tmp_path / "run", progress=limit)
    assert re.match(r"cannot read .*\.png: Too many open files; raise the limit", str(failed.value))
    pretrain(small_config(*TINY), tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run") == undisturbed


@pytest.mark.slow
def test_2000_steps_hold_on_to_nothing(small_config: Callable, tmp_path: Path) -> None:
    held: dict[int, tuple[int, int]] = {}

    def look(done: int, total: int, numbers: object) -> None:
        if done in (400, 2000):
            held[done] = resident(), descriptors()

    keys = ("PRETRAIN.BUDGET.AMOUNT", "2000", "PRETRAIN.CHECKPOINT_PERIOD", "100", "PRETRAIN.EVAL.PERIOD", "200")
    pretrain(small_config(*FLAT, *keys), tmp_path / "run", progress=look)
    assert held[2000][0] - held[400][0] < _LEAST
    assert held[2000][1] == held[400][1]


@pytest.mark.slow
def test_50_trainings_in_one_process_hold_on_to_nothing(small_config: Callable, tmp_path: Path) -> None:
    held = []
    for number in range(50):
        pretrain(small_config(*FLAT, "PRETRAIN.BUDGET.AMOUNT", "2"), tmp_path / str(number), check=False)
        held.append((resident(), descriptors()))
    assert held[-1][0] - held[4][0] < _LEAST
    assert held[-1][1] == held[4][1]
