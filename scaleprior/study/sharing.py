"""What a cell and its executor tell each other while the cell runs, in the cell's folder.

``sharing.json``: how many cells work on its GPU or machine; the executor writes it whenever that changes, and the
cell's clock reads it. ``memory.json``: the GPU memory of the cell's process, for an executor that has to know what fits
beside it. Either may be absent: a batch system's executor need not tell, and nothing but costs and room is read here.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scaleprior.study.fields import is_count
from scaleprior.study.helper_files import read_helper, write_helper

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
        write_helper(folder / SHARING_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Sharing | None:
        """What the executor last said; None where it says nothing, or a loss of power cut it off."""
        raw = read_helper(folder / SHARING_FILE, what="file", fits=_is_sharing)
        return None if raw is None else cls(raw["place"], raw["cells"])


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
        write_helper(folder / MEMORY_FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> CellMemory | None:
        """What the cell last said; None before it has done a step."""
        raw = read_helper(folder / MEMORY_FILE, what="file", fits=_is_memory)
        return None if raw is None else cls(raw["now"], raw["peak"])


def _is_sharing(raw: Any) -> bool:
    return isinstance(raw, dict) and isinstance(raw.get("place"), str) and is_count(raw.get("cells"), least=1)


def _is_memory(raw: Any) -> bool:
    return isinstance(raw, dict) and is_count(raw.get("now")) and is_count(raw.get("peak"))
