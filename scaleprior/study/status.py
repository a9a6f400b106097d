"""Where the cells of a study are, read from their folders; while a study runs, from any process."""

from __future__ import annotations

import json
from pathlib import Path

from scaleprior.files import is_number
from scaleprior.study.cell import Cell
from scaleprior.study.failure import ERROR_FILE, Failure
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.published import is_published, read_published
from scaleprior.study.result import RESULT_FILE, CellResult
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
    if (folder / RESULT_FILE).is_file():
        return CellStatus(cell, folder, "done", result=CellResult.load(folder))
    progress = _progress(folder / "progress.json")
    if busy and (folder / "running").is_file():
        return CellStatus(cell, folder, "running", progress=progress, sharing=Sharing.read(folder))
    if (folder / ERROR_FILE).is_file():
        return CellStatus(cell, folder, "failed", error=Failure.load(folder).error, progress=progress)
    return CellStatus(cell, folder, "pending", progress=progress)


def _progress(path: Path) -> CellProgress | None:
    # Not there yet; or cut off by a loss of power, because it is written many times a second and so never flushed: it
    # is shown and nothing else, so that what cannot be read is no progress.
    try:
        progress = CellProgress(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    counts, numbers = (progress.done, progress.total), progress.numbers
    sound = isinstance(progress.stage, str) and all(type(count) is int for count in counts)
    return progress if sound and isinstance(numbers, dict) and all(map(is_number, numbers.values())) else None
