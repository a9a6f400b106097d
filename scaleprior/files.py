"""Atomic writing of files; ``parsing`` reads them.

Every file that ScalePrior leaves under its final name is complete: content goes to a temporary name in the same
folder, is flushed to the disk, and is renamed. A process killed at any line leaves the old file or the new one, and so
does a power cut; once a function here has returned it is the new one, because the folder is flushed, too.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import fcntl
import io
import json
import math
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scaleprior.errors import FailureError
from scaleprior.spreadsheets import guarded
from scaleprior.wording import bytes_in_words

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "SHORTAGES",
    "WriteError",
    "atomic_path",
    "file_sha256",
    "flush_files",
    "flush_folder",
    "is_number",
    "make_folder",
    "remove_leftovers",
    "system_error",
    "write_bytes",
    "write_csv",
    "write_json",
    "write_tensors",
    "write_text",
]


SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Errors of the system that speak of the process, not of the file: there are no descriptors or memory left."""
_UMASK = threading.Lock()
_FULL = (errno.ENOSPC, errno.EDQUOT)  # a full disk, a quota that is used up


class WriteError(FailureError):
    """A file could not be written; what lay under its name is as it was.

    Attributes:
        full: the disk is, or a quota is used up: with less on it the file could be written.
        what: the message without its hint, for who knows a better one.
    """

    full: bool = False
    what: str = ""

    @classmethod
    def of(cls, path: str | Path, error: OSError, *, size: int | None = None) -> WriteError:
        """Of what the file system said.

        Args:
            size: bytes of the whole file, where they are known.
        """
        full = error.errno in _FULL
        what = f"cannot write {path}: {error.strerror or error}"
        if size is not None and (full or error.errno == errno.EFBIG):
            what += f" ({bytes_in_words(size)} needed{_free_at(Path(path).parent) if full else ''})"
        hint = "free space and run again" if full else "choose another folder, or see why this one takes no such file"
        made = cls(what, hint=hint)
        made.full, made.what = full, what
        return made


def _free_at(folder: Path) -> str:
    try:
        return f", {bytes_in_words(shutil.disk_usage(folder).free)} free"
    except OSError:
        return ""


@contextlib.contextmanager
def atomic_path(path: str | Path, *, durable: bool = True, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path in ``path``'s folder; on success it is renamed to ``path``, on any error removed.

    Args:
        path: the final name; its folder is made if absent.
        durable: flush the data to the disk first, and the folder after. Without it the rename still is atomic for a
            process that dies (``kill -9``), but a machine that loses power may leave anything under the name, also
            nothing; for what a run says of itself at every step, whose readers pass over what is damaged.
        size: bytes that will be written, where they are known; for the message.

    Raises:
        WriteError: the disk is full, the folder is read-only, or another error of the file system.
    """
    path = Path(path)
    try:
        make_folder(path.parent)
        handle, temporary = _held(path)
    except OSError as e:
        raise WriteError.of(path, e, size=size) from e
    try:
        yield temporary
        # mkstemp makes files private; what a user keeps should follow the umask as any other file does
        os.chmod(temporary, 0o666 & ~_umask())
        if durable:
            _flush_to_disk(temporary)
        os.replace(temporary, path)
        if durable:
            flush_folder(path.parent)
    except OSError as e:
        temporary.unlink(missing_ok=True)
        raise WriteError.of(path, e, size=size) from e
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        os.close(handle)


def _held(path: Path) -> tuple[int, Path]:
    """A new temporary file for ``path``, locked while its handle is open: so others know that somebody writes it."""
    while True:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        with contextlib.suppress(OSError):  # a file system without locks; nothing is taken for left over there
            fcntl.flock(handle, fcntl.LOCK_EX)
        if os.fstat(handle).st_nlink:
            return handle, Path(name)
        os.close(handle)  # removed between its making and its lock


def _umask() -> int:
    """The process', which can only be read by setting it: two threads at once would leave it at 0."""
    with _UMASK:
        umask = os.umask(0o077)
        os.umask(umask)
        return umask


def remove_leftovers(folder: str | Path, *, recursive: bool = True) -> None:
    """Remove the temporary files of writers that were killed; those that somebody is writing stay.

    Those that safetensors makes beside ours have no lock: its files should have one writer, who calls this first.
    """
    for name in (".*.tmp", ".tmp??????"):  # ours, and safetensors'
        for left in Path(folder).glob(f"**/{name}" if recursive else name):
            with contextlib.suppress(OSError):  # renamed or removed meanwhile; held by its writer
                _remove_unheld(left)


def _remove_unheld(path: Path) -> None:
    """Raises OSError: somebody holds the file."""
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)  # a pipe or a link of that name is not ours
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if stat.S_ISREG(os.fstat(handle).st_mode):
            path.unlink()
    finally:
        os.close(handle)


def make_folder(folder: str | Path) -> None:
    """Make ``folder`` and those above it, as far as they are absent, and have the disk know their names.

    What is flushed in a folder may otherwise go with it in a power cut.
    """
    folder = Path(folder)
    absent = [each for each in (folder, *folder.parents) if not each.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(absent):
        flush_folder(made.parent)


def flush_files(folder: str | Path) -> None:
    """Have the disk know the files in ``folder``, content and names; not those of folders in it."""
    for path in Path(folder).iterdir():
        if path.is_file():
            _flush_to_disk(path)
    flush_folder(Path(folder))


def flush_folder(folder: Path) -> None:
    """Have the disk know which names ``folder`` holds: before an older file goes, its successor's must be there.

    Without it a power cut may leave neither. File systems that cannot do it for a folder are left alone.
    """
    with contextlib.suppress(OSError):
        _flush_to_disk(folder)


def _flush_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes, *, durable: bool = True) -> None:
    """Write ``data`` to ``path`` atomically."""
    with atomic_path(path, durable=durable, size=len(data)) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str, *, durable: bool = True) -> None:
    """Write UTF-8 ``text`` to ``path`` atomically."""
    write_bytes(path, text.encode("utf-8"), durable=durable)


def write_json(path: str | Path, value: Any, *, durable: bool = True) -> None:
    """Write ``value`` as strict JSON (no NaN), indented, atomically."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n", durable=durable)


def write_csv(path: str | Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows`` under a header line atomically; a missing value is an empty field, no text is a formula."""
    text = io.StringIO()
    # Python quotes no lone carriage return where lines end otherwise, and readers then see another row
    odd = any("\r" in value for row in rows for value in row.values() if isinstance(value, str))
    quoting = csv.QUOTE_ALL if odd else csv.QUOTE_MINIMAL
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n", quoting=quoting)
    writer.writeheader()
    writer.writerows({column: guarded(value) for column, value in row.items()} for row in rows)
    write_bytes(path, text.getvalue().encode("utf-8", "backslashreplace"))  # half a surrogate pair is no text


def write_tensors(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; the same bytes for the same content.

    Args:
        tensors: on the CPU, without gaps, none over the memory of another.
        metadata: one text in its header, under its key. (safetensors writes several in an order of its own each time.)
    """
    assert len(metadata) <= 1, "the order of several texts would differ from file to file"
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    size = sum(t.numel() * t.element_size() for t in tensors.values()) + sum(map(len, metadata.values()))
    with atomic_path(path, size=size) as temporary:
        try:
            save_file(dict(tensors), temporary, metadata=dict(metadata))
        except SafetensorError as e:
            number = system_error(e)
            raise OSError(str(e)) if number is None else OSError(number, os.strerror(number)) from e


def system_error(error: Exception) -> int | None:
    """The number of what the system said, by an OSError or by torch or safetensors, which have it in their words.

    None of any other error.
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    said = re.search(r"(.*) \((?:os error )?(\d+)\)", str(error))
    return int(said[2]) if said and said[1].endswith(os.strerror(int(said[2]))) else None


def is_number(value: Any) -> bool:
    """Whether ``value``, as JSON gives it, is a finite number; ``true`` is none, and neither is Python's ``NaN``."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number that no float holds
        return False


def file_sha256(path: str | Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal, read in 1 MiB pieces."""
    import hashlib

    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()
