"""Why the last attempt at a cell failed: ``error.json``."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.files import WriteError, write_json
from scaleprior.study.helper_files import read_helper
from scaleprior.wording import without_effects

__all__ = ["ERROR_FILE", "Failure"]

logger = logging.getLogger(__name__)

ERROR_FILE = "error.json"


@dataclass(frozen=True)
class Failure:
    """A failed attempt.

    Attributes:
        error: one line for people.
        memory: "gpu" or "host" where that memory ran out, which others may have taken; "" otherwise.
    """

    error: str
    memory: str = ""

    def save(self, folder: Path) -> None:
        """Write ``error.json``; where even that cannot be written, as on a full disk, it is logged."""
        raw = {"error": self.error, **({"memory": self.memory} if self.memory else {})}
        try:
            write_json(folder / ERROR_FILE, raw)
        except WriteError as e:
            logger.error("cell %s failed: %s; and %s", folder.name, self.error, e)

    @classmethod
    def read(cls, folder: Path) -> Failure | None:
        """What ``error.json`` says; None where there is none. Of a damaged one, that it is damaged."""
        path = folder / ERROR_FILE
        if not os.path.lexists(path):
            return None
        raw = read_helper(path, what="cell error", fits=_is_failure)
        if raw is None:
            return cls(f"why is not known, {path} is damaged")
        return cls(without_effects(raw["error"]), raw.get("memory", ""))


def _is_failure(raw: Any) -> bool:
    return isinstance(raw, dict) and isinstance(raw.get("error"), str) and isinstance(raw.get("memory", ""), str)
