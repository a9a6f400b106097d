"""Folders that appear complete or not at all: built under a temporary sibling name, renamed at the end."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from scaleprior.errors import FailureError, UserError
from scaleprior.files import flush_files, flush_folder, make_folder
from scaleprior.wording import parameter

__all__ = ["refuse_existing", "staged_folder"]

_LOCK = ".building"


@contextlib.contextmanager
def staged_folder(path: str | Path, *, marker: str, overwrite: bool = False, what: str = "an index") -> Iterator[Path]:
    """Yield an empty sibling folder; on success it becomes ``path``, on any error it is removed.

    A process killed outright leaves only its hidden sibling ``.NAME.*.building``; the next build of the same name
    removes it (the killed process' lock on it is gone).

    Args:
        path: the final folder.
        marker: a file that a finished folder holds. ``overwrite`` replaces only a folder that has it, so a mistyped
            path cannot delete something else.
        overwrite: allow ``path`` to exist already. The old folder stays until the new one is complete.
        what: such a folder is, for messages.

    Raises:
        UserError: ``path`` exists (and is not an empty folder).
        FailureError: the file system refuses (disk full, read-only).
    """
    path = Path(os.path.abspath(path))
    refuse_existing(path, marker, overwrite, what)
    try:
        make_folder(path.parent)
        _remove_abandoned(path)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".building"))
    except OSError as e:
        raise FailureError(f"cannot write {path}: {e.strerror or e}", hint="choose another folder or free space") from e
    try:
        with open(temporary / _LOCK, "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield temporary
            (temporary / _LOCK).unlink()
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(temporary, 0o777 & ~umask)
            flush_files(temporary)  # an index may take hours; images of a synthetic world can be drawn again
            _swap_in(temporary, path, marker, overwrite, what)
    except OSError as e:
        raise FailureError(f"cannot write {path}: {e.strerror or e}", hint="free space and run again") from e
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def refuse_existing(path: Path, marker: str, overwrite: bool, what: str = "an index") -> None:
    """Raise UserError where :func:`staged_folder` would."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not path.is_dir() or not (path / marker).is_file():
        raise UserError(f"{path} exists and is not {what}", hint="choose another output folder")
    if not overwrite:
        raise UserError(
            f"{path} already holds {what}", hint=f"choose another folder, or pass {parameter('overwrite', True)}"
        )


def _swap_in(temporary: Path, path: Path, marker: str, overwrite: bool, what: str) -> None:
    """Rename into place. A folder cannot replace a full one in one step: the old one steps aside first."""
    refuse_existing(path, marker, overwrite, what)  # again: another build may have finished meanwhile
    if (path / marker).is_file():
        aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".building"))
        os.replace(path, aside / path.name)
        os.replace(temporary, path)
        flush_folder(path.parent)  # before the old one goes
        shutil.rmtree(aside, ignore_errors=True)
    else:
        os.replace(temporary, path)
        flush_folder(path.parent)


def _remove_abandoned(path: Path) -> None:
    """Remove what killed builds of this name left: their lock, held by a living process, can be taken."""
    for left in path.parent.glob(f".{path.name}.*.building"):
        try:
            with open(left / _LOCK, "r+") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)
        except OSError:
            continue  # being built right now, or another user's
