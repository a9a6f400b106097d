"""What a resumed run keeps of the figures recorded before."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest

from scaleprior.files import WriteError
from scaleprior.training.metrics_file import MetricsFile, cut_lines

ROWS = [json.dumps({"iteration": i, "loss": float("nan")}) for i in (1, 3, 5)]


@pytest.mark.parametrize("in_place", [False, True])
def test_lines_of_lost_steps_are_cut(tmp_path: Path, in_place: bool) -> None:
    path = tmp_path / "metrics.json"
    cut_lines(path, "iteration", 3, in_place=in_place)
    assert not path.exists()
    path.write_text("\n".join([ROWS[0], "[]", ROWS[1], ROWS[2], '{"iteration": 1']))
    cut_lines(path, "iteration", 3, in_place=in_place)
    assert path.read_text() == f"{ROWS[0]}\n{ROWS[1]}\n"
    cut_lines(path, "iteration", -1, in_place=in_place)
    assert path.read_text() == ""


def test_a_last_line_without_its_end_gets_one(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text(ROWS[0])
    cut_lines(path, "iteration", 3)
    assert path.read_text() == f"{ROWS[0]}\n"


def test_a_writer_that_has_the_file_open_goes_on_behind_the_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("".join(f"{row}\n" for row in ROWS))
    with path.open("a") as writer:
        cut_lines(path, "iteration", 1, in_place=True)
        writer.write(f"{ROWS[2]}\n")
    assert path.read_text() == f"{ROWS[0]}\n{ROWS[2]}\n"


def test_bytes_that_are_no_text_are_a_line_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_bytes(ROWS[0].encode() + b"\n\xff\xfe{\x00\n")
    cut_lines(path, "iteration", 9)
    assert path.read_text() == f"{ROWS[0]}\n"


def test_what_a_power_cut_may_leave_of_later_lines_is_dropped(tmp_path: Path) -> None:
    """Zeros, half a line, a line nested without end, a number of more digits than Python reads."""
    path = tmp_path / "metrics.json"
    harm = (b"\0" * 512, b'{"iteration": 2, "lo', b"[" * 100_000, b'{"iteration": ' + b"1" * 5000 + b"}")
    path.write_bytes(b"\n".join([ROWS[0].encode(), *harm]))
    cut_lines(path, "iteration", 9)
    assert path.read_text() == f"{ROWS[0]}\n"


def test_flushing_asks_the_disk_and_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    metrics.write(ROWS[0])
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", lambda handle: flushed.append(os.fstat(handle).st_ino))
        metrics.flush()
    assert flushed == [(tmp_path / "metrics.jsonl").stat().st_ino]

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WriteError, match=r"cannot write .*metrics.jsonl: No space left on device"):
        metrics.flush()
    metrics.close()
    monkeypatch.undo()
    nowhere = MetricsFile(Path("/dev/null"))  # which has no disk to ask
    nowhere.flush()
    nowhere.close()
