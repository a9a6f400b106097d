"""A machine with GPUs, as an executor asks for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from scaleprior.study.cell import Cell, CellData
from scaleprior.study.executors.devices import Reading
from scaleprior.study.sections import StageSection

GIB = 2**30


class Gpus:
    """Of 80 GiB each, of which a test says what is free and how busy they are."""

    def __init__(self, *names: str, busy: float | None = 35.0, free: float = 80.0) -> None:
        self._names = names
        self.busy = busy
        self.free = free
        self.asked: list[str] = []

    def names(self) -> Sequence[str]:
        return self._names

    def read(self, name: str) -> Reading:
        self.asked.append(name)
        return Reading(80 * GIB, int(self.free * GIB), self.busy)


def cell_folder(parent: Path, name: str, *, arch: str = "R-50", engine: str = "torchvision", seed: int = 0) -> Path:
    """The folder of a cell that fine-tunes from scratch."""
    stage = StageSection("COCO-Detection/quickstart_FPN.yaml", ())
    data = CellData("", ("t", "/t.json", "/t"), ("v", "/v.json", "/v"))
    Cell(f"{seed:016x}", arch, 0, seed, engine, 1, None, stage, data).save(parent / name)
    return parent / name
