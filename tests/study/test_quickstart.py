"""``scaleprior quickstart`` says what a bare training step takes, and what the study took in such steps."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from scaleprior.cli import main
from scaleprior.commands import quickstart
from scaleprior.study.report.page import StudyReport
from scaleprior.study.report.terminal import print_summary
from tests.study.conftest import write_spec

Quickstart = Callable[..., str]


@pytest.fixture
def command(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Quickstart:
    """The command with the tiny study in the quickstart's place, over its finished folder: what it prints."""
    shutil.copytree(finished, tmp_path / "out", symlinks=True)
    monkeypatch.setattr(quickstart, "_SPEC", str(write_spec(tmp_path)))
    monkeypatch.setattr(quickstart, "_DEEPEST", "R-50")

    def run(*words: str) -> str:
        assert main(["quickstart", "--out", str(tmp_path / "out"), *words]) == 0
        return capsys.readouterr().out

    return run


def test_the_first_line_is_the_bare_steps_time(command: Quickstart) -> None:
    first, second, *_ = command().splitlines()
    assert first.startswith("a bare training step of R-50 here (8 images of 24 pixels, 1 thread): 0.")
    assert second.startswith("nothing to do")


def test_json_has_the_step_and_the_wall_beside_what_a_study_says(command: Quickstart) -> None:
    said = json.loads(command("--json"))
    assert (said["bare_step"]["images"], said["bare_step"]["pixels"], said["bare_step"]["threads"]) == (8, 24, 1)
    assert said["bare_step"]["seconds"] > 0
    assert said["wall_seconds"] > 0
    assert (said["ran"], len(said["results"])) == (0, 4)


def test_the_last_lines_say_how_many_steps_it_took(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    view = SimpleNamespace(name="tiny", cells=(), folder=tmp_path)
    nothing = {
        "missing": (),
        "sentences": (),
        "notes": (),
        "seconds": {},
        "sharing": "",
        "view": view,
        "header": list,
        "table": list,
    }
    report = cast(StudyReport, SimpleNamespace(**nothing))
    print_summary(report, tmp_path / "report.html", ran=16, elapsed=300.0, step=0.4)
    assert "16 cells ran in 300 s, the time of 750 bare steps\n" in capsys.readouterr().out
    print_summary(report, tmp_path / "report.html", ran=16, elapsed=300.0)
    assert "16 cells ran in 300 s\n" in capsys.readouterr().out
