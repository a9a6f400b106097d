"""What a study makes of files that a power cut, a hand or a copy left in its folder."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleprior.errors import FailureError, UserError
from scaleprior.study import load_spec, run_study, study_status
from scaleprior.study.cell import Cell
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.report.page import build_report
from scaleprior.study.result import CellResult
from scaleprior.study.sharing import CellMemory, Sharing
from scaleprior.study.status import study_view
from scaleprior.study.view import CellStatus
from scaleprior.study.worker import _Spent, run_cell
from tests.study.conftest import write_spec
from tests.study.test_arms import Forks
from tests.study.test_folder import DETECTION, claimed, make_cell

CELL = make_cell("c" * 16)
RESULT = CellResult(DETECTION, None, {"finetune": 2.5}, {"finetune": 2.0}, {"torch": "2"}, cell=CELL.key)
NO_JSON = ["", "\0" * 64, "{", "null", "[]", "3", "9" * 5000, "[" * 100_000, '{"wall": 1}', '"\\ud800"']
READS: dict[str, Callable[[Path], object]] = {
    "progress.json": lambda folder: _state(folder).progress,
    "error.json": lambda folder: _state(folder).result,
    "sharing.json": Sharing.read,
    "memory.json": CellMemory.read,
    "seconds.json": lambda folder: _Spent(folder).wall or None,
}


def _folder(root: Path) -> Path:
    folder = StudyFolder(root).cell(CELL)
    folder.mkdir(parents=True)
    return folder


def _state(folder: Path) -> CellStatus:
    (status,) = study_view(StudyFolder(folder.parents[1]), StudyRecord("a", "1", cells=(CELL,)), busy=False).cells
    return status


@pytest.mark.parametrize("name", READS)
@pytest.mark.parametrize("text", NO_JSON)
def test_a_damaged_helper_file_is_left_aside_and_said_once(
    tmp_path: Path, name: str, text: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder = _folder(tmp_path)
    assert READS[name](folder) is None
    assert not caplog.records
    (folder / name).write_text(text)
    for _ in range(3):
        assert READS[name](folder) is None
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert str(folder / name) in record.message
    assert record.message.endswith("; it is left aside")
    assert record.message.isprintable()
    assert len(record.message) < 600


@pytest.mark.parametrize("name", [*READS, "result.json", "running", ".lock"])
@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device", "a link to nothing"])
def test_what_is_no_file_is_read_by_nobody_and_nobody_waits(tmp_path: Path, name: str, kind: str) -> None:
    if name != ".lock":
        claimed(tmp_path)
    folder = _folder(tmp_path)
    place = (tmp_path if name == ".lock" else folder) / name
    if kind == "a pipe":
        os.mkfifo(place)
    elif kind == "a folder":
        place.mkdir()
    else:
        place.symlink_to("/dev/zero" if kind == "a device" else "nowhere")
    assert StudyFolder(tmp_path).busy() is False
    state = _state(folder)
    assert state.state == ("failed" if name in ("result.json", "error.json") else "pending")
    assert (name in state.error) == (state.state == "failed")


@pytest.mark.parametrize(
    "damage",
    [
        *({"text": text} for text in NO_JSON),
        {"detection": {**DETECTION.to_dict(), "AP": 101.0}},
        {"detection": {**DETECTION.to_dict(), "AP50": -0.1}},
        {"detection": {**DETECTION.to_dict(), "per_class": {"9" * 5000: {"name": "cat", "ap": 1.0}}}},
        {"detection": {"metrics": {"sem_seg": {"mIoU": 1.0}}}},
        {"pretrain": {"metrics": {}}},
        {"seconds": {"finetune": -1}},
        {"cell": 3},
        {"cell": "d" * 16},
    ],
)
def test_a_damaged_result_is_no_result_and_the_status_says_why(
    tmp_path: Path, damage: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    folder = _folder(tmp_path)
    RESULT.save(folder)
    assert _state(folder).result == RESULT
    path = folder / "result.json"
    path.write_text(damage.get("text", json.dumps({**json.loads(path.read_text()), **damage})))
    for _ in range(2):
        status = _state(folder)
    assert (status.state, status.result) == ("failed", None)
    assert [record.message for record in caplog.records] == [status.error]
    assert status.error.endswith("; the study's next run measures again")
    assert str(path) in status.error
    assert status.error.isprintable()


def test_a_result_says_whose_it_is_and_old_ones_need_not(tmp_path: Path) -> None:
    """A folder that was copied over another brings no numbers with it."""
    folder = _folder(tmp_path)
    RESULT.save(folder)
    assert CellResult.find(folder, CELL.key) == RESULT
    with pytest.raises(UserError, match=f"is of cell '{CELL.key}', not of dddddddddddddddd; the study's next run"):
        CellResult.find(folder, "d" * 16)
    replace(RESULT, cell="").save(folder)
    assert "cell" not in json.loads((folder / "result.json").read_text())
    assert CellResult.find(folder, CELL.key) == CellResult.find(folder, "d" * 16) == replace(RESULT, cell="")


def test_what_is_damaged_is_measured_again_to_the_same_bytes(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """One cell has all its files damaged, another that one's result: both run again, the others stay."""
    out = Path(shutil.copytree(finished, tmp_path / "out", symlinks=True))
    broken, foreign, *others = study_status(out).cells
    kept = {status.folder: (status.folder / "result.json").read_bytes() for status in others}
    shutil.copy(broken.folder / "result.json", foreign.folder / "result.json")
    for name in ("result.json", "progress.json", "seconds.json", "error.json", "finetune/metrics.jsonl"):
        assert name == "error.json" or (broken.folder / name).is_file()
        (broken.folder / name).write_bytes(b"\xff\x00")
    before = study_status(out)
    assert [status.state for status in before.cells] == ["failed", "failed", "done", "done"]
    missing = build_report(before).missing
    assert [line.split(":")[0] for line in missing] == ["R-50, from scratch, seed 0", "R-50, 16 images, seed 0"]
    assert "result.json" in missing[0]
    outcome = run_study(load_spec(write_spec(tmp_path)), out, executor=Forks(), check=False)
    assert outcome.ran == 2
    build_report(outcome.view).write(out)
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert (broken.folder / "result.damaged.json").read_bytes() == b"\xff\x00"  # what it held is not lost
    assert {folder: (folder / "result.json").read_bytes() for folder in kept} == kept
    said = [record.message for record in caplog.records if record.name.endswith("helper_files")]
    assert len(said) == len(set(said)) == 4  # of two results, an error and a progress
    assert "seconds.json cannot be read" in capfd.readouterr().err  # of the cell's own process


def test_the_worker_does_not_take_another_cells_result(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """... where a batch system starts it without a runner; what it cannot run is recorded."""
    folder = _folder(tmp_path)
    CELL.save(folder)
    replace(RESULT, cell="d" * 16).save(folder)
    assert forked(lambda: run_cell(folder)) == 1
    assert "c.yaml" in _state(folder).error  # the config that CELL names
    assert (folder / "result.damaged.json").is_file()
    assert "is of cell 'dddddddddddddddd', not of cccccccccccccccc; it is measured again" in capfd.readouterr().err
    RESULT.save(folder)
    assert forked(lambda: run_cell(folder)) == 0


@pytest.mark.parametrize("text", NO_JSON)
def test_a_damaged_description_fails_the_cell_in_one_line(
    tmp_path: Path, text: str, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = _folder(tmp_path)
    (folder / "cell.json").write_text(text)
    assert forked(lambda: run_cell(folder)) == 1
    error = _state(folder).error
    assert str(folder / "cell.json") in error
    assert "Traceback" not in capfd.readouterr().err
    assert error.isprintable()


def forked(work: Callable[[], int]) -> int:
    """What ``work`` returns in a process of its own, as the worker takes its process' output for its log."""
    if (child := os.fork()) == 0:
        code = 70
        try:
            code = work()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


CELLS = [
    ({"arch": "../../x"}, r"the folder is '../../x-10-seed0-cccccccc', which cannot be the name of a file"),
    ({"arm": "a/b"}, "the folder is 'R-50-10-a/b-seed0-cccccccc', which cannot be"),
    ({"pretraining": "/../../.."}, "the folder is 'R-50-10-seed0-/../../.', which cannot be"),
    ({"key": "\0\0"}, r"the folder is .*which cannot be"),
    ({"arch": "x" * 300}, "the folder has 318 characters, too many"),
    ({"arch": 3}, "arch is 3"),
    ({"key": None}, "key is None"),
    ({"images": True}, "images is True"),
    ({"images": "16"}, "images is '16'"),
    ({"images": 2**63}, "images is 9223372036854775808"),
    ({"seed": -1}, "seed is -1"),
    ({"threads": 0}, "threads is 0"),
    ({"data": []}, r"data is \[\]"),
    ({"data": {"corpus": "", "train": "abc", "val": ["a", "b", "c"]}}, "data .*: train is 'abc'"),
    ({"data": {"corpus": "", "train": ["a", "b"], "val": ["a", "b", "c"]}}, r"data .*: train is \['a', 'b'\]"),
    ({"noise": 3}, "noise is 3"),
    ({"noise": {"rate": "much", "kind": "uniform", "drop": 0}}, "noise .*: rate is 'much'"),
    ({"pretrain": "p.yaml"}, "pretrain is 'p.yaml'"),
    ({"finetune": None}, "finetune is None"),
    ({"finetune": {"config": "a", "overrides": "ab"}}, "finetune .*: overrides is 'ab'"),
    ({"weights": 4}, "weights is 4"),
    ({"cost": float("nan")}, "cost is nan"),
    ({"later": 1}, "it has 'later', which nobody knows"),
]


@pytest.mark.parametrize(("change", "said"), CELLS)
def test_of_a_hostile_cell_one_line_and_no_place_outside_its_folder(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    raw = {**CELL.to_dict(), **change}
    (tmp_path / "cell.json").write_text(json.dumps(raw))
    with pytest.raises(UserError, match=rf"cell\.json.*{said}") as caught:
        Cell.load(tmp_path)
    assert str(caught.value).isprintable()
    (tmp_path / "study.json").write_text(json.dumps({**_study(), "cells": [CELL.to_dict(), raw]}))
    with pytest.raises(UserError, match=rf"study\.json: cell 2.*{said}"):
        StudyFolder(tmp_path).read()


def _study() -> dict[str, Any]:
    return {"schema": 1, "name": "a", "fingerprint": "1", "engine": "", "facts": {}, "cells": []}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 2}, "has schema 2, this version reads 1"),
        ({"schema": [[0] * 1000] * 1000}, r"has schema \[\[0, .*\.\.\., this version reads 1"),
        ({"name": 3}, "name is 3"),
        ({"fingerprint": [1]}, r"fingerprint is \[1\]"),
        ({"engine": None}, "engine is None"),
        ({"facts": 3}, "facts is 3"),
        ({"facts": {"seeds": [1]}}, "facts is {'seeds': "),
        ({"cells": {"a": 1}}, "cells is {'a': 1}"),
        ({"cells": [3]}, "cell 1 is damaged, or of another version: it holds 3"),
        ({"later": 1}, "it has 'later', which nobody knows"),
    ],
)
def test_of_a_hand_damaged_study_one_line(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    (tmp_path / "study.json").write_text(json.dumps({**_study(), **change}))
    with pytest.raises(UserError, match=rf"study\.json.*{said}") as caught:
        study_status(tmp_path)
    assert str(caught.value).isprintable()
    with pytest.raises(UserError, match=said):
        claimed(tmp_path)


@pytest.mark.parametrize("kind", ["a pipe", "a folder", "a device"])
def test_a_study_that_is_no_file_is_refused_without_waiting(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "study.json"
    {"a pipe": os.mkfifo, "a folder": os.mkdir, "a device": lambda p: p.symlink_to("/dev/zero")}[kind](path)
    for look in (study_status, claimed):
        with pytest.raises(UserError, match=f"study.json is {kind}|is not empty and holds no study"):
            look(tmp_path)


def _store(folder: Path, rows: Mapping[Any, Any]) -> sqlite3.Connection:
    connection = sqlite3.connect(folder / "study.sqlite")
    connection.execute("CREATE TABLE meta (key, value)")
    connection.executemany("INSERT INTO meta VALUES (?, ?)", rows.items())
    connection.commit()
    return connection


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ({"facts": "{"}, "facts is not JSON"),
        ({"facts": 3}, r"is damaged: it holds {'facts': 3}"),
        ({"facts": b"\xff"}, "is damaged"),
        ({None: "x"}, "is damaged"),
        ({"facts": "[" * 100_000}, "nested too deeply"),
        ({"facts": "[]"}, "was written by an earlier version"),
        ({"facts": '{"command": 3}'}, "was written by an earlier version"),
    ],
)
def test_of_a_damaged_store_of_an_earlier_version_one_line(tmp_path: Path, rows: dict[Any, Any], said: str) -> None:
    _store(tmp_path, rows).close()
    with pytest.raises(UserError, match=said):
        study_status(tmp_path)
    with pytest.raises(UserError, match=r"is damaged: it (has no name|holds)"):
        claimed(tmp_path)


def test_a_store_that_breaks_after_the_first_rows_and_one_that_is_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleprior.study.folder._PATIENCE", 0.01)
    connection = _store(tmp_path, {f"key {n}": "x" * 500 for n in range(200)})
    connection.execute("BEGIN EXCLUSIVE")
    for look in (study_status, claimed):
        with pytest.raises(
            FailureError, match=r"study\.sqlite is in use: database is locked; wait for the run"
        ) as caught:
            look(tmp_path)
        assert "damaged" not in str(caught.value)
    connection.close()
    with open(tmp_path / "study.sqlite", "r+b") as file:  # pages of rows that come later
        file.seek(3 * 4096)
        file.write(b"\x55" * 9 * 4096)
    for look in (study_status, claimed):
        with pytest.raises(UserError, match=r"study\.sqlite is damaged: .*malformed"):
            look(tmp_path)


@pytest.mark.parametrize("content", [b"\xff\xfe\x80", b"", b"\x1b[31m", b"12\n34"])
def test_a_lock_file_may_hold_anything(tmp_path: Path, content: bytes) -> None:
    claimed(tmp_path)
    with open(tmp_path / ".lock", "r+b") as other:
        other.truncate()
        other.write(content)
        other.flush()
        fcntl.flock(other, fcntl.LOCK_EX)
        assert StudyFolder(tmp_path).busy()
        with pytest.raises(UserError, match=r"another run is at work in .* \(process unknown\)"):
            claimed(tmp_path)


def test_a_lock_that_leads_elsewhere_is_refused_and_nothing_is_written_there(tmp_path: Path) -> None:
    thesis = tmp_path / "thesis.tex"
    thesis.write_text("years of work")
    claimed(tmp_path / "study")
    (tmp_path / "study" / ".lock").unlink()
    (tmp_path / "study" / ".lock").symlink_to(thesis)
    with pytest.raises(FailureError, match=r"cannot write .*study: Too many levels of symbolic links"):
        claimed(tmp_path / "study")
    folder = _folder(tmp_path)
    (folder / ".lock").symlink_to(thesis)
    CELL.save(folder)
    assert forked(lambda: run_cell(folder)) == 1
    assert f"cannot write {folder / '.lock'}" in _state(folder).error
    assert thesis.read_text() == "years of work"
