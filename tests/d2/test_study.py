"""A study whose cells run through Detectron2's trainer, and whose killed cells go on where they were."""

from __future__ import annotations

from pathlib import Path

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.detect import known_engines
from tests.processes import wait_until
from tests.study.conftest import TINY, run_study_command, start_study, write_spec
from tests.study.test_study import _steps, _wait_until_unlocked

FINETUNE = {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], "SOLVER.MAX_ITER": 12}}


@pytest.mark.skipif("detectron2" not in known_engines(), reason="scaleprior is not installed, only importable")
def test_a_study_on_detectron2_survives_kills(tmp_path: Path) -> None:
    """Killed while a cell fine-tunes, twice; the results are those of the undisturbed study, to the byte."""
    spec = write_spec(tmp_path, engine="auto", ladder=[16], scratch=False, finetune=FINETUNE)
    run = run_study_command(spec, tmp_path / "whole", "--jobs", "2", "--engine", "detectron2")
    assert run.returncode == 0, run.stderr
    whole = (tmp_path / "whole" / "results.csv").read_text()
    assert whole.count(",detectron2,") == 1

    out = tmp_path / "broken"
    for reached in (3, 7):
        process = start_study(spec, out, "--jobs", "1", "--engine", "detectron2")
        wait_until(lambda: _finetuned(out) >= reached, process)  # noqa: B023
        process.kill()
        process.communicate()
        _wait_until_unlocked(out)
    assert not (out / "results.csv").exists()
    run = run_study_command(spec, out, "--jobs", "1", "--engine", "detectron2")
    assert run.returncode == 0, run.stderr
    assert (out / "results.csv").read_text() == whole
    other = run_study_command(spec, out, "--engine", "torchvision")
    assert other.returncode == 2
    assert "was begun with the detectron2 engine" in other.stderr


def _finetuned(out: Path) -> int:
    return max((done for name, done in _steps(out).items() if name.endswith("/finetune")), default=0)
