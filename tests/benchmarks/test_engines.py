"""benchmarks/engines.py, in small: it runs to its last line, which says all that it found."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from benchmarks import engines
from benchmarks.parity import KINDS
from tests import processes

REPO = Path(__file__).resolve().parents[2]


def run(*args: object, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, REPO / "benchmarks" / "engines.py", *args]
    return processes.run(command, env=processes.environment(**env))


def test_the_last_line_says_all() -> None:
    small = ["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "SOLVER.IMS_PER_BATCH", "2"]
    detect_all = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.001"]  # so that AP is a number after two steps
    done = run(
        *(
            "--steps",
            2,
            "--seeds",
            2,
            "--depths",
            50,
            "--world",
            16,
            4,
            4,
            "--jobs",
            0,
            "--masks",
            "--set",
            *small,
            *detect_all,
        )
    )
    assert done.returncode == 0, done.stderr
    *people, last = done.stdout.splitlines()
    said = json.loads(last)
    assert list(said) == ["bench", "figures", "targets", "met", "commit"]
    assert said["bench"] == "engines"
    figures, targets = said["figures"], said["targets"]
    assert set(targets) < set(figures)
    for engine in ("torchvision", "detectron2"):
        assert figures[f"{engine}_step_cpu_s"] > 0
    for of in ("", "mask_"):
        for engine in ("torchvision", "detectron2"):
            aps = figures[f"{of}{engine}_ap"]
            assert len(aps) == 2
            assert figures[f"{of}{engine}_mean"] == pytest.approx(sum(aps) / 2, abs=1e-3)
        # two runs each: pooled sd of n = 2, and Student's quantile for 2 degrees of freedom, 4.303
        (a, b), (c, d) = figures[f"{of}torchvision_ap"], figures[f"{of}detectron2_ap"]
        error = (((a - b) ** 2 / 2 + (c - d) ** 2 / 2) / 2) ** 0.5
        assert figures[f"{of}ap_se"] == pytest.approx(error, abs=1e-3)
        assert figures[f"{of}ap_t_times_se"] == pytest.approx(4.303 * error, abs=5e-3)
        assert figures[f"{of}ap_differences"] == pytest.approx([c - a, d - b], abs=1e-3)
        assert figures[f"{of}ap_difference"] == pytest.approx((c + d - a - b) / 2, abs=1e-3)
        assert targets[f"{of}ap_difference"] == max(1.0, figures[f"{of}ap_t_times_se"])
        assert figures[f"{of}ap_same_weights"] <= targets[f"{of}ap_same_weights"]
    maps = {name for name in figures if name.startswith("R-50 ")}
    assert {name.split()[1] for name in maps} == set(KINDS)
    assert len(maps) == sum(line.startswith("R-50 ") for line in people) == 9
    assert figures["feature_difference"] == max(figures[name] for name in maps) <= targets["feature_difference"]
    assert said["met"] == all(abs(figures[name]) <= limit for name, limit in targets.items())


def test_without_detectron2_it_says_so_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "detectron2.py").write_text("raise ModuleNotFoundError('no', name='detectron2')")
    done = run(PYTHONPATH=os.pathsep.join((str(tmp_path), str(REPO))))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("benchmarks/engines.py: error: Detectron2 is not installed; install it by https://")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--seeds", 1], "--seeds 1; a standard deviation needs 2 at least"),
        (["--steps", 1], "--steps 1; the time between two steps needs 2 at least"),
    ],
)
def test_bad_input_is_one_line(words: list[object], said: str) -> None:
    done = run(*words)
    assert done.returncode == 2
    assert f"benchmarks/engines.py: error: {said}" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_error_of_a_run_is_one_line(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Of its own process, which shares the import here."""

    def shared(command: list[str], *, capture_output: bool, **options: Any) -> subprocess.CompletedProcess[str]:
        assert capture_output
        return processes.run(command, **options)

    monkeypatch.setattr(engines, "subprocess", SimpleNamespace(run=shared))
    words = ["--data", "nowhere", "--backbone", "no.safetensors", "--depths", "--seeds", 2, "--jobs", 1]
    monkeypatch.setattr(sys, "argv", [str(REPO / "benchmarks" / "engines.py"), *map(str, words)])
    assert engines.main() == 2
    said = capfd.readouterr().err
    assert "benchmarks/engines.py: error: torchvision-0: " in said.splitlines()[-1]
    assert "Traceback" not in said
