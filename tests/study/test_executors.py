"""Executors by name, and one from outside the package: the example of docs/study.md, installed and run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.errors import UserError
from scaleprior.study import load_spec, run_study, runner
from scaleprior.study.executors import LocalExecutor, executor, get_executor, known_executors
from tests.conftest import REPO
from tests.study.conftest import results_of, run_study_command, write_spec


def _example() -> str:
    text = (REPO / "docs" / "study.md").read_text(encoding="utf-8")
    (found,) = re.findall(r"<!-- example: executor -->\n```python\n(.*?)```", text, re.DOTALL)
    return found


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example as an installed distribution, on the path of this process and of those it starts."""
    site = tmp_path / "site"
    facts = site / "batchqueue-1.0.dist-info"
    facts.mkdir(parents=True)
    (site / "batchqueue.py").write_text(_example(), encoding="utf-8")
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: batchqueue\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[scaleprior.executors]\ncommands = batchqueue:CommandExecutor\n")
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(site), str(REPO)]))
    return site


@pytest.mark.slow
def test_an_executor_from_outside_runs_the_study_to_the_same_bytes(
    finished: Path, installed: Path, tmp_path: Path
) -> None:
    """Its cells are plain commands, started in a folder of their own, as a batch system does."""
    assert len(_example().splitlines()) <= 60
    (tmp_path / "elsewhere").mkdir()
    command = ["env", f"--chdir={tmp_path / 'elsewhere'}", sys.executable, "-m", "scaleprior.study.worker"]
    spec = write_spec(tmp_path, executor={"name": "commands", "command": command}, ladder=[16])
    run = run_study_command(spec, Path("out"), "--jobs", "2")  # a relative folder, which the cells do not see as such
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "out" / "results.csv").read_bytes() == results_of(finished, 0, 16)
    again = run_study(load_spec(spec), tmp_path / "out", executor="local")
    assert again.ran == 0


def test_names_are_listed_and_unknown_ones_list_the_known(installed: Path, cli: Callable[..., Any]) -> None:
    assert known_executors() == ["commands", "local"]
    with pytest.raises(UserError, match=r"unknown executor 'slurm'; known are commands, local"):
        get_executor("slurm")
    assert "commands, local" in cli("doctor", PYTHONPATH=os.environ["PYTHONPATH"]).stdout


def test_unknown_names_are_exit_code_2_and_leave_no_folder(tmp_path: Path) -> None:
    for flag, known in (("--executor", "local"), ("--engine", "auto, .*torchvision")):
        run = run_study_command(write_spec(tmp_path), tmp_path / "out", flag, "none")
        assert run.returncode == 2
        assert re.search(rf"'none'; known are {known}", run.stderr)
        assert not (tmp_path / "out").exists()


def test_options_are_checked() -> None:
    assert get_executor("local", jobs=3, options={"gpus": 0}).jobs == 3
    with pytest.raises(UserError, match=r"executor local: .*'partition'; its options are gpus, jobs_per_gpu$"):
        get_executor("local", options={"partition": "gpu"})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"gpus": -1}, "executor local: gpus is -1; give a whole number of at least 0"),
        ({"gpus": "x"}, "executor local: gpus is 'x'; give a whole number of at least 0"),
        ({"gpus": True}, "executor local: gpus is True; give a whole number of at least 0"),
        ({"jobs": 0}, "jobs is 0; give a whole number of at least 1"),
        ({"jobs": -1}, "jobs is -1; give a whole number of at least 1"),
        ({"jobs": 1.5}, "jobs is 1.5; give a whole number of at least 1"),
        ({"threads": 0}, "threads is 0; give a whole number of at least 1"),
    ],
)
def test_the_local_executor_refuses_what_it_cannot_count_with(options: dict[str, Any], said: str) -> None:
    """Of -1 slots none ever started a cell: the study waited for ever."""
    with pytest.raises(UserError, match=f"^{re.escape(said)}$"):
        LocalExecutor(**options)


class _Idle:
    """Has ``run``, and so is an executor; the study must not come as far as calling it."""

    def run(self, folders: object, *, on_start: object, on_poll: object) -> Any:
        raise AssertionError("it was run")


@pytest.mark.parametrize(
    ("changes", "given", "said"),
    [
        ({"executor": {"name": "local", "gpus": -1}}, {}, "gpus is -1"),
        ({"executor": {"name": "local", "gpus": "x"}}, {}, "gpus is 'x'"),
        (
            {},
            {"executor": LocalExecutor},
            r"^executor is the class LocalExecutor; give what LocalExecutor\(\.\.\.\) makes",
        ),
        ({}, {"executor": 3}, "^executor is 3; give the name of an executor, or an object with its method run"),
        ({}, {"executor": _Idle(), "jobs": 8}, "^jobs is 8 beside an executor that was made already; give jobs where"),
        ({}, {"jobs": "8"}, "^jobs is '8'; give a whole number of at least 1"),
    ],
)
def test_what_cannot_run_the_cells_is_refused_before_anything_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    def prepared(*_: object, **__: object) -> None:
        raise AssertionError("data were prepared first")

    monkeypatch.setattr(runner, "prepare_data", prepared)
    spec = write_spec(tmp_path, **changes)
    with pytest.raises(UserError, match=said):
        sp.Study(spec).run(tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("made", "said"), [(_Idle, "is the class _Idle"), (None, "is None"), (3, "is 3")])
def test_a_factory_has_to_make_an_executor(monkeypatch: pytest.MonkeyPatch, made: Any, said: str) -> None:
    monkeypatch.setattr(executor, "_factory", lambda name: lambda *, jobs, threads: made)
    with pytest.raises(UserError, match=f"^what executor strange makes {said}; give "):
        get_executor("strange")


def test_options_belong_to_the_executor_they_stand_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``--executor`` with another name leaves the spec's options alone; with the same name it keeps them."""
    seen: list[dict[str, Any]] = []

    class Idle:
        def __init__(self, *, jobs: int | None, threads: int, partition: str = "") -> None:
            seen.append({"jobs": jobs, "threads": threads, "partition": partition})
            raise UserError("enough")

    monkeypatch.setattr(executor, "_factory", lambda name: Idle)
    spec = load_spec(write_spec(tmp_path, threads=3, executor={"name": "idle", "partition": "gpu"}))
    for name in (None, "idle", "other"):
        with pytest.raises(UserError, match="enough"):
            run_study(spec, tmp_path / "out", jobs=2, executor=name)
    facts = {"jobs": 2, "threads": 3}
    assert seen == [{**facts, "partition": "gpu"}] * 2 + [{**facts, "partition": ""}]


@pytest.mark.parametrize("value", [3, {"partition": "gpu"}, ["local"]])
def test_a_spec_names_its_executor(tmp_path: Path, value: Any) -> None:
    with pytest.raises(UserError, match=r"tiny\.yaml: executor is .*; give its name"):
        load_spec(write_spec(tmp_path, executor=value))


def test_the_worker_wants_a_cell(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "scaleprior.study.worker", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPO)
    assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
    assert "holds no cell.json" in done.stderr
