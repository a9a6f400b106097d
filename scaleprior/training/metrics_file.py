"""JSON-lines files of a run's figures: whole lines, and what a resumed run records again stands there once.

What is flushed before a checkpoint is saved is there when the run goes on from it; a power cut can harm later lines
alone, which :func:`cut_lines` drops.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from scaleprior.errors import UserError
from scaleprior.files import WriteError, write_bytes
from scaleprior.parsing import parse_json

__all__ = ["MetricsFile", "cut_lines", "write_errors"]


class MetricsFile:
    """A file of figures that grows by a line at a time; a line that does not fit leaves no part of itself.

    Raises:
        WriteError: the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with write_errors(path):
            self._file = path.open("ab", buffering=0)

    def write(self, line: str) -> None:
        """Append ``line`` and its end.

        Raises:
            WriteError: it does not fit, or cannot be written; the file is as it was.
        """
        data = line.encode() + b"\n"
        left = memoryview(data)
        end = self._file.tell()
        try:
            while left:  # what is left after a part that just fits is refused
                left = left[self._file.write(left) :]
        except OSError as e:
            with contextlib.suppress(OSError):
                self._file.truncate(end)
            raise WriteError.of(self._path, e, size=len(data)) from e

    def flush(self) -> None:
        """Have the lines so far on the disk.

        Raises:
            WriteError: they cannot be written there.
        """
        try:
            os.fsync(self._file.fileno())
        except OSError as e:
            if e.errno != errno.EINVAL:  # what has no disk behind it, such as a pipe or /dev/null
                raise WriteError.of(self._path, e) from e

    def close(self) -> None:
        """Nothing waits to be written."""
        self._file.close()


@contextlib.contextmanager
def write_errors(place: str | Path) -> Iterator[None]:
    """Around what writes figures: what the file system says is a WriteError, of the file that it names or ``place``."""
    try:
        yield
    except OSError as e:
        raise WriteError.of(e.filename or place, e) from e


def cut_lines(
    path: Path,
    key: str,
    last: float,
    *,
    in_place: bool = False,
    also: Callable[[Mapping[str, Any]], bool] = lambda line: False,
) -> None:
    """Drop the lines whose number ``key`` is above ``last``: a resumed run comes to those steps again.

    A missing file is fine. A line without the number, as a kill or a power cut leaves it, is dropped, too.

    Args:
        in_place: shorten the very file, for a writer that has it open; otherwise it is replaced, which no kill can
            catch halfway.
        also: drop the lines of which this is true, too.
    """
    if not path.is_file():
        return
    before = path.read_bytes()
    lines = before.splitlines()
    kept = b"".join(line + b"\n" for line in lines if _number(line, key) <= last and not also(json.loads(line)))
    if kept == before:
        return
    if in_place:
        with path.open("r+b") as file:
            file.write(kept)
            file.truncate()
    else:
        write_bytes(path, kept)


def _number(line: bytes, key: str) -> float:
    try:
        return float(parse_json(line, where="line")[key])
    # cut off, or something else than a line of figures
    except (UserError, ValueError, OverflowError, LookupError, TypeError):
        return math.inf
