"""Power cuts at random moments of a pretraining: what is read afterwards was saved, and the run ends as undisturbed."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleprior.errors import UserError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.result import RESULT
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.run_folder import RUN_FILE
from tests.powercut import Recorder
from tests.pretrain.conftest import TINY, outcome

CUTS, TO_THE_END = 50, 3  # every third is run to its end


@pytest.mark.slow
def test_power_cuts(
    small_config: Callable,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The folder of the run itself is made by the run, below one that is made by it, too: both have to stay."""
    (tmp_path / "disk").mkdir()
    recorder = Recorder(tmp_path / "disk")
    sure = {0: 0}  # length of the log -> step that is promised to be saved from there on
    save = Checkpoints.save

    def noted(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        save(self, step, state)
        sure[len(recorder.log)] = step

    with monkeypatch.context() as patched, recorder.recording(monkeypatch) as log:
        patched.setattr(Checkpoints, "save", noted)
        pretrain(small_config(*TINY), tmp_path / "disk" / "runs" / "run")
    assert list(sure.values()) == [0, 1, 2, 3, 4]
    assert outcome(tmp_path / "disk" / "runs" / "run") == undisturbed
    draw = random.Random(0)
    for number in range(CUTS):
        length = draw.randint(1, len(log))
        log.after_a_cut(length, draw, tmp_path / str(number))
        run = tmp_path / str(number) / "runs" / "run"
        caplog.clear()
        found = Checkpoints(run).load()
        step = 0 if found is None else found.state["counters"]["step"]
        if found is not None:
            assert log.ever_held(found.path.read_bytes()), f"cut {number}: a state that nobody saved"
        if not (run / RESULT).exists():  # else the checkpoints have served
            promised = max(step for at, step in sure.items() if at <= length)
            assert step >= promised, f"cut {number}: after {length} of {len(log)} calls"
        if number % TO_THE_END == 0:
            pretrain(small_config(*TINY), run, resume=True)
            assert outcome(run) == undisturbed, f"cut {number}: after {length} of {len(log)} calls"
        assert [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_a_damaged_run_json_costs_a_run_nothing_and_a_finished_one_is_not_trained_over(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"

    def kill(done: int, total: int, numbers: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*TINY), run, progress=kill)
    (run / RUN_FILE).write_bytes(b"")
    with pytest.raises(UserError, match=r"0000002\.safetensors holds a run with another config"):
        pretrain(small_config(*TINY, "SEED", "1"), run, resume=True)
    steps: list[int] = []
    caplog.clear()
    pretrain(small_config(*TINY), run, resume=True, progress=lambda done, *_: steps.append(done))
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.endswith("run.json is not JSON: line 1: Expecting value: whose the folder is, its checkpoints say")
    assert steps == [3, 4]
    assert outcome(run) == undisturbed
    (run / RUN_FILE).write_bytes(b"")
    with pytest.raises(UserError, match=r"run\.json is not JSON"):
        pretrain(small_config(*TINY), run, resume=True)


def test_where_all_checkpoints_are_damaged_a_run_begins_anew_with_one_warning(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def kill(done: int, total: int, numbers: object) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*TINY), tmp_path / "run", progress=kill)
    for path in Checkpoints(tmp_path / "run").paths():
        path.write_bytes(path.read_bytes()[:-9])
    steps: list[int] = []
    caplog.clear()
    pretrain(small_config(*TINY), tmp_path / "run", resume=True, progress=lambda done, *_: steps.append(done))
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith(f"beginning anew in {tmp_path / 'run'}, because checkpoint_0000002.safetensors is damaged: ")
    assert steps == [1, 2, 3, 4]
    assert outcome(tmp_path / "run") == undisturbed
