"""Names and errors out of a study's files, wherever they are shown: on the terminal, in the report, in its picture."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from scaleprior.detect.metrics import DetectionResult
from scaleprior.study.cell import Cell, CellData
from scaleprior.study.plan import PlannedCell, StudyPlan
from scaleprior.study.report.page import StudyReport, build_report
from scaleprior.study.report.plan_table import print_plan
from scaleprior.study.report.terminal import StudyDisplay, print_status, print_summary
from scaleprior.study.result import CellResult
from scaleprior.study.sections import StageSection
from scaleprior.study.sharing import Sharing
from scaleprior.study.view import CellProgress, CellStatus, StudyView

HOSTILE = [
    "[/b]", "[bold]x", "=1+1|x", "$\\frac$ <b>`x`",
    "\x1b]0;t\x07\x1b[2J", "\u202egnp\nreport: /etc", "_x :smile:\r", "\ud800"
]  # fmt: skip
ALL = "".join(HOSTILE)  # laws take seconds


@pytest.fixture(scope="module")
def plain_report() -> StudyReport:
    """Of a study whose names are letters."""
    return build_report(view("x"))


def shape(report: StudyReport) -> tuple[list[int], int]:
    """Bars in each line of the Markdown's tables, and tags of the HTML."""
    lines = [line.replace("\\|", "") for line in report.markdown().split("\n")]
    return [line.count("|") for line in lines if line.startswith("|")], report.html(b"").count("<")


def view(name: str) -> StudyView:
    """A study of two seeds and four rungs, one cell of which works, and one failed."""
    stage = StageSection("", ())
    data = CellData("", ("a", "b", "c"), ("a", "b", "c"))
    cells = []
    for images in (0, 100, 1000, 10_000):
        for seed in (0, 1):
            cell = Cell(f"{images:08}{seed:08}", name, images, seed, "torchvision", 1, None, stage, data, arm=name)
            ap = images**0.25 + seed / 3 if images else 0.5
            box = DetectionResult(ap, ap, ap, ap, ap, ap, {})
            result = CellResult(box, None, {"finetune": 1.0}, {"finetune": 1.0}, {name: name})
            cells.append(CellStatus(cell, Path(name.replace("\0", "")), "done", result=result))
    running = CellStatus(
        Cell("2", name, 100, 2, "torchvision", 1, None, stage, data, arm=name), Path(), "running",
        progress=CellProgress(name, 1, 2, {name: 0.5}), sharing=Sharing(name, 2),
    )  # fmt: skip
    failed = CellStatus(
        Cell("3", name, 100, 3, "torchvision", 1, None, stage, data, arm=name), Path(), "failed",
        error=f"{name}\n- {name}",
    )  # fmt: skip
    facts = {"command": f"scaleprior study run {name}", "spec": name, name: [name]}
    return StudyView(Path("study"), name, name, (*cells, running, failed), facts)


def lines_that_steer(text: str) -> list[str]:
    return [line for line in text.split("\n") if not line.isprintable()]


@pytest.mark.parametrize("name", ["[/b]", ALL])
def test_the_terminal_shows_it(name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    study = view(name)
    print_status(study)
    print_summary(build_report(study), Path(name))
    plan = [PlannedCell(name, name, 100, seed, name, 10, 2) for seed in (0, 1)]
    print_plan(StudyPlan(name, name, tuple(plan), (), {}, {}, {}))
    out = capsys.readouterr().out
    assert not lines_that_steer(out)
    assert "\nreport: /etc" not in out
    (failed,) = {line for line in out.split("\n") if line.startswith("failed:")}
    assert "[red]" not in failed


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("name", HOSTILE)
def test_the_bars_of_a_run_show_it(name: str, tty: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where ``[/b]`` ended a run by rich's MarkupError as the first cell ended."""
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.setenv("TERM", "dumb")
    if tty:
        monkeypatch.setenv("FORCE_COLOR", "1")
    study = view(name)
    waiting = StudyView(study.folder, name, name, study.cells[-2:-1], {})
    with StudyDisplay() as display:
        display.prepare(name, 1, 2)
        display.prepare(name, 2, 2)
        display.cells(waiting)
        display.cells(study)
    shown = stream.getvalue()
    if not tty:
        assert not lines_that_steer(shown)
        assert len(shown.splitlines()) == 9  # a line a cell that ended
    for letters in ("\x1b]0", "\x1b[2J", "\u202e", "\x07"):
        assert letters not in shown


@pytest.mark.filterwarnings("ignore:constrained_layout")  # names of this length leave no room
@pytest.mark.parametrize("name", ["$\\frac$", ALL])
def test_the_report_shows_it(name: str, plain_report: StudyReport, tmp_path: Path) -> None:
    """Every file of it is written; the Markdown has the tables, and the HTML the tags, that a plain name gives."""
    report = build_report(view(name))
    report.write(tmp_path)
    assert shape(report) == shape(plain_report)
    assert not lines_that_steer((tmp_path / "report.md").read_text())
    assert "\u202e" not in (tmp_path / "report.html").read_text()
