"""What a disk may hold after a power cut: what a process asked of the file system, and the states that may be left.

:class:`Recorder` keeps a log of everything below a folder while a block runs. It stands before Python's calls that
order what reaches the disk or change names, and looks at every file there, so that what Rust and C++ wrote in between
is in the log, too. :meth:`WriteLog.after_a_cut` makes one of the states that a file system may leave, by these rules:

- The content of a file is on the disk as it was when it was last flushed. Later writes got there as a whole, not at
  all, or in any of their blocks, the others being as before or zeros; so did its length.
- A name (a creation, a rename, a removal, a folder) is on the disk once the folder was flushed that it is in. Of those
  not flushed any may be there and any not, also a later one without an earlier; a rename takes place as a whole.

ext4, XFS and btrfs keep to more than that, each to something else.
"""

from __future__ import annotations

import contextlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

_BLOCK = 512
_FOLDER = -1  # in place of a file's number


@dataclass(frozen=True)
class _Write:
    """The file has this content, in the system's memory."""

    file: int
    data: bytes


@dataclass(frozen=True)
class _Names:
    """These names came about, or (None) went, in one."""

    now: tuple[tuple[str, int | None], ...]


@dataclass(frozen=True)
class _Flush:
    """A file's content, or a folder's names, are on the disk."""

    file: int | None
    folder: str = ""


@dataclass
class WriteLog:
    """In the order in which it came about; names are relative to the folder that was recorded."""

    events: list[_Write | _Names | _Flush] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.events)

    def ever_held(self, data: bytes) -> bool:
        """Whether any file held just these bytes at any time."""
        return any(isinstance(event, _Write) and event.data == data for event in self.events)

    def after_a_cut(self, length: int, draw: random.Random, folder: Path) -> None:
        """Make ``folder`` what a power cut after the first ``length`` events may leave of the recorded one."""
        safe: dict[int, bytes] = {}
        written: dict[int, bytes] = {}
        names: dict[str, int] = {}
        open_ends: list[_Names] = []
        for event in self.events[:length]:
            if isinstance(event, _Write):
                written[event.file] = event.data
            elif isinstance(event, _Names):
                open_ends.append(event)
            elif event.file is not None:
                safe[event.file] = written[event.file]
            else:
                _settle(names, [each for each in open_ends if _within(each, event.folder)])
                open_ends = [each for each in open_ends if not _within(each, event.folder)]
        share = draw.choice((0.0, 0.5, 0.9, 1.0))
        _settle(names, [each for each in open_ends if draw.random() < share])
        folder.mkdir()
        for name, file in sorted(names.items()):
            if any(names.get(str(above)) != _FOLDER for above in list(Path(name).parents)[:-1]):
                continue  # the folder that it is in is not there
            if file == _FOLDER:
                (folder / name).mkdir()
            else:
                (folder / name).write_bytes(_left(safe.get(file, b""), written.get(file, b""), draw))


def _within(names: _Names, folder: str) -> bool:
    return os.path.dirname(names.now[0][0]) == folder


def _settle(names: dict[str, int], events: list[_Names]) -> None:
    for event in events:
        for name, file in event.now:
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file


def _left(safe: bytes, written: bytes, draw: random.Random) -> bytes:
    """What is left of a file of which ``safe`` was flushed and ``written`` is the last content."""
    how = draw.choice(("none", "all", "torn", "length"))
    if safe == written or how == "none":
        return safe
    if how == "all":
        return written
    length = len(written) if how == "length" else draw.randint(*sorted((len(safe), len(written))))
    blocks = []
    for start in range(0, length, _BLOCK):
        old, new = (each[start : start + _BLOCK].ljust(_BLOCK, b"\0") for each in (safe, written))
        blocks.append(old if how == "length" else draw.choice((old, new)))
    return b"".join(blocks)[:length]


class Recorder:
    """See the module's text. Hard links and files outside ``root`` are not recorded."""

    def __init__(self, root: Path) -> None:
        self.log = WriteLog()
        self._root = root
        self._files: dict[int, int] = {}  # number of the system's -> ours: the system gives its own anew
        self._count = 0
        self._names: dict[str, int] = {}
        self._data: dict[int, bytes] = {}

    @contextlib.contextmanager
    def recording(self, patch: pytest.MonkeyPatch) -> Iterator[WriteLog]:
        """Record what the block does."""
        with patch.context() as patched:
            for name in ("replace", "rename", "unlink", "remove", "mkdir", "rmdir", "symlink"):
                patched.setattr(os, name, self._looking(getattr(os, name)))
            fsync = os.fsync

            def flush(descriptor: int) -> None:
                fsync(descriptor)
                self._look()
                place = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
                if place.is_relative_to(self._root):
                    name = str(place.relative_to(self._root))
                    found = self._names.get(name)
                    is_file = found is not None and found != _FOLDER
                    self.log.events.append(_Flush(found) if is_file else _Flush(None, "" if name == "." else name))

            patched.setattr(os, "fsync", flush)
            yield self.log
            self._look()

    def _looking(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def looked(*args: Any, **kwargs: Any) -> Any:
            self._look()
            result = call(*args, **kwargs)
            self._look()
            return result

        return looked

    def _look(self) -> None:
        """Log what differs from the last look. Between two calls of one process at most one name goes or changes."""
        found: dict[str, int] = {}
        numbers: dict[int, int] = {}
        for path in sorted(self._root.rglob("*")):
            name = str(path.relative_to(self._root))
            if path.is_dir():
                found[name] = _FOLDER
            elif path.is_file():
                system = path.stat().st_ino
                if system not in self._files:
                    self._count += 1
                numbers[system] = found[name] = self._files.get(system, self._count)
                data = path.read_bytes()
                if self._data.get(found[name]) != data:
                    self._data[found[name]] = data
                    self.log.events.append(_Write(found[name], data))
        changed = [(name, file) for name, file in found.items() if self._names.get(name) != file]
        gone: list[tuple[str, int | None]] = [(name, None) for name in self._names if name not in found]
        moved = {self._names[name] for name, _ in gone} & {file for _, file in changed} - {_FOLDER}
        if moved:  # a rename, in one
            self.log.events.append(_Names((*gone, *changed)))
        else:
            self.log.events.extend(_Names((each,)) for each in (*changed, *gone))
        self._files, self._names = numbers, found
