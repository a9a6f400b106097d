"""Cells side by side on one GPU: real processes on a CPU that is taken for one, with engines of other packages."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.errors import UserError
from scaleprior.study import Study, StudyView, study_status
from scaleprior.study.executors import LocalExecutor, available_cores, get_executor, room
from scaleprior.study.executors.devices import VisibleDevices
from scaleprior.study.report.terminal import print_status
from scaleprior.study.result import CellResult
from scaleprior.study.sharing import Sharing
from tests.study.conftest import write_spec
from tests.study.executors.conftest import Gpus, cell_folder

ENGINE = '''
"""Asks for more memory than there is at the second step from scratch: the first time, and with seed 1 always."""

import os

import torch
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine


class Greedy(TorchvisionEngine):
    name = "greedy"

    def train(self, loaded, weights, out, *, resume=False, progress=None):
        asked, steps = out.parent / "asked", out.parent / "steps"

        def watched(done, total, numbers):
            with steps.open("a") as file:
                file.write(f"{done} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
            progress(done, total, numbers)
            if weights is None and done == 2 and (loaded.cfg.SEED == 1 or not asked.exists()):
                asked.touch()
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        return super().train(loaded, weights, out, resume=resume, progress=watched)
'''


def install(parent: Path, name: str, code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine as an installed distribution, for this process and those it starts."""
    facts = parent / "site" / f"{name}-1.0.dist-info"
    facts.mkdir(parents=True)
    (parent / "site" / f"{name}.py").write_text(code)
    (facts / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text(f"[scaleprior.engines]\n{name} = {name}:{name.title()}\n")
    monkeypatch.syspath_prepend(str(parent / "site"))


@pytest.mark.slow
def test_a_cell_that_its_neighbours_left_no_memory_goes_on_alone(
    finished: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Four at once: what ran out beside others ends with an undisturbed run's numbers, what runs out alone fails."""
    install(tmp_path, "greedy", ENGINE, monkeypatch)
    caplog.set_level(logging.INFO)
    views: list[StudyView] = []
    spec = write_spec(tmp_path, engine="greedy", ladder=[16], seeds=[0, 1])
    executor = LocalExecutor(jobs_per_gpu=4, devices=Gpus("7"))
    study = Study(spec).run(tmp_path / "out", executor=executor, progress=views.append)
    found = {(c.cell.images, c.cell.seed): c for c in study.status().cells}
    assert {key: c.state for key, c in found.items()} == {
        (0, 0): "done", (0, 1): "failed", (16, 0): "done", (16, 1): "done",
    }  # fmt: skip
    (undisturbed, *_) = study_status(finished).cells
    again, failed = found[0, 0], found[0, 1]
    assert again.result is not None
    assert undisturbed.result is not None
    assert again.result.detection.named() == undisturbed.result.detection.named()
    # the first attempt did two steps of three; the checkpoint of one of them is what the second goes on from
    steps = [line.split() for line in (again.folder / "steps").read_text().splitlines()]
    assert {gpu for _, gpu in steps} == {"7"}
    assert [int(step) for step, _ in steps][:2] == [1, 2]
    assert [int(step) for step, _ in steps][2:] in ([2, 3], [3])
    assert failed.error.startswith("OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.")
    assert failed.error.endswith("; it worked alone on GPU 7")
    retried = [message for message in caplog.messages if "memory ran out for cell" in message]
    assert len(retried) == 2
    assert "at once" in retried[-1]
    assert executor._places[0].limit < 4

    at_once = [r.cells_at_once for _, r in study.status().finished()]
    assert all(1.0 <= mean <= 4.0 for each in at_once for mean in each.values())
    assert max(mean for each in at_once for mean in each.values()) > 1.05
    report = study.report()
    assert report.sharing.startswith("Cells shared their GPU or machine, ")
    assert report.sharing in report.markdown()
    assert len(report.to_dict()["cells_at_once"]) == 3
    assert (
        "at_once" not in (study.folder / "results.csv").read_text() if (study.folder / "results.csv").exists() else True
    )
    running = [c for view in views for c in view.cells if c.state == "running" and c.sharing is not None]
    assert {c.sharing.place for c in running} == {"GPU 7"}  # pyright: ignore[reportOptionalMemberAccess]
    assert max(c.sharing.cells for c in running) == 4  # pyright: ignore[reportOptionalMemberAccess]
    assert {c.to_dict()["place"] for c in running} == {"GPU 7"}
    full = next(view for view in views if sum(c.state == "running" and c.sharing is not None for c in view.cells) > 1)
    print_status(full)
    assert "at work: GPU 7: " in capsys.readouterr().out
    assert not list((tmp_path / "out").rglob("sharing.json"))
    assert not list((tmp_path / "out").rglob("memory.json"))


PATIENT = '''
"""Trains until both cells have seen that two work here."""

import time

from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.detect.metrics import DetectionResult
from scaleprior.study.sharing import Sharing


class Patient(TorchvisionEngine):
    name = "patient"

    def train(self, loaded, weights, out, *, resume=False, progress=None):
        while len(list(out.parent.parent.glob("*/seen"))) < 2:
            time.sleep(0.01)
            progress(1, 2, {})
            if (sharing := Sharing.read(out.parent)) is not None and sharing.cells == 2:
                (out.parent / "seen").touch()
        return out / "model"

    def evaluate(self, loaded, model, out, *, progress=None):
        return {"v": DetectionResult(1, 1, 1, 1, 1, 1, per_class={}, images=1, detections=1, seconds=1)}
'''


def test_auto_finds_room_while_cells_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two cells that end beside each other alone, the second begins once the first has been looked at."""
    install(tmp_path, "patient", PATIENT, monkeypatch)
    monkeypatch.setattr(room, "_SETTLED_SECONDS", 0.1)
    monkeypatch.setattr(room, "_SAMPLE_SECONDS", 0.05)
    monkeypatch.setattr("scaleprior.study.executors.local.available_cores", lambda: 2)
    caplog.set_level(logging.INFO)
    folders = [cell_folder(tmp_path, name, engine="patient", seed=n) for n, name in enumerate("ab")]
    executor = LocalExecutor(jobs_per_gpu="auto", devices=Gpus("0"))
    begun: list[Path] = []
    ended = dict(executor.run(folders, on_start=begun.append, on_poll=lambda: None))
    assert ended == dict.fromkeys(folders, 0)
    assert begun == folders
    line = "GPU 0: 2 cells at once: the largest took 0 bytes of 80 GiB, utilisation 35 % with 1"
    assert [message for message in caplog.messages if "at once" in message] == [line]
    first, second = (CellResult.load(folder).mean_at_once for folder in folders)
    assert first is not None
    assert second is not None
    assert 1.0 < first < second <= 2.0


def shares(**given: Any) -> list[tuple[str, str | None, int]]:
    gpus = Gpus(*given.pop("names", ("0", "1")))
    executor = LocalExecutor(**given, devices=gpus)
    return [(place.name, place.device, place.limit) for place in executor._places]


def test_jobs_are_spread_over_the_gpus() -> None:
    cores = available_cores()
    assert shares() == [("GPU 0", "0", 1), ("GPU 1", "1", 1)]
    assert shares(jobs=5) == [("GPU 0", "0", 3), ("GPU 1", "1", 2)]
    assert shares(jobs=1) == [("GPU 0", "0", 1)]
    assert shares(jobs_per_gpu=6) == [("GPU 0", "0", 6), ("GPU 1", "1", 6)]
    assert shares(jobs_per_gpu=6, gpus=1) == [("GPU 0", "0", 6)]
    assert shares(jobs_per_gpu="auto") == [("GPU 0", "0", 1), ("GPU 1", "1", 1)]
    assert shares(names=("2", "GPU-5ec4")) == [("GPU 2", "2", 1), ("GPU 1", "GPU-5ec4", 1)]
    assert shares(names=()) == shares(gpus=0) == [("this machine", None, cores)]


def test_auto_takes_no_more_cells_than_there_are_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleprior.study.executors.local.available_cores", lambda: 16)
    assert LocalExecutor(jobs_per_gpu="auto", threads=4, devices=Gpus("0")).jobs == 4
    assert LocalExecutor(jobs_per_gpu="auto", threads=32, devices=Gpus("0", "1")).jobs == 2  # one each at least
    assert LocalExecutor(jobs_per_gpu=9, threads=4, devices=Gpus("0")).jobs == 9  # what is asked for is taken


@pytest.mark.parametrize(
    ("names", "given", "said"),
    [
        ("0", {"jobs_per_gpu": 0}, "jobs_per_gpu is 0; give a whole number of at least 1, or auto"),
        ("0", {"jobs_per_gpu": -2}, "jobs_per_gpu is -2; give a whole number of at least 1, or auto"),
        ("0", {"jobs_per_gpu": "many"}, "jobs_per_gpu is 'many'; give a whole number of at least 1, or auto"),
        ("0", {"jobs_per_gpu": True}, "jobs_per_gpu is True; give a whole number of at least 1, or auto"),
        (
            "0",
            {"jobs_per_gpu": 4, "jobs": 8},
            "jobs_per_gpu is 4 beside jobs, which is 8; give one of them: cells at a time on each GPU, or in all",
        ),
        (
            "",
            {"jobs_per_gpu": "auto"},
            "jobs_per_gpu is auto, and no GPU is used here; give jobs: cells at a time in all",
        ),
        (
            "0",
            {"jobs_per_gpu": 2, "gpus": 0},
            "jobs_per_gpu is 2, and no GPU is used here; give jobs: cells at a time in all",
        ),
        ("01", {"gpus": 3}, "executor local: gpus is 3, and 2 are here; take fewer, or none: 0"),
    ],
)
def test_contradictions_are_refused(names: str, given: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as refused:
        LocalExecutor(**given, devices=Gpus(*names))
    assert str(refused.value) == said


def test_a_spec_and_a_call_give_it_to_the_executor_that_takes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Any
) -> None:
    monkeypatch.setattr(VisibleDevices, "names", lambda self: ("0", "1"))
    monkeypatch.setattr(VisibleDevices, "read", Gpus("0", "1").read)
    assert get_executor("local", options={"jobs_per_gpu": 3}).jobs == 6  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.undo()
    spec = write_spec(tmp_path, executor={"name": "local", "jobs_per_gpu": 2})
    calls: list[dict[str, Any]] = [{}, {"jobs_per_gpu": "auto"}]
    for call in calls:
        with pytest.raises(UserError, match=f"^jobs_per_gpu is {call.get('jobs_per_gpu', 2)}, and no GPU is used here"):
            sp.Study(spec).run(tmp_path / "out", **call)
    made = LocalExecutor(jobs=1, gpus=0)
    with pytest.raises(UserError, match=r"^jobs_per_gpu is 2 beside an executor that was made already"):
        sp.Study(spec).run(tmp_path / "out", executor=made, jobs_per_gpu=2)
    run = cli("study", "run", str(spec), "--jobs-per-gpu", "0", CUDA_VISIBLE_DEVICES="")
    assert (run.returncode, run.stderr) == (
        2, "scaleprior: error: --jobs-per-gpu is 0; give a whole number of at least 1, or auto\n",
    )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_runner_that_was_given_some_gpus_hands_on_those(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the first ones of the machine, on which others work."""
    for listed, count, names in (("2,3", 2, ["2", "3"]), ("GPU-5ec4, 1", 2, ["GPU-5ec4", "1"]), ("", 0, [])):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", listed)
        monkeypatch.setattr("torch.cuda.device_count", lambda count=count: count)
        assert list(VisibleDevices().names()) == names
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert list(VisibleDevices().names()) == ["0", "1"]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"place": 3, "cells": 1}', '{"place": "GPU 0", "cells": 0}'])
def test_what_a_loss_of_power_cut_off_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "sharing.json").write_text(text)
    assert Sharing.read(tmp_path) is None
    Sharing("GPU 0", 3).save(tmp_path)
    assert Sharing.read(tmp_path) == Sharing("GPU 0", 3)
    assert json.loads((tmp_path / "sharing.json").read_text()) == {"place": "GPU 0", "cells": 3}
    assert [Sharing("GPU 0", n).words for n in (1, 2, 3)] == [
        "alone on GPU 0", "beside another on GPU 0", "beside 2 others on GPU 0"
    ]  # fmt: skip
