"""Where the cells of a study are, read from their folders; while a study runs, from any process."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaleprior.files import is_number
from scaleprior.study.cell import Cell
from scaleprior.study.failure import ERROR_FILE, Failure
from scaleprior.study.folder import StudyFolder, StudyRecord
from scaleprior.study.result import RESULT_FILE, CellResult
from scaleprior.study.sharing import Sharing

__all__ = ["CellProgress", "CellState", "CellStatus", "StudyView", "study_status", "study_view"]

CellState = Literal["pending", "running", "done", "failed"]


@dataclass(frozen=True)
class CellProgress:
    """How far the last attempt at a cell came.

    Attributes:
        stage: ``pretrain``, ``finetune`` or ``evaluate``.
        done, total: steps of that stage, or images where it evaluates; 0 before its first.
        numbers: what the stage last said of itself, such as a loss.
    """

    stage: str
    done: int
    total: int
    numbers: Mapping[str, float]


@dataclass(frozen=True)
class CellStatus:
    """A cell, and what its folder says of it now.

    Attributes:
        error: why the last attempt failed; empty otherwise.
        result: what the cell measured and what it cost; None until it is done.
        progress: None before the first attempt, and of a cell that is done.
        sharing: where a running cell works, and with how many; None where its executor does not say.
    """

    cell: Cell
    folder: Path
    state: CellState
    error: str = ""
    result: CellResult | None = None
    progress: CellProgress | None = None
    sharing: Sharing | None = None

    def to_dict(self) -> dict[str, Any]:
        """In the words of ``study status --json``."""
        cell, at = self.cell, self.progress or CellProgress("", 0, 0, {})
        return {
            "arch": cell.arch, "images": cell.images, "seed": cell.seed, "arm": cell.arm, "cell": cell.key,
            "state": self.state, "stage": at.stage, "done": at.done, "total": at.total, "error": self.error,
            "folder": str(self.folder),
            "place": self.sharing.place if self.sharing else "",
            "cells_at_once": self.sharing.cells if self.sharing else None,
        }  # fmt: skip


@dataclass(frozen=True)
class StudyView:
    """A whole study at one moment; the cells are in the plan's order."""

    folder: Path
    name: str
    engine: str
    cells: tuple[CellStatus, ...]
    facts: Mapping[str, Any]

    @property
    def arms(self) -> tuple[str, ...]:
        """The arms that cells have, in the plan's order; empty in a study without arms."""
        return tuple(dict.fromkeys(status.cell.arm for status in self.cells if status.cell.arm))

    def finished(self) -> list[tuple[Cell, CellResult]]:
        """The cells that are done, with their results."""
        return [(status.cell, status.result) for status in self.cells if status.result is not None]


def study_status(path: Path) -> StudyView:
    """The state of every cell of the newest plan of the study in ``path``.

    Raises:
        UserError: the folder holds no study.
    """
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
