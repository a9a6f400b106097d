"""A folder belongs to one run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.training.run_folder import RUN_FILE, RunFolder, refuse_other_run


def folder(out: Path, fingerprint: str) -> RunFolder:
    return RunFolder(out, {"fingerprint": fingerprint, "seed": 3}, parts="config or data")


def test_a_run_finds_itself_and_refuses_another(tmp_path: Path) -> None:
    mine = folder(tmp_path / "new", "a")
    assert mine.found() is None
    mine.write()
    assert mine.found() == {"fingerprint": "a", "seed": 3}
    with pytest.raises(UserError, match=r"new holds a run with another config or data; .*another output folder"):
        folder(tmp_path / "new", "b").found()


def test_what_a_killed_start_was_writing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".checkpoint.safetensors.abc.tmp").write_bytes(b"x")  # ours
    (tmp_path / ".tmpe63XKw").write_bytes(b"x")  # as safetensors names it
    (tmp_path / "metrics.jsonl").write_text("kept")
    folder(tmp_path, "a").write()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["metrics.jsonl", RUN_FILE]


@pytest.mark.parametrize("name", ["hash", "run_hash"])
def test_folders_and_checkpoints_of_before_are_gone_on_with(tmp_path: Path, name: str) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({name: "a", "schema": 2}))
    assert folder(tmp_path, "a").found() == {name: "a", "schema": 2}
    with pytest.raises(UserError, match="holds a run with another"):
        folder(tmp_path, "b").found()


def test_what_names_no_run_is_another_run() -> None:
    with pytest.raises(UserError, match="checkpoint holds a run with another config"):
        refuse_other_run({}, "a", "checkpoint", "config")


def test_a_damaged_run_file_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text("{")
    with pytest.raises(UserError, match=RUN_FILE):
        folder(tmp_path, "a").found()
