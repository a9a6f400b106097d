"""The comparison of precisions: its runs, its arithmetic, and a run in small to its last line."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from benchmarks.precisions import compared, jobs_of, table
from tests import processes

REPO = Path(__file__).resolve().parents[2]


def test_the_tolerance_is_students_reach_and_at_least_one_ap() -> None:
    # variances 1 and 4, n = 3 each: se = sqrt(5 / 3) = 1.291, and t of 4 degrees of freedom is 2.776
    found = compared([10.0, 11.0, 12.0], [12.0, 14.0, 16.0])
    assert found == pytest.approx({"difference": 3.0, "reach": 3.584, "tolerance": 3.584, "met": False}, abs=1e-3)
    close = compared([10.0, 10.1, 10.2], [10.8, 10.9, 11.0])
    assert close["met"]
    assert (close["difference"], close["tolerance"]) == (pytest.approx(0.8), 1.0)
    assert not compared([10.0, 10.1, 10.2], [11.2, 11.3, 11.4])["met"]


def test_a_gpu_makes_every_run_and_a_cpu_those_that_it_can() -> None:
    args = Namespace(seeds=2, steps=5, config="c.yaml", set=["SOLVER.BASE_LR", "0.1"])
    sets = [["train", "a.json", "a"], ["val", "b.json", "b"]]
    jobs = jobs_of(args, sets, Path("w"), Path("/out"), gpu=True)
    assert len(jobs) == 2 * 3 * 2
    assert [key[2] for key in jobs] == [0] * 6 + [1] * 6
    words = jobs["detectron2", "bfloat16", 1]["words"]
    assert words[-6:] == ["SOLVER.AMP.ENABLED", "True", "SCALEPRIOR.AMP_DTYPE", "bfloat16", "SOLVER.BASE_LR", "0.1"]
    assert "SOLVER.AMP.ENABLED" not in jobs["detectron2", "float32", 1]["words"]
    assert [key[:2] for key in jobs_of(args, sets, Path("w"), Path("/out"), gpu=False)] == [
        ("torchvision", "float32"), ("torchvision", "bfloat16"),
    ] * 2  # fmt: skip


def test_rows_with_missing_runs_are_of_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    aps = {("torchvision", "float32", seed): 10.0 + seed for seed in range(3)}
    aps |= {("torchvision", "float16", seed): 10.5 + seed for seed in range(2)}
    aps[("detectron2", "float32", 0)] = 7.0
    figures = table(aps, range(3))
    assert set(figures) == {"torchvision float32", "torchvision float16"}
    assert figures["torchvision float16"]["difference"] == 0.0
    assert "    10.50    11.50        -" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.detectron2
def test_the_last_line_says_all() -> None:
    small = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2"]
    small += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.001"]
    line = [sys.executable, REPO / "benchmarks" / "precisions.py", "--steps", "2", "--seeds", "2"]
    done = processes.run([*line, "--world", "16", "4", "4", "--set", *small], env=processes.environment())
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert list(said) == ["bench", "device", "torch", "figures", "failed", "targets", "met", "commit"]
    assert said["failed"] == {}
    assert set(said["figures"]) == {"torchvision float32", "torchvision bfloat16"}
