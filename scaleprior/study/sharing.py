"""What a cell and its executor tell each other while the cell runs, in the cell's folder.

``sharing.json``: how many cells work on its GPU or machine; the executor writes it whenever that changes, and the
cell's clock reads it. ``memory.json``: the GPU memory of the cell's process, for an executor that has to know what fits
beside it. Either may be absent: a batch system's executor need not tell, and nothing but costs and room is read here.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaleprior.files import write_json

__all__ = ["MEMORY_FILE", "SHARING_FILE", "CellMemory", "Sharing"]

SHARING_FILE, MEMORY_FILE = "sharing.json", "memory.json"


@dataclass(frozen=True)
class Sharing:
    """Where a cell works, and with how many.

    Attributes:
        place: "GPU 0", or "this machine" where no GPU is given to each cell.
        cells: that work there now, itself included.
    """

    place: str
    cells: int

    @property
    def words(self) -> str:
        """``alone on GPU 0``, ``beside 2 others on GPU 0``."""
        others = {1: "alone", 2: "beside another"}.get(self.cells, f"beside {self.cells - 1} others")
        return f"{others} on {self.place}"

    def save(self, folder: Path) -> None:
        """Write ``sharing.json``."""
        write_json(folder / SHARING_FILE, asdict(self), durable=False)

    @classmethod
    def read(cls, folder: Path) -> Sharing | None:
        """What the executor last said; None where it says nothing, or a loss of power cut it off."""
        raw = _read(folder / SHARING_FILE)
        if type(raw.get("place")) is not str or type(raw.get("cells")) is not int or raw["cells"] < 1:
            return None
        return cls(raw["place"], raw["cells"])


@dataclass(frozen=True)
class CellMemory:
    """Bytes that torch's allocator holds of the GPU for one cell; 0 of a cell that uses none.

    Attributes:
        now: at the last report. peak: the most of this attempt.
    """

    now: int
    peak: int

    def save(self, folder: Path) -> None:
        """Write ``memory.json``."""
        write_json(folder / MEMORY_FILE, asdict(self), durable=False)

    @classmethod
    def read(cls, folder: Path) -> CellMemory | None:
        """What the cell last said; None before it has done a step."""
        raw = _read(folder / MEMORY_FILE)
        if type(raw.get("now")) is not int or type(raw.get("peak")) is not int:
            return None
        return cls(raw["now"], raw["peak"])


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return raw if isinstance(raw, dict) else {}
