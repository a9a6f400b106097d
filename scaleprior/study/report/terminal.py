"""What the terminal shows of a study: bars while it runs, tables of states and results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TimeElapsedColumn
from rich.table import Table

from scaleprior.console import PlainConsole, WordsColumn, styled
from scaleprior.study.cell import Cell
from scaleprior.study.view import CellStatus, StudyView
from scaleprior.wording import counted, printable

if TYPE_CHECKING:
    from scaleprior.study.report.page import StudyReport

__all__ = ["StudyDisplay", "print_status", "print_summary"]

_HEADS = "bold"
_STATE_STYLE = {"done": "green", "failed": "red", "running": "yellow", "pending": "dim"}


class StudyDisplay:
    """Progress on standard error: a bar for the study and one for every running cell.

    Where standard error is not a terminal (a log of a batch job), one line is printed for each cell that ends.
    """

    def __init__(self) -> None:
        self._console = PlainConsole(stderr=True)
        self._progress = Progress(
            WordsColumn(),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            WordsColumn("note", style="dim"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[tuple[str, str], TaskID] = {}
        self._ended: set[str] | None = None

    def __enter__(self) -> StudyDisplay:
        self._progress.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def prepare(self, what: str, done: int, total: int) -> None:
        """Progress of preparing data."""
        self._update(what, done, total, "", style=_HEADS)
        if done == total:
            self._drop(what, _HEADS)

    def cells(self, view: StudyView) -> None:
        """The state of all cells; called a few times a second."""
        ended = {c.cell.key: c for c in view.cells if c.state in ("done", "failed")}
        failed = sum(c.state == "failed" for c in view.cells)
        notes = [*([f"{failed} failed"] if failed else []), *_places(view)]
        self._update("cells", len(ended), len(view.cells), ", ".join(notes), style=_HEADS)
        running = {_title(c.cell): c for c in view.cells if c.state == "running"}
        for title in [title for title, style in self._tasks if not style and title not in running]:
            self._drop(title)
        for title, status in running.items():
            if (at := status.progress) is not None:
                numbers = " ".join(f"{k} {v:.4g}" for k, v in at.numbers.items())
                self._update(title, at.done, at.total, f"{at.stage} {numbers}")
            else:
                self._update(title, 0, 0, "")
        if self._ended is not None and not self._console.is_terminal:
            for status in (c for key, c in ended.items() if key not in self._ended):
                title = f"{len(ended)}/{len(view.cells)} {_title(status.cell)}"
                self._console.print(f"{title}: {status.state} {_outcome(status)}", soft_wrap=True)
        self._ended = set(ended)

    def _update(self, title: str, done: int, total: int, note: str, *, style: str = "") -> None:
        if (title, style) not in self._tasks:
            self._tasks[title, style] = self._progress.add_task(title, total=None, note="", style=style)
        self._progress.update(self._tasks[title, style], completed=done, total=total or None, note=note)

    def _drop(self, title: str, style: str = "") -> None:
        self._progress.remove_task(self._tasks.pop((title, style)))


def _title(cell: Cell) -> str:
    """In one line, whatever the architecture is called."""
    images = f"{cell.images:,} images" if cell.images else "from scratch"
    return printable(f"{cell.title} {images} seed {cell.seed}")


def _places(view: StudyView) -> list[str]:
    """``GPU 0: 3 cells``, of each place where cells work."""
    found = Counter(c.sharing.place for c in view.cells if c.state == "running" and c.sharing is not None)
    return [f"{place}: {counted(cells, 'cells')}" for place, cells in sorted(found.items())]


def _outcome(status: CellStatus) -> str:
    if status.result is not None:
        return f"AP {status.result.detection.ap:.2f} in {sum(status.result.seconds.values()):.0f} s"
    return _in_a_line(status.error)


def _in_a_line(text: str) -> str:
    """An error of several lines in one: a line that it begins could be taken for one of ours."""
    return printable(" ".join(text.split()))


def print_status(view: StudyView) -> None:
    """A table of all cells, and what failed."""
    table = Table(title=f"study {view.name} in {view.folder}")
    for name in ("cell", "state", "where", "stage", "step", "AP"):
        table.add_column(name, justify="right" if name in ("step", "AP") else "left")
    for status in view.cells:
        at = status.progress
        step = f"{at.done}/{at.total}" if at is not None and at.total else ""
        ap = f"{status.result.detection.ap:.2f}" if status.result else ""
        state = styled(status.state, _STATE_STYLE[status.state])
        where = status.sharing.place if status.sharing is not None else ""
        table.add_row(_title(status.cell), state, where, at.stage if at is not None else "", step, ap)
    console = PlainConsole()
    console.print(table)
    done = sum(c.state == "done" for c in view.cells)
    console.print(f"{done} of {len(view.cells)} cells are done")
    if places := _places(view):
        console.print(f"at work: {', '.join(places)}", highlight=False)
    _print_failed(console, view)


def _print_failed(console: PlainConsole, view: StudyView) -> None:
    for status in (c for c in view.cells if c.state == "failed"):
        _print_headed(console, "failed:", f"{_title(status.cell)}: {status.error}")


def _print_headed(console: PlainConsole, head: str, text: str) -> None:
    console.print(styled(head, "red"), _in_a_line(text), soft_wrap=True)


def print_summary(
    report: StudyReport,
    page: Path,
    *,
    ran: int | None = None,
    elapsed: float | None = None,
    step: float | None = None,
) -> None:
    """The table of AP by architecture and images, the laws in words and notes, what it cost, where the report is.

    Args:
        page: where the report was written.
        ran: cells that this call ran; 0 is said.
        elapsed: wall seconds that this call took.
        step: seconds of a bare training step, to say them in.
    """
    console = PlainConsole()
    if ran == 0 and not report.missing:
        console.print(f"nothing to do: all {len(report.view.cells)} cells are finished")
    table = Table(title=f"COCO AP (0-100) of {report.view.name}, mean over seeds ± standard deviation")
    for head in report.header():
        table.add_column(head, justify="left" if head == "arm" else "right")
    for row in report.table():
        table.add_row(*row)
    console.print(table)
    for sentence in report.sentences:
        console.print(f"- {_in_a_line(sentence)}", soft_wrap=True, highlight=False)
    for note in report.notes:
        console.print(f"  {_in_a_line(note)}", soft_wrap=True, highlight=False, style="dim")
    _print_failed(console, report.view)
    for missing in report.missing:
        _print_headed(console, "missing:", missing)
    _print_parts(console, report)
    if elapsed is not None and ran:
        steps = f", the time of {elapsed / step:.0f} bare steps" if step else ""
        console.print(f"{ran} cells ran in {elapsed:.0f} s{steps}", highlight=False)
    console.print(f"report: {printable(str(page))}", soft_wrap=True, highlight=False)


def _print_parts(console: PlainConsole, report: StudyReport) -> None:
    if report.seconds:
        text = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in report.seconds.items())
        console.print(f"CPU seconds, all cells: {text}", soft_wrap=True, highlight=False)
    if report.sharing:
        console.print(report.sharing, soft_wrap=True, highlight=False)
