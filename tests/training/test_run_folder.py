"""A folder belongs to one run."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from scaleprior.errors import FailureError, UserError
from scaleprior.training.extension import Extension, Schedule
from scaleprior.training.run_folder import RUN_FILE, DamagedRunFile, RunFolder, refuse_other_run, restoring
from tests.limits import leave_descriptors, limits_kept


def folder(out: Path, fingerprint: str) -> RunFolder:
    return RunFolder(out, {"fingerprint": fingerprint, "seed": 3}, parts="config or data")


def test_a_run_finds_itself_and_refuses_another(tmp_path: Path) -> None:
    mine = folder(tmp_path / "new", "a")
    assert mine.found() is None
    mine.write()
    assert mine.found() == {"fingerprint": "a", "seed": 3}
    with pytest.raises(UserError, match=r"new holds a run with another config or data; .*another output folder"):
        folder(tmp_path / "new", "b").found()


def test_a_run_of_another_version_goes_on_with_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def folder(commit: str) -> RunFolder:
        made = {"fingerprint": "a", "created_by": {"version": "1.2.3", "commit": commit * 40}}
        return RunFolder(tmp_path, made, parts="config")

    folder("a").write()
    folder("a").warn_of_other_version()
    assert not caplog.records
    folder("b").warn_of_other_version()
    assert f"trained by ScalePrior 1.2.3 (commit {'a' * 12}) and goes on with 1.2.3 (commit {'b' * 12})" in caplog.text


def test_a_refusal_names_the_part_that_differs(tmp_path: Path) -> None:
    def made_of(labels: tuple[str, ...], fingerprint: str) -> RunFolder:
        parts = {"label space": {"fingerprint": "".join(labels), "labels": len(labels)}, "config": {"SIZES": (1, 2)}}
        return RunFolder(tmp_path, {"fingerprint": fingerprint}, parts="config or data", made_of=parts)

    made_of(("cat", "dog"), "a").write()
    before = (tmp_path / RUN_FILE).read_bytes()
    made_of(("cat", "dog"), "a").found()
    said = r"holds a run with another label space \(3 labels now, 2 then\); resume with what it was started with, or"
    with pytest.raises(UserError, match=said):
        made_of(("cat", "cow", "dog"), "b").found()
    with pytest.raises(UserError, match=said):
        made_of(("cat", "cow", "dog"), "b").resumed(extend=False, steps_done=lambda: 0)
    with pytest.raises(UserError, match="holds a run with another config or data; "):  # nothing that is known differs
        made_of(("cat", "dog"), "b").found()
    with pytest.raises(UserError, match="holds a run with another config or data; "):  # a version that names no parts
        folder(tmp_path, "b").found()
    assert (tmp_path / RUN_FILE).read_bytes() == before


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
        folder(tmp_path, "a").read()


def scheduled(out: Path, length: int, steps: tuple[int, ...] = (3,), other: str = "") -> RunFolder:
    """A run whose fingerprint spells out its schedule and whatever else it is made of."""
    keys = {"SOLVER.MAX_ITER": length, "SOLVER.STEPS": steps, "SOLVER.BASE_LR": 0.1}

    def spelled(schedule: Mapping[str, Any]) -> str:
        return f"{schedule['SOLVER.MAX_ITER']} {list(schedule['SOLVER.STEPS'])} {other}"

    return RunFolder(out, {"fingerprint": spelled(keys)}, parts="config", schedule=Schedule(keys, spelled))


def test_a_run_is_extended_where_it_is_asked_for_and_stays_extended(tmp_path: Path) -> None:
    scheduled(tmp_path, 4).write()
    longer = scheduled(tmp_path, 8, (3, 6))
    said = (
        r"holds this run with SOLVER.MAX_ITER 4 SOLVER.STEPS \[3\]; now it is SOLVER.MAX_ITER 8 SOLVER.STEPS \[3, 6\]; "
        r"extend=True goes on under the longer schedule and records it"
    )
    with pytest.raises(UserError, match=said):
        longer.resumed(extend=False, steps_done=lambda: 4)
    extended = longer.resumed(extend=True, steps_done=lambda: 4)
    assert extended is not None
    schedule = {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": [3]}
    assert extended.history == (Extension("4 [3] ", 4, schedule),)
    assert extended.fingerprint != longer.fingerprint  # what was trained so from the start is another run
    extended.write()
    written = json.loads((tmp_path / RUN_FILE).read_text())
    assert written["extended"] == [{"fingerprint": "4 [3] ", "steps": 4, "schedule": schedule}]
    for extend in (False, True):  # gone on with as any run is, also by who repeats the command
        assert longer.resumed(extend=extend, steps_done=lambda: 9) == extended
    twice = scheduled(tmp_path, 9).resumed(extend=True, steps_done=lambda: 6)
    assert twice is not None
    assert [(each.fingerprint, each.steps) for each in twice.history] == [
        ("4 [3] ", 4),
        (extended.fingerprint, 6),
    ]


def test_how_far_a_run_had_come_is_part_of_what_it_is(tmp_path: Path) -> None:
    scheduled(tmp_path, 4).write()
    longer = scheduled(tmp_path, 8)
    found = {steps: longer.resumed(extend=True, steps_done=lambda steps=steps: steps) for steps in (0, 2, 4)}
    assert len({each.fingerprint for each in found.values() if each is not None}) == 3
    assert found[0] == longer  # nothing was trained under the former schedule: this is the run of the new one


@pytest.mark.parametrize(
    ("length", "steps", "other", "said"),
    [
        (3, (3,), "", "now it is SOLVER.MAX_ITER 3 SOLVER.STEPS .*, which is no longer one"),
        (4, (2,), "", "which is no longer one"),
        (8, (3,), "other backbone", "holds a run with another config"),
    ],
)
def test_what_is_no_extension_is_refused(
    length: int, steps: tuple[int, ...], other: str, said: str, tmp_path: Path
) -> None:
    scheduled(tmp_path, 4).write()
    before = (tmp_path / RUN_FILE).read_bytes()
    with pytest.raises(UserError, match=said):
        scheduled(tmp_path, length, steps, other).resumed(extend=True, steps_done=lambda: 4)
    assert (tmp_path / RUN_FILE).read_bytes() == before


def test_there_must_be_a_run_to_extend(tmp_path: Path) -> None:
    assert scheduled(tmp_path, 4).resumed(extend=False, steps_done=lambda: 0) is None
    with pytest.raises(UserError, match="holds no run to extend"):
        scheduled(tmp_path, 4).resumed(extend=True, steps_done=lambda: 0)


def test_the_schedule_of_an_older_run_is_in_its_saved_config(tmp_path: Path) -> None:
    """run.json did not hold it; the hash tells whether that config is the run's."""
    (tmp_path / RUN_FILE).write_text(json.dumps({"fingerprint": "4 [3] "}))
    longer = scheduled(tmp_path, 8)
    with pytest.raises(UserError, match="holds a run with another config"):
        longer.resumed(extend=True, steps_done=lambda: 4)
    for text, extends in (("SOLVER: {MAX_ITER: 4, STEPS: [3]}", True), ("SOLVER: {MAX_ITER: 5, STEPS: []}", False)):
        (tmp_path / "config.yaml").write_text(text)
        if extends:
            extended = longer.resumed(extend=True, steps_done=lambda: 4)
            assert extended is not None
            assert len(extended.history) == 1
        else:
            with pytest.raises(UserError, match="holds a run with another config"):
                longer.resumed(extend=True, steps_done=lambda: 4)


def test_a_damaged_history_is_named(tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_text(json.dumps({"fingerprint": "a", "extended": [{"steps": 1}]}))
    with pytest.raises(UserError, match=r"run\.json cannot be read: the history of the run"):
        scheduled(tmp_path, 4).resumed(extend=False, steps_done=lambda: 0)
    (tmp_path / RUN_FILE).write_text("[]")
    with pytest.raises(UserError, match=r"run description .*run\.json is \[\]"):
        scheduled(tmp_path, 4).read()


@pytest.mark.parametrize(
    "error", [torch.cuda.OutOfMemoryError("CUDA out of memory."), RuntimeError("CUDA error: out of memory")]
)
def test_a_state_for_which_there_is_no_memory_is_not_another_versions(error: RuntimeError, tmp_path: Path) -> None:
    with (
        pytest.raises(UserError, match="was written by another version: RuntimeError: size mismatch"),
        restoring(tmp_path),
    ):
        raise RuntimeError("size mismatch")
    with pytest.raises(type(error), match="out of memory"), restoring(tmp_path):
        raise error


def flipped(path: Path) -> None:
    path.write_text(path.read_text().replace('"seed": 3', '"seed": 2'))


@pytest.mark.parametrize(
    ("harm", "why"),
    [
        (lambda path: path.write_bytes(b""), "is not JSON"),
        (lambda path: path.write_bytes(b"\0" * 300), "is not JSON"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is not JSON"),
        (lambda path: path.write_text("[" * 10**5), "nested too deeply"),
        (lambda path: path.write_text("[1]"), r"is \[1\]"),
        (flipped, "differs from the hash in it"),
    ],
)
def test_a_damaged_run_json_leaves_it_to_the_checkpoints_whose_the_folder_is(
    tmp_path: Path, harm: Callable[[Path], Any], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    folder(tmp_path, "a").write()
    harm(tmp_path / RUN_FILE)
    with pytest.raises(DamagedRunFile, match=why):
        folder(tmp_path, "a").read()
    assert folder(tmp_path, "a").known() is None
    assert not caplog.records
    assert folder(tmp_path, "a").found() is None
    assert folder(tmp_path, "b").resumed(extend=False, steps_done=lambda: 0) is None
    assert len(caplog.records) == 2
    assert all("whose the folder is, its checkpoints say" in record.getMessage() for record in caplog.records)
    with pytest.raises(DamagedRunFile):  # what is extended has to be known
        folder(tmp_path, "a").resumed(extend=True, steps_done=lambda: 0)
    folder(tmp_path, "a").write()
    assert folder(tmp_path, "a").found() == {"fingerprint": "a", "seed": 3}


def test_a_run_json_that_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path) -> None:
    folder(tmp_path, "a").write()
    with limits_kept(resource.RLIMIT_NOFILE):
        leave_descriptors(0)
        with pytest.raises(FailureError, match=r"run.json cannot be read now: Too many open files"):
            folder(tmp_path, "a").found()
