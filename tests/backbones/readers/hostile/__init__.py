"""Files that ask for more than their bytes, written by the tests themselves; ``python -m`` this prints their costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from tests.backbones.readers.hostile import archives, pickles, texts

__all__ = ["FILES", "write"]

FILES: dict[str, Callable[[int], bytes]] = {
    **pickles.FILES,
    **texts.FILES,
    **{f"card_{name}.safetensors": made for name, made in texts.CARDS.items()},
    **archives.FILES,
}
"""Name -> what writes it, given how often what costs is repeated."""


def write(folder: Path, name: str, repeated: int) -> Path:
    """Write one of them, with a pipe beside it that nobody writes into."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "pipe").exists():
        os.mkfifo(folder / "pipe")
    path = folder / name
    path.write_bytes(FILES[name](repeated))
    return path
