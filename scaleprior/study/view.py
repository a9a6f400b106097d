"""What a study's cells are at one moment: what its status shows, and its report reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from scaleprior.study.cell import Cell
from scaleprior.study.result import CellResult
from scaleprior.study.sharing import Sharing

__all__ = ["CellProgress", "CellState", "CellStatus", "StudyView"]

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
