"""Starting several processes: their environment, and the exit code of one that fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.pretrain import launch

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def note(folder: Path, failing_rank: int) -> None:
    rank = int(os.environ.get("RANK", 0))
    (folder / str(rank)).write_text(" ".join(os.environ.get(name, "-") for name in NAMES))
    if rank == failing_rank:
        raise UserError("this one is wrong")


def test_processes_of_the_second_machine_know_their_place_and_an_error_is_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    url = "tcp://10.0.0.7:1234"
    code = launch(note, (tmp_path, 3), processes=2, machines=2, machine_rank=1, dist_url=url)
    assert code == 2
    assert (tmp_path / "3").read_text() == "3 1 4 10.0.0.7 1234"
    assert "process 3: error: this one is wrong" in capfd.readouterr().err


def test_one_process_is_this_one(tmp_path: Path) -> None:
    assert launch(note, (tmp_path, 1), processes=1) == 0
    assert (tmp_path / "0").exists()
    with pytest.raises(UserError, match="this one is wrong"):
        launch(note, (tmp_path, 0), processes=1)
