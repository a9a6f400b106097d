"""Two runs in one folder: the second is refused, and a killed one keeps nobody out."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.locks import alone_in

_HOLD = """
import os, sys
from scaleprior.locks import alone_in
with alone_in(sys.argv[1]):
    begun, begins = os.pipe()
    child = os.fork()  # as a loader's worker, which inherits what is open
    if child == 0:
        os.write(begins, b"x")
        os.read(int(sys.argv[2]), 1)
        os._exit(0)
    os.read(begun, 1)
    print(os.getpid(), flush=True)
    sys.stdin.read()
"""


def test_a_second_run_is_refused_and_a_killed_one_keeps_nobody_out(tmp_path: Path) -> None:
    """Also while workers of the killed one live on, which would hold a lock that they inherited."""
    waiting, ends = os.pipe()
    run = subprocess.Popen(
        [sys.executable, "-c", _HOLD, tmp_path / "run", str(waiting)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=(waiting,), text=True,
    )  # fmt: skip
    try:
        assert run.stdout is not None
        assert int(run.stdout.readline()) == run.pid
        said = r"another run is at work in .*run; wait for it"
        with pytest.raises(UserError, match=said), alone_in(tmp_path / "run"):
            pass
        run.send_signal(signal.SIGKILL)
        run.wait()
        with alone_in(tmp_path / "run"):
            pass
    finally:
        os.close(ends)
        os.close(waiting)
        run.kill()
        run.communicate()
    assert not list((tmp_path / "run").iterdir())


def test_one_process_does_not_run_twice_in_a_folder_either(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with (
        alone_in(tmp_path / "run"),
        pytest.raises(UserError, match="another run"),
        alone_in(tmp_path / "link"),
    ):
        pass
    with alone_in(tmp_path / "run"), alone_in(tmp_path / "other"):
        (tmp_path / "run" / "made").touch()
    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["link", "run", "made"]


def test_a_folder_without_locks_is_no_hindrance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with alone_in(tmp_path / "file" / "below"):
        pass

    def refuse(*args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone_in(tmp_path / "run"):
        pass
    assert not (tmp_path / "run").exists()
