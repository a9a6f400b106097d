"""Lock files: one process at a time works on a folder; the system lets go when it ends, however it ends."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["open_lock"]


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
