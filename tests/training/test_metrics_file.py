"""What a resumed run keeps of the figures recorded before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleprior.training.metrics_file import cut_lines

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
