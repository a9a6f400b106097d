"""What a finished cell measured, and what it cost: ``result.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError
from scaleprior.files import read_json, write_json

__all__ = ["RESULT_FILE", "CellResult", "PretrainResult"]

RESULT_FILE = "result.json"


@dataclass(frozen=True)
class PretrainResult:
    """The pretraining stage of a cell.

    Attributes:
        metrics: of the last evaluation on held-out images, by name.
    """

    images_seen: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class CellResult:
    """A finished cell.

    Attributes:
        pretrain: None from scratch, and with a backbone that was trained elsewhere.
        seconds, cpu_seconds: wall and CPU time of each stage, summed over attempts.
        versions: of the programs that ran it.
    """

    detection: DetectionResult
    pretrain: PretrainResult | None
    seconds: Mapping[str, float]
    cpu_seconds: Mapping[str, float]
    versions: Mapping[str, str]

    def save(self, folder: Path) -> None:
        """Write ``result.json``, which makes the cell of ``folder`` done."""
        raw = {
            **({"pretrain": asdict(self.pretrain)} if self.pretrain is not None else {}),
            "detection": self.detection.to_dict(),
            "seconds": dict(self.seconds),
            "cpu_seconds": dict(self.cpu_seconds),
            "versions": dict(self.versions),
        }
        write_json(folder / RESULT_FILE, raw)

    @classmethod
    def load(cls, folder: Path) -> CellResult:
        """Read ``result.json``.

        Raises:
            UserError: it is damaged.
        """
        path = folder / RESULT_FILE
        raw: dict[str, Any] = read_json(path, what="cell result")
        try:
            return cls(
                detection=DetectionResult.from_dict(raw["detection"], where=str(path)),
                pretrain=PretrainResult(**raw["pretrain"]) if "pretrain" in raw else None,
                seconds=raw["seconds"],
                cpu_seconds=raw["cpu_seconds"],
                versions=raw["versions"],
            )
        except (KeyError, TypeError) as e:
            raise UserError(f"{path} is damaged: {e}", hint="remove it, and the study's next run measures again") from e
