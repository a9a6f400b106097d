"""Whole studies, run as a user runs them: results, resuming, failures, refusals."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import random
import re
import shutil
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.errors import UserError
from scaleprior.study import load_spec, run_study, study_status
from scaleprior.study.report.page import build_report
from tests.detect.conftest import make_coco
from tests.processes import start, wait_until
from tests.study.conftest import TINY, results_of, run_study_command, start_study, write_spec


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_every_cell_has_a_row_and_the_report_is_whole(finished: Path) -> None:
    found = rows(finished)
    assert [(r["arch"], int(r["images"]), int(r["seed"])) for r in found] == [("R-50", n, 0) for n in (0, 16, 32, 64)]
    assert {r["engine"] for r in found} == {"torchvision"}
    assert all(0 <= float(r["ap"]) <= 100 for r in found)
    assert [int(r["images_seen"]) for r in found] == [0, 32, 32, 32]  # 4 steps of 8 images
    page = (finished / "report.html").read_text()
    assert "data:image/png;base64," in page
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing is fetched from elsewhere
    assert "scaleprior study run" in page
    assert "Missing cells" not in page
    assert (finished / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert "![AP against pretraining images](curve.png)" in (finished / "report.md").read_text()
    for row in found:
        assert row["ap"][:4] in page or f"{float(row['ap']):.2f}" in page


def test_a_backbone_of_the_study_carries_its_card(finished: Path) -> None:
    from scaleprior.backbones import read_card

    (status,) = (c for c in study_status(finished).cells if c.cell.images == 32)
    card = read_card(status.folder / "pretrain" / "backbone.safetensors")
    assert (card.images, card.seed, card.noise["rate"], card.arch.depth) == (32, 0, 0.2, 50)


def test_running_again_does_nothing_and_says_so(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    before = {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*")}
    run = run_study_command(write_spec(tmp_path), out)
    assert run.returncode == 0
    assert "nothing to do: all 4 cells are finished" in run.stdout
    assert {p: p.stat().st_mtime_ns for p in (out / "cells").rglob("*")} == before


def test_same_spec_same_seed_same_results(finished: Path, tmp_path: Path) -> None:
    """In another folder and with another number of jobs: the same bytes."""
    outcome = run_study(load_spec(write_spec(tmp_path, ladder=[16])), tmp_path / "again", jobs=1)
    build_report(outcome.view).write(tmp_path / "again")
    assert (tmp_path / "again" / "results.csv").read_bytes() == results_of(finished, 0, 16)


def _steps(out: Path) -> dict[str, int]:
    """Steps that each stage of each cell has behind it, by the progress the cell reports."""
    progress = {}
    for file in (out / "cells").glob("*/progress.json"):
        state = json.loads(file.read_text())
        progress[f"{file.parent.name}/{state['stage']}"] = state["done"]
    return progress


@pytest.mark.slow
def test_killed_again_and_again_it_ends_with_the_same_results(finished: Path, tmp_path: Path) -> None:
    """kill -9 of the runner at random moments: its cells die with it, nothing is corrupt, and the results are equal."""
    spec, out = write_spec(tmp_path, ladder=[16, 64]), tmp_path / "out"
    generator = random.Random(0)
    for _ in range(3):
        process = start_study(spec, out, "--jobs", "2")
        before = _steps(out)
        wait_until(lambda: process.poll() is not None or _steps(out) != before)  # noqa: B023
        time.sleep(generator.uniform(0, 1.5))
        process.kill()
        process.communicate()
        _wait_until_unlocked(out)
    run = run_study_command(spec, out, "--jobs", "2")
    assert run.returncode == 0, run.stderr
    assert (out / "results.csv").read_bytes() == results_of(finished, 0, 16, 64)
    assert not list(out.rglob("*.tmp"))


@pytest.mark.slow
def test_stopped_and_continued_it_ends_with_the_same_results(finished: Path, tmp_path: Path) -> None:
    """SIGSTOP of runner and cells, as a scheduler or a closed lid does it: nobody takes the other for lost."""
    spec, out = write_spec(tmp_path, ladder=[16, 64]), tmp_path / "out"
    process = start_study(spec, out, "--jobs", "2", start_new_session=True)
    for _ in range(2):
        before = _steps(out)
        wait_until(lambda: process.poll() is not None or _steps(out) != before)  # noqa: B023
        os.killpg(process.pid, signal.SIGSTOP)
        time.sleep(1.0)
        os.killpg(process.pid, signal.SIGCONT)
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert (out / "results.csv").read_bytes() == results_of(finished, 0, 16, 64)


_ASKED_TO_STOP = """
import os, signal, sys
from pathlib import Path
from scaleprior.study import worker

show = worker._Clock.show

def told(self, **state):
    show(self, **state)
    if state["stage"] == "evaluate" and state["done"]:
        os.kill(os.getpid(), signal.SIGTERM)

worker._Clock.show = told
sys.exit(worker.run_cell(Path(sys.argv[1])))
"""


def test_a_cell_that_is_asked_to_stop_while_it_evaluates_ends_at_once_and_goes_on_there(
    finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    (cell,) = (out / "cells").glob("R-50-64-*")
    before = json.loads((cell / "result.json").read_text())
    (cell / "result.json").unlink()
    shutil.rmtree(cell / "evaluate", ignore_errors=True)
    model = (cell / "finetune" / "model.safetensors").stat().st_mtime_ns
    process = start([sys.executable, "-c", _ASKED_TO_STOP, cell])
    process.communicate()
    assert process.returncode == -signal.SIGTERM
    assert not (cell / "result.json").exists()
    assert run_study_command(write_spec(tmp_path), out).returncode == 0
    after = json.loads((cell / "result.json").read_text())
    assert {**after["detection"], "seconds": 0} == {**before["detection"], "seconds": 0}
    assert (cell / "finetune" / "model.safetensors").stat().st_mtime_ns == model


def test_kill_loses_at_most_the_current_step(tmp_path: Path) -> None:
    """kill -9 in the middle of a stage: its checkpoint holds every step that was reported, or all but the last."""
    from scaleprior.training.checkpoints import Checkpoints

    endless = {"config": TINY["pretrain"]["config"], "overrides": {**TINY["pretrain"]["overrides"],
               "PRETRAIN.BUDGET.AMOUNT": 100000.0}}  # fmt: skip
    out = tmp_path / "out"
    process = start_study(write_spec(tmp_path, pretrain=endless, ladder=[64], scratch=False), out)
    wait_until(lambda: max(_steps(out).values(), default=0) >= 5, process)
    (status,) = study_status(out).cells  # asked from another process, which is this one
    assert status.state == "running"
    assert status.progress is not None
    assert (status.progress.stage, status.progress.total) == ("pretrain", 100000)
    process.kill()
    process.communicate()
    _wait_until_unlocked(out)
    assert [c.state for c in study_status(out).cells] == ["pending"]
    (reported,) = _steps(out).values()
    (folder,) = out.glob("cells/*/pretrain")
    saved = Checkpoints(folder).load()
    assert saved is not None
    assert saved.state["counters"]["step"] >= reported - 1 >= 4


def _wait_until_unlocked(out: Path) -> None:
    """Until the killed runner's cells have gone, too: they follow within moments, and with them their locks."""
    for lock in (out / "cells").glob("*/.lock"):
        with lock.open() as file:
            fcntl.flock(file, fcntl.LOCK_EX)


@pytest.mark.slow
def test_terminated_it_stops_its_cells_and_goes_on_later(tmp_path: Path) -> None:
    long = {"config": TINY["pretrain"]["config"], "overrides": {**TINY["pretrain"]["overrides"],
            "PRETRAIN.BUDGET.AMOUNT": 20.0}}  # fmt: skip
    spec, out = write_spec(tmp_path, ladder=[16], scratch=False, pretrain=long), tmp_path / "out"
    process = start_study(spec, out, "--jobs", "1")
    wait_until(lambda: _steps(out), process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate()
    assert process.returncode == 130
    assert "run the same command again to go on" in stderr
    assert {c.state for c in study_status(out).cells} <= {"pending", "done"}
    assert {c.state for c in run_study(load_spec(spec), out, jobs=1).view.cells} == {"done"}


@pytest.mark.slow
def test_a_failed_cell_is_recorded_the_others_go_on_and_it_is_tried_again(tmp_path: Path) -> None:
    architectures = {**TINY["architectures"], "diverging": {"MODEL.RESNETS.DEPTH": 50, "SOLVER.BASE_LR": 1e30}}
    spec = write_spec(tmp_path, architectures=architectures, ladder=[16], scratch=False)
    run = run_study_command(spec, tmp_path / "out")
    assert run.returncode == 1
    states = {(c.cell.arch, c.cell.images): c for c in study_status(tmp_path / "out").cells}
    assert {k: c.state for k, c in states.items()} == {
        ("R-50", 16): "done", ("diverging", 16): "failed",
    }  # fmt: skip
    assert "finite" in states["diverging", 16].error
    for text in (run.stdout, (tmp_path / "out" / "report.html").read_text()):
        assert "diverging, 16 images, seed 0" in text
    assert len(rows(tmp_path / "out")) == 1
    again = run_study(load_spec(spec), tmp_path / "out", jobs=1)
    assert (again.ran, [c.state for c in again.view.cells]) == (1, ["done", "failed"])


def test_when_every_cell_fails_the_cause_is_said_and_the_exit_code_is_1(tmp_path: Path) -> None:
    architectures = {"diverging": {"MODEL.RESNETS.DEPTH": 50, "SOLVER.BASE_LR": 1e30}}
    run = run_study_command(
        write_spec(tmp_path, architectures=architectures, ladder=[16], scratch=False), tmp_path / "o"
    )
    assert run.returncode == 1
    assert "scaleprior: error: every cell of" in run.stderr
    assert "finite" in run.stderr
    assert not (tmp_path / "o" / "report.html").exists()


@pytest.mark.slow
def test_a_crashed_process_is_a_failed_cell(finished: Path, tmp_path: Path) -> None:
    """A cell whose process is killed by the system (out of memory, say) takes no other cell with it."""
    out = tmp_path / "out"
    process = start_study(write_spec(tmp_path, ladder=[16]), out, "--jobs", "1")

    def started() -> list[str]:
        logs = (log.read_text() for log in (out / "cells").glob("*/log.txt"))
        return [pid for log in logs for pid in re.findall(r"process (\d+) starts", log)]

    (pid,) = wait_until(started, process)
    os.kill(int(pid), signal.SIGKILL)
    process.communicate()
    states = sorted((c.state, c.error) for c in study_status(out).cells)
    assert [state for state, _ in states] == ["done", "failed"]
    assert "killed by signal 9" in states[1][1]


def test_rungs_and_seeds_can_be_added_later(finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    outcome = run_study(load_spec(write_spec(tmp_path), ["ladder", "[16, 32, 48, 64]"]), out, jobs=1)
    assert outcome.ran == 1
    # the command that the report shows makes this very study, overrides and all
    assert outcome.view.facts["command"].endswith(f"tiny.yaml --out {out} ladder '[16, 32, 48, 64]'")
    assert [c.cell.images for c in outcome.view.cells] == [0, 16, 32, 48, 64]
    assert all(c.state == "done" for c in outcome.view.cells)


def test_what_has_no_effect_on_results_re_runs_nothing(finished: Path, tmp_path: Path) -> None:
    """Workers, caches and where things lie may change under a finished study."""
    out = tmp_path / "out"
    shutil.copytree(finished, out)
    neutral = {
        "pretrain": {"PRETRAIN.LOADER.NUM_WORKERS": 1, "PRETRAIN.LOADER.CACHE_MB": 0, "OUTPUT_DIR": "x"},
        "finetune": {"DATALOADER.NUM_WORKERS": 2, "SCALEPRIOR.IMAGE_CACHE_MB": 0, "SOLVER.CHECKPOINT_PERIOD": 7},
    }
    changes = {k: {**TINY[k], "overrides": {**TINY[k]["overrides"], **new}} for k, new in neutral.items()}
    outcome = run_study(load_spec(write_spec(tmp_path, **changes)), out, jobs=1)
    assert outcome.ran == 0
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()


@pytest.mark.slow
def test_a_detection_set_is_decoded_once_for_all_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    files = {split: make_coco(tmp_path / split, images) for split, images in (("train", 8), ("val", 6))}
    written = max(path.stat().st_ctime for path in tmp_path.rglob("*"))
    wait_until(lambda: time.time() > written + 3)  # younger files could change unnoticed, and are not stored
    changes: dict[str, Any] = {
        "ladder": [16],
        "detection": {split: {"json": str(path), "images": str(root)} for split, (path, root) in files.items()},
        "finetune": {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], "SOLVER.MAX_ITER": 4}},
    }
    run = run_study_command(write_spec(tmp_path, **changes), tmp_path / "out", "--jobs", "1")
    assert run.returncode == 0, run.stderr
    logs = [path.read_text() for path in (tmp_path / "out" / "cells").glob("*/log.txt")]
    decoded = [[int(n) for n in re.findall(r"images in the set, decoded (\d+) times", log)] for log in logs]
    assert sorted(decoded) == [[0, 0], [8, 6]]  # in training and in evaluation, by either cell


def test_another_studys_folder_is_refused(finished: Path, tmp_path: Path) -> None:
    for changes in ({"name": "other"}, {"detection": {"world": {"train": 12, "val": 9, "canvas": 48}}}):
        with pytest.raises(UserError, match="holds another study"):
            run_study(load_spec(write_spec(tmp_path, **changes)), finished)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["ladder", "[16, 81]"], r"asks for 81 images, the corpus has 80; lower the ladder"),
        (["finetune.overrides", "{SOLVER.MAX_ITR: 3}"], r"unknown config key SOLVER.MAX_ITR"),
        (["architectures", "{A: {}, B: {}}"], r"architectures 'A' and 'B' .* are the same network"),
        (["engine", "pytorch"], r"pytorch"),
        (["corpus.world.shapes", "[blob]"], r"blob"),
    ],
)
def test_bad_specs_fail_before_anything_trains(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_study(load_spec(write_spec(tmp_path), overrides), tmp_path / "out")
    assert not (tmp_path / "out" / "cells").exists()


def test_a_report_without_results_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no study in"):
        build_report(study_status(tmp_path))


@pytest.mark.slow
def test_real_images_in_two_cells(shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped real-image study on real files, cut down to two short cells."""
    monkeypatch.setenv("SCALEPRIOR_CORPUS", str(shared_data / "tinyimagenet"))
    monkeypatch.setenv("SCALEPRIOR_DETECTION", str(shared_data / "mosaic_detection"))
    short = ["ladder", "[200]", "pretrain.overrides", "{PRETRAIN.BUDGET.UNIT: steps, PRETRAIN.BUDGET.AMOUNT: 3.0}",
             "finetune.overrides", "{SOLVER.MAX_ITER: 2, INPUT.MIN_SIZE_TEST: 32}"]  # fmt: skip
    outcome = run_study(load_spec("studies/real_images.yaml", short), tmp_path / "out", jobs=2)
    report = build_report(outcome.view)
    report.write(tmp_path / "out")
    assert [(c.cell.images, c.state) for c in outcome.view.cells] == [(0, "done"), (200, "done")]
    assert outcome.view.facts["corpus images"] == 17800
    assert outcome.view.facts["detection images"] == "1200 to train, 400 to evaluate"
    assert not report.missing


@pytest.mark.slow
def test_another_detection_set_pretrains_nothing_again(tmp_path: Path) -> None:
    """A repaired JSON makes other cells, on the backbones that are there."""
    sets = {
        role: dict(zip(("json", "images"), map(str, make_coco(tmp_path / role, 6, side=48, seed=seed))))
        for role, seed in (("train", 0), ("val", 1))
    }
    changes: dict[str, Any] = {"detection": sets, "ladder": [16], "scratch": False}
    out = tmp_path / "out"
    assert run_study_command(write_spec(tmp_path, **changes), out).returncode == 0
    (first,) = study_status(out).cells
    (backbone,) = out.glob("pretrained/*/backbone.safetensors")
    assert backbone.samefile(first.folder / "pretrain" / "backbone.safetensors")
    written = backbone.stat().st_mtime_ns
    path = Path(sets["val"]["json"])
    data = json.loads(path.read_text())
    data["annotations"][0]["bbox"][0] += 1
    path.write_text(json.dumps(data))
    run = run_study_command(write_spec(tmp_path, **changes), out)
    assert run.returncode == 0, run.stderr
    (second,) = study_status(out).cells
    assert second.cell.key != first.cell.key
    assert backbone.samefile(second.folder / "pretrain" / "backbone.safetensors")
    assert backbone.stat().st_mtime_ns == written
    assert first.result is not None
    assert second.result is not None
    assert second.result.pretrain == first.result.pretrain
    assert second.result.seconds["pretrain"] >= first.result.seconds["pretrain"]


@pytest.mark.slow
def test_a_cell_that_an_earlier_version_began_goes_on_in_its_own_folder(finished: Path, tmp_path: Path) -> None:
    """It had no folder for backbones; what is pretrained, or half pretrained, in the cell's own is not lost."""
    out = tmp_path / "out"
    shutil.copytree(finished, out, symlinks=True)
    cell = study_status(out).cells[1].folder
    (cell / "result.json").unlink()
    link = cell / "pretrain"
    place = link.resolve()
    link.unlink()
    place.rename(link)
    written = (link / "backbone.safetensors").stat().st_mtime_ns
    run = run_study_command(write_spec(tmp_path), out)
    assert run.returncode == 0, run.stderr
    assert (out / "results.csv").read_bytes() == (finished / "results.csv").read_bytes()
    assert (link / "backbone.safetensors").stat().st_mtime_ns == written
    assert not place.exists()


def test_another_schedule_takes_the_backbones_of_another_study(finished: Path, tmp_path: Path) -> None:
    """They are the same files, nothing is pretrained again, and what is missing there is added there."""
    first = tmp_path / "first"
    shutil.copytree(finished, first, symlinks=True)
    before = {
        path.name: (path / "backbone.safetensors").stat().st_mtime_ns for path in (first / "pretrained").iterdir()
    }
    longer = {**TINY["finetune"], "overrides": {**TINY["finetune"]["overrides"], "SOLVER.MAX_ITER": 4}}
    spec = load_spec(write_spec(tmp_path, name="longer", ladder=[16, 48], scratch=False, finetune=longer))
    study = sp.Study(spec).run(tmp_path / "out", jobs=2, backbones_of=first)
    assert {row["images"] for row in study.results("arrow").to_pylist()} == {16, 48}
    after = {path.name: (path / "backbone.safetensors").stat().st_mtime_ns for path in (first / "pretrained").iterdir()}
    assert after.items() > before.items()
    assert len(after) == len(before) + 1
    assert f"backbones_of='{first}'" in study.report().command or f"--backbones-of {first}" in study.report().command
    run_study(spec, tmp_path / "out", backbones_of=first)  # again: it leads there already
    with pytest.raises(UserError, match="has backbones already, other ones than"):
        run_study(spec, tmp_path / "out", backbones_of=finished)
    with pytest.raises(UserError, match=r"holds no pretrained backbones \(no pretrained/\)"):
        run_study(spec, tmp_path / "new", backbones_of=tmp_path)
    assert not (tmp_path / "new").exists()
