"""All processes go on from the same checkpoint, or none does."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from scaleprior.errors import FailureError, UserError
from scaleprior.pretrain.loop.saved import saved_state
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.run_folder import RunFolder


class Two(ProcessGroup):
    """The first of two processes; the other one found what ``other`` says: a step, -1 for none."""

    other = 0.0

    def sum(self, *numbers: float) -> list[float]:
        return [numbers[0], self.other]


def folder(out: Path, fingerprint: str = "a") -> RunFolder:
    return RunFolder(out, {"fingerprint": fingerprint}, parts="config")


def test_processes_that_find_different_checkpoints_stop(tmp_path: Path) -> None:
    for step in (4, 8):
        Checkpoints(tmp_path).save(step, {"fingerprint": "a", "counters": {"step": step}})
    two = Two(0, 2, torch.device("cpu"))
    for Two.other, refused in ((8.0, False), (4.0, True), (-1.0, True)):
        if refused:
            said = (
                rf"different checkpoints in .*, after step 8 on process 0, {Two.other:.0f} on process 1 \(-1 is none\)"
            )
            with pytest.raises(FailureError, match=said):
                saved_state(folder(tmp_path), Checkpoints(tmp_path), two)
        else:
            found = saved_state(folder(tmp_path), Checkpoints(tmp_path), two)
            assert found is not None
            assert found.state["counters"]["step"] == 8
    Two.other = -1.0
    assert saved_state(folder(tmp_path / "new"), Checkpoints(tmp_path / "new"), two) is None


def test_one_process_tells_of_damage_and_another_runs_is_never_fallen_back_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for step, run in ((4, "a"), (8, "b")):
        Checkpoints(tmp_path).save(step, {"fingerprint": run, "counters": {"step": step}})
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    with pytest.raises(UserError, match=r"checkpoint_0000008\.safetensors holds a run with another config"):
        saved_state(folder(tmp_path), Checkpoints(tmp_path), alone)
    (tmp_path / "checkpoint_0000008.safetensors").write_bytes(b"")
    Two.other = 4.0
    found = saved_state(folder(tmp_path), Checkpoints(tmp_path), alone)
    assert found is not None
    assert len(caplog.records) == 1


def test_a_checkpoint_of_a_version_that_counted_otherwise(tmp_path: Path) -> None:
    Checkpoints(tmp_path).save(4, {"fingerprint": "a"})
    with pytest.raises(UserError, match=r"0004\.safetensors was written by another version: KeyError: 'counters'"):
        saved_state(folder(tmp_path), Checkpoints(tmp_path), ProcessGroup(0, 1, torch.device("cpu")))
