"""Tables as people have them, and what each image is then labelled with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from scaleprior.corpus import open_source
from scaleprior.corpus.importers import Source
from scaleprior.corpus.importers.doubts import settle
from tests.corpus.pictures import jpeg


class Table:
    """A folder of images with a table, ``src``."""

    def __init__(self, folder: Path) -> None:
        self.src = folder / "src"
        self.src.mkdir()

    def images(self, names: Sequence[str]) -> None:
        """Add images."""
        for k, name in enumerate(names):
            (self.src / name).parent.mkdir(parents=True, exist_ok=True)
            (self.src / name).write_bytes(jpeg(k))

    def write(self, content: str | bytes | pa.Table, name: str = "labels.csv") -> Path:
        """Write the table."""
        path = self.src / name
        if isinstance(content, pa.Table):
            pq.write_table(content, path)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def source(
        self, content: str | bytes | pa.Table, name: str = "labels.csv", *, yes: bool = False, **options: Any
    ) -> Source:
        """Write the table and open it, with its doubts settled, as ``Corpus.build`` does."""
        opened = open_source(self.src, labels=self.write(content, name), **options)
        settle(opened.doubts, yes)
        return opened

    def signs(self, *args: Any, **options: Any) -> dict[str, tuple[list[str], list[str]]]:
        """(present, absent) labels of each image, sorted, by its key."""
        rows = self.source(*args, **options).rows()
        return {row.key: (sorted(set(row.labels)), sorted(set(row.absent))) for row in sorted(rows)}

    def read(self, *args: Any, **options: Any) -> list[list[str]]:
        """The present labels of a.jpg, b.jpg, ..."""
        return [present for present, _ in self.signs(*args, **options).values()]


@pytest.fixture
def table(tmp_path: Path) -> Table:
    """A folder with the images a.jpg to d.jpg."""
    made = Table(tmp_path)
    made.images(["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    return made
