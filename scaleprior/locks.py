"""Lock files: one process at a time works on a folder; the system lets go when it ends, however it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

from scaleprior.errors import UserError
from scaleprior.files import make_folder

__all__ = ["alone_in", "open_lock"]

_held: dict[str, int | None] = {}  # folder -> its descriptor, None where it could not be locked; of this process
_HOLDING = threading.Lock()


def open_lock(path: Path, *, make: bool = True) -> int:
    """Descriptor of a lock file; what is written into it goes into no other file, and nobody is waited for.

    Args:
        make: it, where it is absent, to write into; else it is read only.

    Raises:
        OSError: it is not there, cannot be opened, or is a link, a folder or a pipe.
    """
    mode = os.O_RDWR | os.O_CREAT if make else os.O_RDONLY
    handle = os.open(path, mode | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    if stat.S_ISREG(os.fstat(handle).st_mode):
        return handle
    os.close(handle)
    raise OSError(errno.EINVAL, "it is no regular file", str(path))


@contextlib.contextmanager
def alone_in(folder: str | Path) -> Iterator[None]:
    """Within the block no other run works in ``folder``, which is made if it is absent; what is in it stays as it is.

    The folder itself is locked, without a file in it. Where the file system has no such locks nobody is kept out.

    Raises:
        UserError: another run does.
    """
    path = Path(os.path.realpath(folder))
    absent = not path.exists()
    with _HOLDING:
        if str(path) in _held:
            raise _busy(folder)
        _held[str(path)] = handle = _taken(path, folder)
    try:
        yield
    finally:
        with _HOLDING:
            del _held[str(path)]
            if absent:
                with contextlib.suppress(OSError):  # the run wrote into it
                    path.rmdir()
            if handle is not None:
                os.close(handle)


def _taken(path: Path, folder: str | Path) -> int | None:
    while True:
        try:
            make_folder(path)  # known to the disk, for it is there when who writes into it would see to that
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            return None  # who writes into it will say why not
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return handle
        except BlockingIOError as e:
            os.close(handle)
            raise _busy(folder) from e
        except OSError:
            return handle  # a file system without locks
        os.close(handle)  # who made it removed it, empty, between its opening and its lock


def _busy(folder: str | Path) -> UserError:
    return UserError(f"another run is at work in {folder}", hint="wait for it, or choose another folder")


def _let_go() -> None:
    """In a process that was forked: a worker of a run that is killed would hold its lock on."""
    for handle in _held.values():
        if handle is not None:
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go)
