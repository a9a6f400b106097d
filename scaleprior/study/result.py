"""What a finished cell measured, and what it cost: ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError
from scaleprior.files import is_number, write_json
from scaleprior.parsing import read_json
from scaleprior.pretrain.metrics import PretrainMetrics

__all__ = ["RESULT_FILE", "CellResult"]

RESULT_FILE = "result.json"

_HINT = "remove it, and the study's next run measures again"


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    Attributes:
        pretrain: of its backbone; None from scratch, and with a backbone that was trained elsewhere.
        seconds, cpu_seconds: wall and CPU time of each stage, summed over attempts.
        versions: of the programs that ran it.
        cells_at_once: of each stage, how many cells shared its GPU, or its machine, on average over its time; itself
            included. Empty where the executor did not say, and in what earlier versions wrote.
    """

    detection: DetectionResult
    pretrain: PretrainMetrics | None
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    versions: Mapping[str, str]
    cells_at_once: Mapping[str, float] = field(default_factory=dict)

    @property
    def mean_at_once(self) -> float | None:
        """Cells at once over all stages, each as long as it was; None where nobody said."""
        told = {stage: seconds for stage, seconds in self.seconds.items() if stage in self.cells_at_once}
        total = sum(told.values())
        return sum(self.cells_at_once[s] * seconds for s, seconds in told.items()) / total if total else None

    def save(self, folder: Path) -> None:
        """Write ``result.json``, which makes the cell of ``folder`` done."""
        raw: dict[str, Any] = {}
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
            UserError: it is damaged.
        """
        path = folder / RESULT_FILE
        raw: dict[str, Any] = read_json(path, what="cell result")
        where = str(path)
        try:
            pretrain = PretrainMetrics.from_dict(raw["pretrain"]["metrics"], where=where) if "pretrain" in raw else None
            result = cls(
                detection=DetectionResult.from_dict(raw["detection"], where=where),
                pretrain=pretrain,
                seconds=raw["seconds"],
                cpu_seconds=raw["cpu_seconds"],
                versions=raw["versions"],
                cells_at_once=raw.get("cells_at_once", {}),
            )
        except (KeyError, TypeError) as e:
            raise UserError(f"{path} is damaged: {e}", hint=_HINT) from e
        numbers = ("seconds", "cpu_seconds", "cells_at_once")
        for name, kind in (*((name, is_number) for name in numbers), ("versions", _is_text)):
            value = getattr(result, name)
            if not isinstance(value, dict) or not all(map(kind, value.values())):
                raise UserError(f"{path} is damaged: {name} is {value!r}", hint=_HINT)
        return result


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
