"""Publishes a study: its numbers, its report and the cards of its backbones, without weights, data and places."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.backbones.weights import read_card
from scaleprior.errors import UserError
from scaleprior.files import write_bytes, write_json, write_text
from scaleprior.parsing import read_json
from scaleprior.study.cell import Cell
from scaleprior.study.published import PUBLISHED_FILE, RESULTS_FILE, read_published, write_published
from scaleprior.study.report.page import build_report
from scaleprior.study.report.summary import write_results
from scaleprior.study.status import study_status
from scaleprior.study.view import CellStatus, StudyView

__all__ = ["Publication", "publish_study"]

_PLACE = re.compile(r"(?<![\w.:/~-])/[\w.~-]+/[\w./~-]+|[A-Za-z]:\\\S+")


@dataclass(frozen=True)
class Publication:
    """What :func:`publish_study` made.

    Attributes:
        cards: how many backbones have their card there.
        notes: what its author should know before others read it.
    """

    folder: Path
    cards: int
    notes: tuple[str, ...]


def publish_study(folder: str | Path, out: str | Path, *, facts: Mapping[str, str] | None = None) -> Publication:
    """Write what the study in ``folder`` measured into ``out``, from which ``study report`` makes its report again.

    Args:
        out: made if absent; may hold an earlier publication, and nothing else.
        facts: further rows of the report's settings, such as the machine; one of a name that is there replaces it.

    Raises:
        UserError: no study, none of its cells is done, or ``out`` holds other files.
    """
    folder, out = Path(folder), Path(out)
    view = study_status(folder)
    if (folder / PUBLISHED_FILE).is_file():
        raise UserError(f"{folder} is published already", hint="give the folder of the study itself")
    build_report(view)  # refuses what has nothing to say before anything is written
    if out.is_dir() and any(out.iterdir()) and not (out / PUBLISHED_FILE).is_file():
        raise UserError(f"{out} is not empty and holds no published study", hint="choose another folder")
    said = {**view.facts, **_commits(view), **(facts or {})}
    cards, notes = _cards(view)
    write_published(view, out, facts=said)  # first: by it the next attempt knows what a killed one began
    for name, card in cards.items():
        write_json(out / "cards" / f"{name}.json", card)
    for old in (out / "cards").glob("*.json"):
        if old.stem not in cards:
            old.unlink()
    write_results(view, out / RESULTS_FILE)
    report = build_report(read_published(out))  # of what others will have, not of what only this machine has
    write_bytes(out / "curve.png", report.picture())
    write_text(out / "report.md", report.markdown())
    if report.missing:
        notes.append(f"{len(report.missing)} cells are missing, and the report says so")
    places = sorted(name for name, value in said.items() if _PLACE.search(str(value)))
    if places:
        notes.append(f"places of this machine stand in: {', '.join(places)}")
    return Publication(out, len(cards), tuple(notes))


def _commits(view: StudyView) -> dict[str, str]:
    """Of ScalePrior, by which the detectors were trained; {} where none of them says."""
    commits = set[str]()
    for status in view.cells:
        with contextlib.suppress(UserError, LookupError, TypeError):
            commit = read_json(status.folder / "finetune" / "run.json")["created_by"]["commit"]
            commits |= {commit} if isinstance(commit, str) else set()
    return {"commit": ", ".join(sorted(commits))} if commits else {}


def _cards(view: StudyView) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """By name the cards of the backbones that are here, and what to say of others."""
    cards: dict[str, dict[str, Any]] = {}
    absent = set[str]()
    for status in view.cells:
        file = _backbone(status)
        if status.result is None or file is None:
            continue
        cell = status.cell
        # files of several runs have one name
        name = f"{file.stem}-{cell.weights_sha256[:8]}" if cell.weights else cell.backbone_name
        if not file.is_file():
            absent.add(name)
        elif name not in cards:
            cards[name] = read_card(file).to_dict()
    return cards, [f"no card of {', '.join(sorted(absent))}: no longer here"] if absent else []


def _backbone(status: CellStatus) -> Path | None:
    """The file of a cell's backbone; None from scratch."""
    cell: Cell = status.cell
    if cell.weights:
        return Path(cell.weights)
    if not cell.images:
        return None
    link = status.folder / "pretrain"  # absent on file systems without links
    place = link if link.is_dir() else status.folder.parents[1] / "pretrained" / cell.backbone_name
    return place / "backbone.safetensors"
