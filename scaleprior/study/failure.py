"""Why the last attempt at a cell failed: ``error.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import write_json
from scaleprior.parsing import read_json

__all__ = ["ERROR_FILE", "Failure"]

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
        """Write ``error.json``."""
        write_json(folder / ERROR_FILE, {"error": self.error, **({"memory": self.memory} if self.memory else {})})

    @classmethod
    def load(cls, folder: Path) -> Failure:
        """Read ``error.json``.

        Raises:
            UserError: it is not there, or damaged.
        """
        path = folder / ERROR_FILE
        raw: Any = read_json(path, what="cell error")
        error, memory = (raw.get("error"), raw.get("memory", "")) if isinstance(raw, dict) else (None, "")
        if not isinstance(error, str) or not isinstance(memory, str):
            raise UserError(f"{path} is damaged: it holds {raw!r}", hint="remove it, and run the study again")
        return cls(error, memory)
