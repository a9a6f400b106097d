"""Starting several processes: their environment, and one line for the error of one that fails."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch
from torch.multiprocessing import ProcessRaisedException

from scaleprior.errors import FailureError, UserError
from scaleprior.training.launching import launch
from scaleprior.training.processes import join_processes
from scaleprior.training.signals import Interrupted

NAMES = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def note(folder: Path, failing_rank: int) -> None:
    rank = int(os.environ.get("RANK", 0))
    (folder / str(rank)).write_text(" ".join(os.environ.get(name, "-") for name in NAMES))
    if rank == failing_rank:
        raise UserError("this one is wrong")


def die(how: str) -> None:
    if os.environ["RANK"] == "1":
        if how == "interrupted":
            raise Interrupted("stopped after step 3")
        if how == "lost":
            raise RuntimeError("[/gloo/transport/tcp/pair.cc:9] Connection closed by peer [10.0.0.7]:9")
        if how == "bug":
            raise ZeroDivisionError("a bug")
        os.kill(os.getpid(), getattr(signal, how))
    time.sleep(60)


def test_processes_of_the_second_machine_know_their_place_and_an_error_comes_back(
    tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    url = "tcp://10.0.0.7:1234"
    with pytest.raises(UserError, match=r"^this one is wrong$"):
        launch(note, (tmp_path, 3), processes=2, machines=2, machine_rank=1, dist_url=url)
    assert (tmp_path / "3").read_text() == "3 1 4 10.0.0.7 1234"
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("interrupted", Interrupted, "^stopped after step 3$"),
        ("SIGTERM", Interrupted, "stopped by SIGTERM before training began"),
        ("SIGKILL", FailureError, "process 1 terminated with signal SIGKILL; if memory ran out"),
        ("lost", FailureError, "^another process was lost: Connection closed by peer .10.0.0.7.:9;"),
        ("bug", ProcessRaisedException, "ZeroDivisionError: a bug"),
    ],
)
def test_how_a_process_ends_is_how_the_launch_ends(how: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        launch(die, (how,), processes=2)


def test_one_process_is_this_one(tmp_path: Path) -> None:
    launch(note, (tmp_path, 1), processes=1)
    assert (tmp_path / "0").exists()
    with pytest.raises(UserError, match="this one is wrong"):
        launch(note, (tmp_path, 0), processes=1)


def lose(how: str) -> None:
    """Process 1 is killed while 0 waits for it, or fails by itself."""
    with join_processes(torch.device("cpu")) as group:
        group.wait()
        if group.rank == 1:
            if how == "error":
                raise UserError("this one is wrong")
            os.kill(os.getpid(), signal.SIGKILL)
        group.wait()


@pytest.mark.parametrize(
    ("how", "kind", "message"),
    [
        ("kill", FailureError, "^(process 1 terminated with signal SIGKILL|another process was lost: .*); .*goes on"),
        ("error", UserError, "^this one is wrong$"),
    ],
)
def test_who_waits_for_a_process_that_ends_adds_no_traceback(
    how: str, kind: type[Exception], message: str, capfd: pytest.CaptureFixture
) -> None:
    with pytest.raises(kind, match=message):
        launch(lose, (how,), processes=2)
    assert capfd.readouterr().err == ""
