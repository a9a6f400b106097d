"""Power cuts at random moments of a fine-tuning, as of a pretraining (``tests/pretrain/test_power_cut.py``)."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect import get_engine
from scaleprior.detect.faster_rcnn.engine import MODEL_FILE
from scaleprior.detect.faster_rcnn.trainer import METRICS
from scaleprior.training.checkpoints import Checkpoints
from tests.detect.conftest import tiny_config
from tests.powercut import Recorder

CUTS, TO_THE_END = 50, 10


@pytest.mark.slow
def test_power_cuts(
    tmp_path: Path, coco_overrides: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = tiny_config("FPN", [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "1"])
    (tmp_path / "disk").mkdir()
    recorder, sure, save = Recorder(tmp_path / "disk"), {0: 0}, Checkpoints.save

    def noted(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        save(self, step, state)
        sure[len(recorder.log)] = step

    with monkeypatch.context() as patched, recorder.recording(monkeypatch) as log:
        patched.setattr(Checkpoints, "save", noted)
        whole = get_engine("torchvision").train(loaded, None, tmp_path / "disk" / "run")
    draw = random.Random(0)
    for number in range(CUTS):
        length = draw.randint(1, len(log))
        log.after_a_cut(length, draw, tmp_path / str(number))
        run = tmp_path / str(number) / "run"
        caplog.clear()
        found = Checkpoints(run).load()
        step = 0 if found is None else found.state["step"]
        if found is not None:
            assert log.ever_held(found.path.read_bytes()), f"cut {number}: a state that nobody saved"
        if (run / MODEL_FILE).exists():  # the checkpoints have served
            assert (run / MODEL_FILE).read_bytes() == whole.read_bytes()
        else:
            assert step >= max(at for when, at in sure.items() if when <= length), f"cut {number}: after {length} calls"
        if number % TO_THE_END == 0:
            again = get_engine("torchvision").train(loaded, None, run, resume=True)
            assert again.read_bytes() == whole.read_bytes()
            assert (run / METRICS).read_text() == (whole.parent / METRICS).read_text()
            assert Checkpoints(run).paths() == []
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []
