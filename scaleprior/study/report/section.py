"""What a published study says in short, for the page of the model zoo."""

from __future__ import annotations

from pathlib import Path

from scaleprior.config import data_file
from scaleprior.pages.environment import render
from scaleprior.study.published import PUBLISHED_FILE, read_published
from scaleprior.study.report.page import build_report

__all__ = ["measured_sections", "study_section"]


def measured_sections() -> list[str]:
    """A section each study of ScalePrior's ``model_zoo/results/``, by name."""
    zoo = data_file("model_zoo", "zoo.yaml").parent
    return [study_section(file.parent, link=file.parent.relative_to(zoo)) for file in _published(zoo)]


def _published(zoo: Path) -> list[Path]:
    return sorted((zoo / "results").glob(f"*/{PUBLISHED_FILE}"))


def study_section(folder: Path, *, link: Path) -> str:
    """Markdown: table, picture and sentences of a published study.

    Args:
        link: its folder as the page names it.
    """
    report = build_report(read_published(folder))
    return render("scaleprior.study.report", "section.md.jinja", {"report": report, "link": link.as_posix()})
