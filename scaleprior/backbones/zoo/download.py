"""A file from an address: HTTP ranges to go on with, retries, a deadline, and a hash before anybody opens the file.

What lies on the Hugging Face hub comes by :mod:`hub`. torch's and pooch's downloaders begin anew after an interruption.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

from scaleprior.backbones.zoo.hashes import PrintedHash, file_digests
from scaleprior.backbones.zoo.request import Deadline, Reply, TransientError, ask
from scaleprior.errors import FailureError
from scaleprior.progress import ProgressFn

__all__ = ["MAX_BYTES", "download"]

logger = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""Bytes; the largest public backbone of the kinds we know (BiT R152x4) has 3.8 GB."""
_PIECE = 1 << 20
_FIRST_PAUSE = 0.5  # seconds; doubled after each failure in a row


def download(
    url: str,
    part: Path,
    *,
    printed: PrintedHash | None = None,
    attempts: int = 5,
    max_bytes: int = MAX_BYTES,
    progress: ProgressFn | None = None,
) -> str:
    """Fetch ``url`` into ``part`` and check the hash.

    Args:
        part: grows while bytes arrive. Left in place after an interruption, removed after a wrong hash.
        printed: the hash that the file must have. What is in ``part`` is gone on from only where it is known: nothing
            else would tell if the rest came from another version of the file. Without it the server has to state the
            file's length, or what came before a connection broke would pass for the file.
        attempts: failures in a row, without a byte in between, before giving up.
        max_bytes: a larger file is refused.
        progress: called with (bytes, all bytes, {}).

    Returns:
        SHA-256 of the file.

    Raises:
        FailureError: no connection, no such address, none of the web, headers that do not agree, too slow (see
            :class:`Deadline`), too large, no space, or another hash; says how far it came.
    """
    deadline = Deadline()
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        if printed is None:
            part.unlink(missing_ok=True)
        before = _size(part)
        try:
            _transfer(url, part, deadline, max_bytes, progress, hashed=printed is not None)
            break
        except TransientError as e:
            failures = 1 if printed is not None and _size(part) > before else failures + 1
            if failures >= attempts:
                again = "it goes on from there" if printed is not None else "it begins anew, as no hash is known"
                raise FailureError(
                    f"download of {url} stopped after {_size(part):,} bytes: {e}",
                    hint=f"run the same command again, {again}",
                ) from e
            logger.info("%s: %s, trying again", url, e)
            time.sleep(max(min(_FIRST_PAUSE * 2 ** (failures - 1), deadline.left()), 0.0))
    found = file_digests(part, {"sha256", *([printed.algorithm] if printed else ())})
    if printed is not None and not printed.of(found):
        part.unlink()
        raise FailureError(
            f"{url} has {printed.name} {found[printed.algorithm]}, expected {printed.words}; the file was not kept",
            hint="try again; if it stays so, the file was replaced by another one",
        )
    return found["sha256"]


def _size(part: Path) -> int:
    return part.stat().st_size if part.is_file() else 0


def _transfer(
    url: str, part: Path, deadline: Deadline, max_bytes: int, progress: ProgressFn | None, *, hashed: bool
) -> None:
    """One request, to the end of the file, from the end of what is here where the server can do that.

    Args:
        hashed: the file's hash is known, and tells a part of it from the whole.

    Raises:
        TransientError: the connection broke.
    """
    try:
        with ask(url, _size(part), deadline) as reply:
            total = reply.total
            if total is None and not hashed:
                raise FailureError(
                    f"{url}: the server does not say the file's length, and no hash of it is known: nothing would tell "
                    "a part of it from the whole",
                    hint="add its sha256 to its entry in the catalogue",
                )
            if total is not None and total > max_bytes:
                raise FailureError(
                    f"{url} has {total:,} bytes, at most {max_bytes:,} are taken", hint="check the address"
                )
            done = _receive(url, reply, part, deadline, max_bytes, progress)
    except TransientError as e:
        if e.args[1:] == (416,):  # we have more than there is, or something else: another file by now
            part.unlink(missing_ok=True)
        raise
    if total is not None and done < total:
        raise TransientError(f"the connection ended {total - done:,} bytes early")


def _receive(
    url: str, reply: Reply, part: Path, deadline: Deadline, max_bytes: int, progress: ProgressFn | None
) -> int:
    """Append what comes behind byte ``reply.start``; returns where it ended."""
    done = reply.start
    try:
        file = part.open("r+b" if part.is_file() else "wb")
    except OSError as e:
        raise _unwritable(part, e) from e
    with file:
        file.truncate(done)
        file.seek(done)
        while piece := reply.answer.read1(_PIECE):
            done += len(piece)
            deadline.received += len(piece)
            if done > max_bytes:
                raise FailureError(f"{url} has more than {max_bytes:,} bytes", hint="check the address")
            try:
                file.write(piece)
                file.flush()  # a killed process leaves all that arrived
            except OSError as e:  # the disk, not the network
                raise _unwritable(part, e) from e
            if progress is not None:
                progress(done, reply.total or done, {})
    return done


def _unwritable(part: Path, error: OSError) -> FailureError:
    hint = "free space or set SCALEPRIOR_HOME, and run again"
    return FailureError(f"cannot write {part}: {error.strerror or error}", hint=hint)
