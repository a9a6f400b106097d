"""The study's report: ``results.csv``, ``curve.png``, ``report.md`` and a self-contained ``report.html``."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2

from scaleprior import __version__
from scaleprior.ap_names import AP_NAMES
from scaleprior.errors import UserError
from scaleprior.files import atomic_path, write_text
from scaleprior.study.report.sentences import describe_cell, study_sentences
from scaleprior.study.report.summary import ArchSummary, images_seen, result_rows, summarise, write_results
from scaleprior.study.status import CellStatus, StudyView

__all__ = ["StudyReport", "write_report"]

_STAGES = ("pretrain", "finetune", "evaluate")


@dataclass(frozen=True)
class StudyReport:
    """A written report.

    Attributes:
        sentences: what the numbers say, in words.
        missing: cells without a result, each with its reason.
        seconds: CPU seconds by stage, summed over cells.
    """

    view: StudyView
    summaries: tuple[ArchSummary, ...]
    sentences: tuple[str, ...]
    missing: tuple[str, ...]
    seconds: Mapping[str, float]
    html: Path

    def table(self) -> list[tuple[str, ...]]:
        """Rows of text: images, then mean AP ± standard deviation over seeds for each architecture; - is missing."""
        rows = []
        for images in sorted({c.cell.images for c in self.view.cells}):
            row = [f"{images:,}" if images else "0 (scratch)"]
            for summary in self.summaries:
                points = ((summary.scratch,) if summary.scratch else ()) + summary.points
                point = next((p for p in points if p.images == images), None)
                if point is None:
                    row.append("-")
                else:
                    row.append(f"{point.mean:.2f}" + (f" ± {point.spread:.2f}" if point.spread is not None else ""))
            rows.append(tuple(row))
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Everything a script may want: rows, laws, sentences, missing cells, seconds, paths."""
        return {
            "name": self.view.name,
            "results": result_rows(self.view),
            "laws": {s.arch: s.law.to_dict() if s.law else {"missing": s.why_no_law} for s in self.summaries},
            "sentences": list(self.sentences),
            "missing": list(self.missing),
            "seconds": dict(self.seconds),
            "report": str(self.html),
        }


def write_report(view: StudyView, out: Path, *, command: str | None = None) -> StudyReport:
    """Write the four files of the report into ``out``.

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
    report = StudyReport(
        view=view,
        summaries=summaries,
        sentences=tuple(study_sentences(summaries)),
        missing=tuple(_missing(c) for c in view.cells if c.state != "done"),
        seconds=_seconds(view),
        html=out / "report.html",
    )
    write_results(view, out / "results.csv")
    curve = out / "curve.png"
    _draw(report, curve)
    context = _context(report, command or view.facts["command"])
    write_text(out / "report.md", _render("report.md.jinja", context))
    image = base64.b64encode(curve.read_bytes()).decode("ascii")
    write_text(report.html, _render("report.html.jinja", {**context, "curve": image}))
    return report


def _missing(status: CellStatus) -> str:
    reason = status.error or {"pending": "not run yet", "running": "still running"}.get(status.state, status.state)
    return f"{describe_cell(status.cell)}: {reason}"


def _seconds(view: StudyView) -> dict[str, float]:
    spent = [c.result["cpu_seconds"] for c in view.cells if c.result]
    return {stage: sum(s.get(stage, 0.0) for s in spent) for stage in _STAGES if any(stage in s for s in spent)}


def _draw(report: StudyReport, path: Path) -> None:
    from scaleprior.study.report.picture import draw_study

    figure = draw_study(report.summaries, title=report.view.name)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=160)


def _context(report: StudyReport, command: str) -> dict[str, Any]:
    laws = []
    for s in report.summaries:
        if s.law is None:
            laws.append({"arch": s.arch, "missing": s.why_no_law})
            continue
        gain = s.law.per_decade
        top = s.points[-1].images
        mean, low, high = (float(v) for v in s.law.predict(top * 10))
        laws.append(
            {
                "arch": s.arch, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high, "form": s.law.form,
                "why": s.law.why, "next": top * 10, "mean": mean, "low": low, "high": high,
            }
        )  # fmt: skip
    costs = []
    for status in report.view.cells:
        if not status.result:
            continue
        seen = images_seen(status)
        seconds = [status.result["seconds"].get(s, math.nan) for s in _STAGES]
        cpu = sum(status.result["cpu_seconds"].values())
        costs.append({"cell": describe_cell(status.cell), "seen": seen, "seconds": seconds, "cpu": cpu})
    return {
        "report": report,
        "name": report.view.name,
        "facts": {k: v for k, v in report.view.facts.items() if k != "command"},
        "table": report.table(),
        "ap_names": AP_NAMES,
        "rows": result_rows(report.view),
        "laws": laws,
        "costs": costs,
        "stages": _STAGES,
        "command": command,
        "version": __version__,
        "versions": next(c.result["versions"] for c in report.view.cells if c.result),
    }


def _render(template: str, context: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("scaleprior.study.report"),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["ap"] = lambda x: f"{x:.2f}"
    environment.filters["signed"] = lambda x: f"{x:+.2f}"
    environment.filters["count"] = lambda n: "elsewhere" if n is None else f"{n:,}"
    environment.filters["sec"] = lambda x: "" if x != x else f"{x:.1f}"
    return environment.get_template(template).render(context)
