"""JSON-lines files of a run's figures: what a resumed run records again must not stand there twice."""

from __future__ import annotations

import json
import math
from pathlib import Path

from scaleprior.files import write_text

__all__ = ["cut_lines"]


def cut_lines(path: Path, key: str, last: float, *, in_place: bool = False) -> None:
    """Drop the lines whose number ``key`` is above ``last``: a resumed run comes to those steps again.

    A missing file is fine. A line without the number, as a kill leaves it, is dropped, too.

    Args:
        in_place: shorten the very file, for a writer that has it open; otherwise it is replaced, which no kill can
            catch halfway.
    """
    if not path.is_file():
        return
    before = path.read_bytes()
    kept = b"".join(line + b"\n" for line in before.splitlines() if _number(line, key) <= last)
    if kept == before:
        return
    if in_place:
        with path.open("r+b") as file:
            file.write(kept)
            file.truncate()
    else:
        write_text(path, kept.decode("utf-8"), durable=False)


def _number(line: bytes, key: str) -> float:
    try:
        return float(json.loads(line)[key])
    except (ValueError, KeyError, TypeError):  # cut off, or something else than a line of figures
        return math.inf
