"""The study's report: ``results.csv``, ``curve.png``, ``report.md`` and a self-contained ``report.html``."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior._version import __version__
from scaleprior.ap_names import AP_NAMES
from scaleprior.errors import UserError
from scaleprior.files import write_bytes, write_text
from scaleprior.pages.environment import render
from scaleprior.study.report.sentences import describe_cell, sharing_sentence, study_notes, study_sentences
from scaleprior.study.report.summary import LEVEL, ArchSummary, images_seen, result_rows, summarise, write_results
from scaleprior.study.view import CellStatus, StudyView

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["StudyReport", "build_report"]

_STAGES = ("pretrain", "finetune", "evaluate")


@dataclass(frozen=True, repr=False)
class StudyReport:
    """What a study says, in memory; a notebook shows it as it is, :meth:`write` makes the files.

    Attributes:
        summaries: points and law of each architecture, in a study with arms of each of its arms.
        sentences: what the numbers say, in words.
        missing: cells without a result, each with its reason.
        seconds: CPU seconds by stage, summed over cells; a backbone that arms share is counted once.
        command: what makes the study again.
        at_once: of each finished cell that knows, by its key, how many cells shared its GPU or machine on average.
        notes: what the laws are and what to beware of, each said once.
    """

    view: StudyView
    summaries: tuple[ArchSummary, ...]
    sentences: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: Mapping[str, float]
    command: str
    at_once: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def sharing(self) -> str:
        """What that means for the seconds; "" where every cell was alone."""
        return sharing_sentence(tuple(self.at_once.values()))

    def __repr__(self) -> str:
        cells = len(self.view.cells)
        return f"StudyReport({self.view.name!r}, {cells - len(self.missing)} of {cells} cells)"

    def header(self) -> tuple[str, ...]:
        """The heads of :meth:`table`'s columns."""
        return (*(("arm",) if self.view.arms else ()), "pretraining images", *self._architectures())

    def _architectures(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(summary.arch for summary in self.summaries))

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text: images, then mean AP ± standard deviation over seeds for each architecture; - is missing.

        In a study with arms the arm comes first, and the rows of an arm stand together.
        """
        return [row for arm in self.view.arms or ("",) for row in self._rows(arm)]

    def _rows(self, arm: str) -> list[tuple[str, ...]]:
        rows, of_arm = [], {summary.arch: summary for summary in self.summaries if summary.arm == arm}
        for images in sorted({c.cell.images for c in self.view.cells if c.cell.arm == arm}):
            row = [*([arm] if arm else []), f"{images:,}" if images else "0 (scratch)"]
            for arch in self._architectures():
                if (summary := of_arm.get(arch)) is None:
                    row.append("-")
                    continue
                points = ((summary.scratch,) if summary.scratch else ()) + summary.points
                point = next((p for p in points if p.images == images), None)
                if point is None:
                    row.append("-")
                else:
                    row.append(f"{point.mean:.2f}" + (f" ± {point.spread:.2f}" if point.spread is not None else ""))
            rows.append(tuple(row))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything a script may want: rows, laws, changes over from scratch, sentences, missing cells, seconds."""
        return {
            "name": self.view.name,
            "results": result_rows(self.view),
            "laws": {s.title: s.law.to_dict() if s.law else {"missing": s.why_no_law} for s in self.summaries},
            "over_scratch": {s.title: change.to_dict() for s in self.summaries if (change := s.over_scratch)},
            "sentences": list(self.sentences),
            "notes": list(self.notes),
            "missing": list(self.missing),
            "seconds": dict(self.seconds),
            "cells_at_once": dict(self.at_once),
        }

    def figure(self) -> Figure:
        """AP against images with a law per architecture and arm, and what each gains per decade."""
        from scaleprior.study.report.picture import draw_study

        return draw_study(self.summaries, title=self.view.name)

    def picture(self, *, dpi: int = 160) -> bytes:
        """The figure as PNG."""
        content = io.BytesIO()
        self.figure().savefig(content, format="png", dpi=dpi)
        return content.getvalue()

    def markdown(self) -> str:
        """The page as Markdown; its picture is ``curve.png`` beside it."""
        return _render("report.md.jinja", _context(self))

    def html(self, picture: bytes | None = None) -> str:
        """The page as one self-contained HTML document.

        Args:
            picture: PNG to show; by default :meth:`picture`.
        """
        return _render("report.html.jinja", {**_context(self), "curve": _text(picture or self.picture())})

    def _repr_html_(self) -> str:
        return _render("notebook.html.jinja", {**_context(self), "curve": _text(self.picture(dpi=80))})

    def write(self, folder: str | Path) -> Path:
        """Write ``results.csv``, ``curve.png``, ``report.md`` and ``report.html``; returns the last one's path."""
        folder = Path(folder)
        write_results(self.view, folder / "results.csv")
        picture = self.picture()
        write_bytes(folder / "curve.png", picture)
        write_text(folder / "report.md", self.markdown())
        write_text(folder / "report.html", self.html(picture))
        return folder / "report.html"


def build_report(view: StudyView, *, command: str | None = None) -> StudyReport:
    """Put together what the finished cells of a study say.

    Args:
        command: the command that made the study, for the page; by default the one that would make it again.

    Raises:
        UserError: no cell is done yet.
    """
    summaries = tuple(summarise(view))
    if not any(s.points or s.scratch for s in summaries):
        reasons = sorted({c.error for c in view.cells if c.error})
        raise UserError(
            f"no cell of {view.folder} is done, there is nothing to report" + (f": {reasons[0]}" if reasons else ""),
            hint="run the study, or see `scaleprior study status`",
        )
    return StudyReport(
        view=view,
        summaries=summaries,
        sentences=tuple(study_sentences(summaries)),
        missing=tuple(_missing(c) for c in view.cells if c.state != "done"),
        seconds=_seconds(view),
        command=command or str(view.facts.get("command", "")),
        at_once={cell.key: mean for cell, r in view.finished() if (mean := r.mean_at_once) is not None},
        notes=tuple(study_notes(summaries)),
    )


def _missing(status: CellStatus) -> str:
    reason = status.error or {"pending": "not run yet", "running": "still running"}.get(status.state, status.state)
    return f"{describe_cell(status.cell)}: {reason}"


def _seconds(view: StudyView) -> dict[str, float]:
    spent: dict[tuple[str, str], float] = {}
    for cell, result in view.finished():
        for stage, seconds in result.cpu_seconds.items():
            # A backbone's seconds are counted in its own folder, where every arm that comes to it adds its look.
            what = stage, cell.pretraining if stage == "pretrain" and cell.pretraining else cell.key
            spent[what] = max(spent.get(what, 0.0), seconds)
    stages = {stage for stage, _ in spent}
    return {stage: sum(s for (of, _), s in spent.items() if of == stage) for stage in _STAGES if stage in stages}


def _text(picture: bytes) -> str:
    return base64.b64encode(picture).decode("ascii")


def _context(report: StudyReport) -> dict[str, Any]:
    from scaleprior.laws.words import chance, percent

    laws = []
    for s in report.summaries:
        if s.law is None:
            if s.points or not s.arm:  # an arm for from scratch alone has no ladder
                laws.append({"arch": s.title, "missing": s.why_no_law})
            continue
        gain = s.law.per_decade
        top = s.points[-1].images
        mean, low, high = (float(v) for v in s.law.predict(top * 10))
        laws.append(
            {
                "arch": s.title, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "form": s.law.form,
                "chance": chance(gain.probability), "next": top * 10, "mean": mean, "low": low, "high": high,
            }
        )  # fmt: skip
    costs = []
    finished = report.view.finished()
    for cell, result in finished:
        seconds = [result.seconds.get(stage, math.nan) for stage in _STAGES]
        cpu = sum(result.cpu_seconds.values())
        at_once = report.at_once.get(cell.key, math.nan)
        costs.append(
            {"cell": describe_cell(cell), "seen": images_seen(cell, result), "seconds": seconds, "cpu": cpu,
             "at_once": at_once}
        )  # fmt: skip
    return {
        "report": report,
        "name": report.view.name,
        "facts": {k: v for k, v in report.view.facts.items() if k != "command"},
        "header": report.header(),
        "arms": report.view.arms,
        "table": report.table(),
        "ap_names": AP_NAMES,
        "rows": result_rows(report.view),
        "laws": laws,
        "level": percent(next((s.law.level for s in report.summaries if s.law is not None), LEVEL)),
        "costs": costs,
        "stages": _STAGES,
        "command": report.command,
        "version": __version__,
        "versions": finished[0][1].versions,
    }


def _render(template: str, context: Mapping[str, Any]) -> str:
    filters = {
        "ap": lambda x: f"{x:.2f}",
        "signed": lambda x: f"{x:+.2f}",
        "count": lambda n: "elsewhere" if n is None else f"{n:,}",
        "sec": lambda x: "" if x != x else f"{x:.1f}",
    }
    return render("scaleprior.study.report", template, context, filters=filters)
