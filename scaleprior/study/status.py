"""Where the cells of a study are, read from their folders; while a study runs, from any process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.parsing import is_regular
from scaleprior.study.cell import Cell
from scaleprior.study.failure import Failure
from scaleprior.study.fields import are_numbers, is_count
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.helper_files import read_helper, say_once
from scaleprior.study.published import is_published, read_published
from scaleprior.study.result import CellResult
from scaleprior.study.sharing import Sharing
from scaleprior.study.view import CellProgress, CellStatus, StudyView

__all__ = ["study_status", "study_view"]


def study_status(path: Path) -> StudyView:
    """The state of every cell of the newest plan of the study in ``path``, or of a published one.

    Raises:
        UserError: the folder holds no study, or a damaged one.
    """
    if is_published(path):
        return read_published(path)
    folder = StudyFolder(path)
    return study_view(folder, folder.read(), busy=folder.busy())


def study_view(folder: StudyFolder, record: StudyRecord, *, busy: bool) -> StudyView:
    """As :func:`study_status`, for a runner that has read the folder and knows whether one (itself) is at work."""
    cells = tuple(_status(cell, folder.cell(cell), busy) for cell in record.cells)
    return StudyView(folder.path, record.name, record.engine, cells, record.facts)


def _status(cell: Cell, folder: Path, busy: bool) -> CellStatus:
    damage = ""
    try:
        result = CellResult.find(folder, cell.key)
    except UserError as e:
        result, damage = None, str(e)
        say_once(damage)
    if result is not None:
        return CellStatus(cell, folder, "done", result=result)
    progress = _progress(folder / "progress.json")
    if busy and is_regular(folder / "running"):
        return CellStatus(cell, folder, "running", progress=progress, sharing=Sharing.read(folder))
    failure = Failure.read(folder)
    if damage or failure is not None:
        return CellStatus(cell, folder, "failed", error=damage or (failure.error if failure else ""), progress=progress)
    return CellStatus(cell, folder, "pending", progress=progress)


def _progress(path: Path) -> CellProgress | None:
    raw = read_helper(path, what="progress", fits=_is_progress)
    return None if raw is None else CellProgress(**raw)


def _is_progress(raw: Any) -> bool:
    if not isinstance(raw, dict) or raw.keys() != {"stage", "done", "total", "numbers"}:
        return False
    counts = is_count(raw["done"]) and is_count(raw["total"])
    return counts and isinstance(raw["stage"], str) and are_numbers(raw["numbers"])
