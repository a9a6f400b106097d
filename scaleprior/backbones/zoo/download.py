"""A file from a plain address: HTTP ranges to go on with, retries, and a hash before anybody opens the file.

What lies on the Hugging Face hub comes by :mod:`hub`. torch's and pooch's downloaders begin anew after an interruption.
"""

from __future__ import annotations

import http.client
import logging
import time
import urllib.error
import urllib.request
from pathlib import Path

from scaleprior._version import __version__
from scaleprior.backbones.zoo.hashes import PrintedHash, file_digests
from scaleprior.errors import FailureError
from scaleprior.progress import ProgressFn

__all__ = ["MAX_BYTES", "download"]

logger = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""Bytes; the largest public backbone of the kinds we know (BiT R152x4) has 3.8 GB."""
_PIECE = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_FIRST_PAUSE = 0.5  # seconds; doubled after each failure in a row


class _Transient(Exception):
    """Something that may be gone at the next attempt: a dropped connection, a busy server."""


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
            else would tell if the rest came from another version of the file.
        attempts: failures in a row, without a byte in between, before giving up.
        max_bytes: a larger file is refused.
        progress: called with (bytes, all bytes, {}).

    Returns:
        SHA-256 of the file.

    Raises:
        FailureError: no connection, no such address, too large, no space, or another hash; says how far it came.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        if printed is None:
            part.unlink(missing_ok=True)
        before = _size(part)
        try:
            _transfer(url, part, max_bytes, progress)
            break
        except _Transient as e:
            failures = 1 if printed is not None and _size(part) > before else failures + 1
            if failures >= attempts:
                again = "it goes on from there" if printed is not None else "it begins anew, as no hash is known"
                raise FailureError(
                    f"download of {url} stopped after {_size(part):,} bytes: {e}",
                    hint=f"run the same command again, {again}",
                ) from e
            logger.info("%s: %s, trying again", url, e)
            time.sleep(_FIRST_PAUSE * 2 ** (failures - 1))
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


def _transfer(url: str, part: Path, max_bytes: int, progress: ProgressFn | None) -> None:
    """One request, to the end of the file, from the end of what is here where the server can do that.

    Raises:
        _Transient: the connection broke.
    """
    have = _size(part)
    headers = {"User-Agent": f"scaleprior/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=_TIMEOUT) as answer:
            start = have if answer.status == 206 else 0
            length = answer.headers.get("Content-Length", "")
            total = start + int(length) if length.isdigit() else None
            if total is not None and total > max_bytes:
                raise FailureError(
                    f"{url} has {total:,} bytes, at most {max_bytes:,} are taken", hint="check the address"
                )
            done = _receive(answer, part, start, total, max_bytes, progress)
    except urllib.error.HTTPError as e:
        if e.code == 416 and have:  # we have more than there is: another file by now
            part.unlink()
            raise _Transient("the file has changed at the server") from e
        if e.code in (408, 425, 429) or e.code >= 500:
            raise _Transient(f"the server answers {e.code} {e.reason}") from e
        raise FailureError(
            f"{url}: the server answers {e.code} {e.reason}", hint="check the address in the catalogue"
        ) from e
    except (OSError, http.client.HTTPException) as e:
        raise _Transient(str(getattr(e, "reason", e)) or type(e).__name__) from e
    if total is not None and done < total:
        raise _Transient(f"the connection ended {total - done:,} bytes early")


def _receive(
    answer: http.client.HTTPResponse,
    part: Path,
    start: int,
    total: int | None,
    max_bytes: int,
    progress: ProgressFn | None,
) -> int:
    """Append what comes behind byte ``start``; returns where it ended."""
    done = start
    try:
        file = part.open("r+b" if part.is_file() else "wb")
    except OSError as e:
        raise _unwritable(part, e) from e
    with file:
        file.truncate(start)
        file.seek(start)
        while piece := answer.read1(_PIECE):
            done += len(piece)
            if done > max_bytes:
                raise FailureError(f"{answer.url} has more than {max_bytes:,} bytes", hint="check the address")
            try:
                file.write(piece)
                file.flush()  # a killed process leaves all that arrived
            except OSError as e:  # the disk, not the network
                raise _unwritable(part, e) from e
            if progress is not None:
                progress(done, total or done, {})
    return done


def _unwritable(part: Path, error: OSError) -> FailureError:
    hint = "free space or set SCALEPRIOR_HOME, and run again"
    return FailureError(f"cannot write {part}: {error.strerror or error}", hint=hint)
