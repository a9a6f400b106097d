"""A study's folder: fingerprint, locks, states, and folders of earlier versions."""

from __future__ import annotations

import json
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect.metrics import ClassAP, DetectionResult
from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.pretrain.metrics import PretrainMetrics
from scaleprior.study import load_spec, run_study, study_status
from scaleprior.study.cell import Cell, CellData, Noise
from scaleprior.study.failure import Failure
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.result import CellResult
from scaleprior.study.sections import StageSection
from scaleprior.study.status import study_view
from tests.pretrain.test_metrics import RECORD as LEARNED, WORDS as LEARNED_WORDS
from tests.study.conftest import write_spec

DATA = CellData("/corpus", ("t", "/t.json", "/t"), ("v", "/v.json", "/v"))
DETECTION = DetectionResult(
    1.5, 3.0, 1.0, None, 1.0, 2.0, per_class={1: ClassAP("cat", 1.5)}, images=8, detections=4, seconds=0.5
)


def make_cell(key: str) -> Cell:
    return Cell(key, "R-50", 10, 0, "torchvision", 1, None, StageSection("c.yaml", ("A", "1")), DATA)


def claimed(path: Path, name: str = "a", fingerprint: str = "1") -> StudyRecord:
    with StudyFolder(path).claim(name=name, fingerprint=fingerprint) as record:
        return record


def test_a_cell_description_survives_its_file(tmp_path: Path) -> None:
    stage = StageSection("p.yaml", ())
    for original in (
        make_cell("k" * 16),
        replace(make_cell("l" * 16), pretrain=stage, noise=Noise(0.1, "uniform", 0.0)),
    ):
        original.save(tmp_path)
        assert Cell.load(tmp_path) == original


def test_a_cell_description_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    make_cell("k" * 16).save(tmp_path)
    raw = json.loads((tmp_path / "cell.json").read_text())
    del raw["data"]
    write_json(tmp_path / "cell.json", raw)
    with pytest.raises(UserError, match=r"cell\.json is damaged, or .*: data is missing; run the study again"):
        Cell.load(tmp_path)


@pytest.mark.parametrize("pretrain", [None, LEARNED])
def test_a_result_survives_its_file(tmp_path: Path, pretrain: PretrainMetrics | None) -> None:
    original = CellResult(DETECTION, pretrain, {"finetune": 2.5}, {"finetune": 2.0}, {"torch": "2"})
    original.save(tmp_path)
    assert CellResult.load(tmp_path) == original
    raw = json.loads((tmp_path / "result.json").read_text())  # the words that folders have held since ever
    assert raw["detection"]["AP"] == 1.5
    assert raw.get("pretrain") == (None if pretrain is None else {"images_seen": 32, "metrics": LEARNED_WORDS})
    del raw["detection"]["AP"]
    write_json(tmp_path / "result.json", raw)
    with pytest.raises(UserError, match=r"result\.json: AP is missing"):
        CellResult.load(tmp_path)
    write_json(tmp_path / "result.json", {"detection": DETECTION.to_dict()})
    with pytest.raises(UserError, match=r"result\.json is damaged, or .*: seconds is missing; the study"):
        CellResult.load(tmp_path)


def test_a_record_survives_its_file(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    with folder.claim(name="a", fingerprint="1") as record:
        assert record == StudyRecord("a", "1") == folder.read()
        record = replace(record, engine="torchvision", facts={"command": "x"}, cells=(make_cell("x"), make_cell("y")))
        folder.write(record)
    assert folder.read() == claimed(tmp_path) == record


@pytest.mark.parametrize(
    ("files", "busy", "idle"),
    [
        ((), "pending", "pending"),
        (("progress",), "pending", "pending"),  # interrupted
        (("running", "progress"), "running", "pending"),  # its runner was killed
        (("error", "progress"), "failed", "failed"),
        (("running", "error"), "running", "failed"),  # just begun again
        (("running", "result", "progress"), "done", "done"),  # killed before it could be told
        (("result", "error"), "done", "done"),
    ],
)
def test_files_of_a_cell_are_its_state(tmp_path: Path, files: tuple[str, ...], busy: str, idle: str) -> None:
    contents = {
        "running": None,
        "progress": {"stage": "finetune", "done": 1, "total": 3, "numbers": {"loss": 0.5}},
        "error": {"error": "diverged"},
        "result": {"detection": DETECTION.to_dict(), "seconds": {}, "cpu_seconds": {}, "versions": {}},
    }
    folder, cell = StudyFolder(tmp_path), make_cell("x" * 16)
    for name in files:
        write_json(folder.cell(cell) / (f"{name}.json" if contents[name] else name), contents[name])
    record = StudyRecord("a", "1", cells=(cell,))
    for state, at_work in ((busy, True), (idle, False)):
        (status,) = study_view(folder, record, busy=at_work).cells
        assert status.state == state
        assert status.error == ("diverged" if state == "failed" else "")
        assert (status.result is not None) == (state == "done")
        assert (status.progress is not None) == ("progress" in files and state != "done")


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("detection", None, "the detection is None"),
        ("detection", [1], r"the detection is \[1\]"),
        ("pretrain", {"metrics": [1]}, r"metrics is \[1\]"),
        ("pretrain", {"metrics": None}, "metrics is None"),
        ("pretrain", None, "is damaged"),
        ("seconds", [2.5], r"seconds is \[2.5\]"),
        ("cpu_seconds", {"finetune": None}, "cpu_seconds is {'finetune': None}"),
        ("versions", {"torch": 2}, "versions is {'torch': 2}"),
    ],
)
def test_a_damaged_result_is_an_error_with_file_and_value(tmp_path: Path, name: str, value: Any, said: str) -> None:
    CellResult(DETECTION, LEARNED, {"finetune": 2.5}, {"finetune": 2.0}, {"torch": "2"}).save(tmp_path)
    write_json(tmp_path / "result.json", {**json.loads((tmp_path / "result.json").read_text()), name: value})
    with pytest.raises(UserError, match=rf"result\.json.*{said}"):
        CellResult.load(tmp_path)


def test_a_damaged_error_is_an_error_all_the_same(tmp_path: Path) -> None:
    write_json(tmp_path / "error.json", [1])
    failure = Failure.read(tmp_path)
    assert failure is not None
    assert failure.error == f"why is not known, {tmp_path / 'error.json'} is damaged"
    assert Failure.read(tmp_path / "elsewhere") is None


SOUND = {"stage": "finetune", "done": 1, "total": 3, "numbers": {}}


@pytest.mark.parametrize(
    "text",
    [
        "", "null", "[]", "3",
        *(json.dumps({**SOUND, **change}) for change in (
            {"later": 1}, {"done": "1"}, {"stage": None}, {"numbers": []}, {"numbers": {"loss": "low"}},
        )),
    ],
)  # fmt: skip
def test_progress_that_a_loss_of_power_cut_off_is_none(tmp_path: Path, text: str) -> None:
    folder, cell = StudyFolder(tmp_path), make_cell("x" * 16)
    folder.cell(cell).mkdir(parents=True)
    (folder.cell(cell) / "progress.json").write_text(text)
    (status,) = study_view(folder, StudyRecord("a", "1", cells=(cell,)), busy=True).cells
    assert (status.state, status.progress) == ("pending", None)


def test_another_study_is_refused(tmp_path: Path) -> None:
    claimed(tmp_path)
    claimed(tmp_path)
    with pytest.raises(UserError, match=r"holds another study \('a', this one is 'b'"):
        claimed(tmp_path, "b", "2")


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="not empty and holds no study"):
        claimed(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_no_study_a_damaged_one_and_one_of_the_future(tmp_path: Path) -> None:
    for content, message in (
        (None, "no study in"),
        ("{", r"study\.json is not JSON: line 1"),
        ("[]", "has schema None, this version reads 1"),
        ('{"schema": 9}', "has schema 9, this version reads 1"),
        ('{"schema": 1, "name": "a", "cells": []}', r"study\.json is damaged, .*: fingerprint is missing; restore it"),
        (
            '{"schema": 1, "name": "a", "fingerprint": "1", "engine": "", "facts": {}, "cells": [{}]}',
            r"study\.json: cell 1 is damaged, .*: key is missing",
        ),
    ):
        if content is not None:
            (tmp_path / "study.json").write_text(content)
        with pytest.raises(UserError, match=message):
            StudyFolder(tmp_path).read()


def test_one_runner_at_a_time_and_the_lock_dies_with_its_process(tmp_path: Path) -> None:
    folder = StudyFolder(tmp_path)
    assert not folder.busy()
    code = (
        "import sys; from pathlib import Path; from scaleprior.study.folder import StudyFolder\n"
        "with StudyFolder(Path(sys.argv[1])).claim(name='a', fingerprint='1'):\n"
        "    print('held', flush=True)\n"
        "    sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        assert folder.busy()
        with pytest.raises(UserError, match=rf"another run is at work .*process {other.pid}"):
            claimed(tmp_path)
        other.kill()
    assert not folder.busy()
    claimed(tmp_path)


@pytest.mark.slow
def test_a_folder_of_an_earlier_version_is_read_once(finished: Path, tmp_path: Path) -> None:
    """Status and report say what to do; a run keeps the finished cells, and refuses another study as ever."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    record = json.loads((out / "study.json").read_text())
    (out / "study.json").unlink()
    with sqlite3.connect(out / "study.sqlite") as connection:
        connection.execute("CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
        facts = json.dumps(record["facts"])
        rows = [("schema", "1"), ("facts", facts), *((k, record[k]) for k in ("name", "engine"))]
        rows.append(("identity", record["fingerprint"]))  # its name of then
        connection.executemany("INSERT INTO meta VALUES (?, ?)", rows)
    connection.close()
    with pytest.raises(UserError, match=r"was written by an earlier version .*: scaleprior study run .*tiny\.yaml"):
        study_status(out)
    with pytest.raises(UserError, match="holds another study"):
        run_study(load_spec(write_spec(tmp_path, name="other")), out)
    assert not (out / "study.json").exists()
    outcome = run_study(load_spec(write_spec(tmp_path)), out)
    assert outcome.ran == 0
    assert {c.state for c in study_status(out).cells} == {"done"}

    (out / "study.json").unlink()
    (out / "study.sqlite").write_bytes(b"not a database, but long enough to be taken for one" * 40)
    with pytest.raises(UserError, match="is damaged"):
        study_status(out)
