"""What a finished cell measured, and what it cost: ``result.json``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError
from scaleprior.files import WriteError, write_json
from scaleprior.parsing import read_json
from scaleprior.pretrain.metrics import PretrainMetrics
from scaleprior.study.fields import Fields, is_count
from scaleprior.study.helper_files import without_hint
from scaleprior.wording import one_line, shown

__all__ = ["RESULT_FILE", "CellResult", "read_result", "set_aside"]

RESULT_FILE = "result.json"
_ASIDE = "result.damaged.json"

_HINT = "the study's next run measures again"


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    Attributes:
        pretrain: of its backbone; None from scratch, and with a backbone that was trained elsewhere.
        seconds, cpu_seconds: wall and CPU time of each stage, summed over attempts.
        versions: of the programs that ran it.
        cells_at_once: of each stage, how many cells shared its GPU, or its machine, on average over its time; itself
            included. Empty where the executor did not say, and in what earlier versions wrote.
        cell: the key of the cell that measured it; "" in what earlier versions wrote.
    """

    detection: DetectionResult
    pretrain: PretrainMetrics | None
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    versions: Mapping[str, str]
    cells_at_once: Mapping[str, float] = field(default_factory=dict)
    cell: str = ""

    @property
    def mean_at_once(self) -> float | None:
        """Cells at once over all stages, each as long as it was; None where nobody said."""
        told = {stage: seconds for stage, seconds in self.seconds.items() if stage in self.cells_at_once}
        total = sum(told.values())
        return sum(self.cells_at_once[s] * seconds for s, seconds in told.items()) / total if total else None

    def save(self, folder: Path) -> None:
        """Write ``result.json``, which makes the cell of ``folder`` done."""
        raw: dict[str, Any] = {"cell": self.cell} if self.cell else {}
        if self.pretrain is not None:
            raw["pretrain"] = {"images_seen": self.pretrain.images_seen, "metrics": self.pretrain.to_dict()}
        raw["detection"] = self.detection.to_dict()
        raw["seconds"], raw["cpu_seconds"] = dict(self.seconds), dict(self.cpu_seconds)
        raw["versions"] = dict(self.versions)
        if self.cells_at_once:
            raw["cells_at_once"] = dict(self.cells_at_once)
        write_json(folder / RESULT_FILE, raw)

    @classmethod
    def load(cls, folder: Path) -> CellResult:
        """Read ``result.json``.

        Raises:
            UserError: it is not there, or damaged.
        """
        path = folder / RESULT_FILE
        own = Fields(read_json(path, what="cell result"), where=str(path), hint=_HINT)
        learned = None
        if "pretrain" in own.raw:
            learned = own.inner("pretrain").inner("metrics").raw
        return read_result(own, own.raw.get("detection"), learned, cell=own.text("cell", ""))

    @classmethod
    def find(cls, folder: Path, key: str) -> CellResult | None:
        """The result of the cell ``key`` in its folder; None where there is none.

        Raises:
            UserError: it is damaged, or that of another cell. Results of earlier versions do not say whose they are.
        """
        if not os.path.lexists(folder / RESULT_FILE):
            return None
        try:
            result = cls.load(folder)
        except UserError as e:
            raise UserError(without_hint(e), hint=_HINT) from e
        if result.cell not in ("", key):
            raise UserError(f"{folder / RESULT_FILE} is of cell {shown(result.cell)}, not of {key}", hint=_HINT)
        return result


def read_result(own: Fields, detection: Any, pretrain: Any, *, cell: str) -> CellResult:
    """A result of what a file holds of it.

    Args:
        own: what a cell cost.
        detection, pretrain: what it measured, in the words of their ``to_dict``; None: not pretrained.

    Raises:
        UserError: something is missing or of another kind, or an AP is outside [0, 100].
    """
    try:
        found = DetectionResult.from_dict(detection, where=own.where)
        learned = None if pretrain is None else PretrainMetrics.from_dict(pretrain, where=own.where)
    except UserError:
        raise
    except (ArithmeticError, LookupError, TypeError, ValueError, RecursionError) as e:
        raise own.damaged(one_line(e)) from e
    if not found.has_boxes:
        raise own.damaged("it has no box AP")
    for name, ap in found.named().items():
        if ap is not None and not 0 <= ap <= 100:
            raise own.damaged(f"{name} is {shown(ap)}, outside [0, 100]")
    if learned is not None and not is_count(learned.images_seen):
        raise own.damaged(f"images_seen is {shown(learned.images_seen)}")
    return CellResult(
        detection=found,
        pretrain=learned,
        seconds=own.numbers("seconds"),
        cpu_seconds=own.numbers("cpu_seconds"),
        versions=own.words("versions"),
        cells_at_once=own.numbers("cells_at_once", {}),
        cell=cell,
    )


def set_aside(folder: Path) -> None:
    """Rename a result that is not this cell's, so that the cell has none; what it holds is not lost.

    Raises:
        WriteError: the folder cannot be written.
    """
    path = folder / RESULT_FILE
    try:
        os.replace(path, folder / _ASIDE)
    except OSError as e:
        raise WriteError.of(path, e) from e
