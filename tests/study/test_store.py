"""The study store: states, identity, locks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.study.cells import Cell
from scaleprior.study.spec import StageSection
from scaleprior.study.store import StudyStore


def cell(key: str) -> Cell:
    return Cell(key, "R-50", 10, 0, "torchvision", 1, None, StageSection("c.yaml", ("A", "1")))


def test_a_cell_description_survives_its_file(tmp_path: Path) -> None:
    original = cell("k" * 16)
    original.save(tmp_path)
    assert Cell.load(tmp_path) == original


def test_states_survive_closing(tmp_path: Path) -> None:
    with StudyStore.create(tmp_path, name="a", identity="1") as store:
        store.add([cell("x"), cell("y"), cell("z")])
        store.start("x")
        store.finish("x", {"AP": 1.5})
        store.start("y")
        store.fail("y", "diverged")
        store.start("y")
        store.reset("y")
        store.add([cell("x")])  # known cells stay as they are
    with StudyStore.open(tmp_path) as store:
        records = store.records()
    assert (records["x"].state, records["x"].result, records["x"].attempts) == ("done", {"AP": 1.5}, 1)
    assert (records["y"].state, records["y"].error, records["y"].attempts) == ("pending", "", 2)
    assert (records["z"].state, records["z"].attempts) == ("pending", 0)


def test_another_study_is_refused(tmp_path: Path) -> None:
    StudyStore.create(tmp_path, name="a", identity="1").close()
    StudyStore.create(tmp_path, name="a", identity="1").close()
    with pytest.raises(UserError, match=r"holds another study \('a', this one is 'b'"):
        StudyStore.create(tmp_path, name="b", identity="2")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and holds no study"):
        StudyStore.create(tmp_path, name="a", identity="1")
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_study_and_a_damaged_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study in"):
        StudyStore.open(tmp_path)
    (tmp_path / "study.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="is damaged"):
        StudyStore.open(tmp_path)


def test_one_runner_at_a_time_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    store = StudyStore.create(tmp_path, name="a", identity="1")
    code = (
        "import sys; from pathlib import Path; from scaleprior.study.store import StudyStore\n"
        "s = StudyStore.open(Path(sys.argv[1])); lock = s.lock(); lock.__enter__(); print('held', flush=True)\n"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another run is at work .*process {other.pid}"), store.lock():
            pass
        other.kill()
    with store.lock():
        pass
    store.close()
