"""A download that goes on where it stopped: HTTP ranges, retries, and a hash before anybody opens the file."""

from __future__ import annotations

import http.client
import json
import logging
import re
import time
import urllib.error
import urllib.request
from email.message import Message
from pathlib import Path
from typing import Any

from scaleprior import __version__
from scaleprior.errors import FailureError
from scaleprior.files import file_sha256, write_json
from scaleprior.progress import ProgressFn

__all__ = ["MAX_BYTES", "download"]

logger = logging.getLogger(__name__)

MAX_BYTES = 8 << 30
"""Bytes; the largest public backbone of the kinds we know (BiT R152x4) has 3.8 GB."""
_PIECE = 1 << 20
_TIMEOUT = 30.0  # seconds without a byte
_FIRST_PAUSE = 0.5  # seconds; doubled after each failure in a row
# The Hugging Face hub states a large file's SHA-256 here, on the answer that redirects to the storage.
_HUB_HASH = "X-Linked-Etag"
_SHA256 = re.compile(r"[0-9a-f]{64}")


class _Transient(Exception):
    """Something that may be gone at the next attempt: a dropped connection, a busy server."""


def download(
    url: str,
    part: Path,
    *,
    sha256: str | None = None,
    attempts: int = 5,
    max_bytes: int = MAX_BYTES,
    progress: ProgressFn | None = None,
) -> str:
    """Fetch ``url`` into ``part``, going on with what is there, and check the hash.

    Args:
        part: grows while bytes arrive; a file beside it remembers which version of the address it holds, so that two
            versions never mix. Left in place after an interruption, removed after a wrong hash.
        sha256: what the file must have; None takes the server's word where it gives one.
        attempts: failures in a row, without a byte in between, before giving up.
        max_bytes: a larger file is refused.
        progress: called with (bytes, all bytes, {}).

    Returns:
        SHA-256 of the file.

    Raises:
        FailureError: no connection, no such address, too large, no space, or another hash; says how far it came.
    """
    part.parent.mkdir(parents=True, exist_ok=True)
    state = _State(url, part, sha256, max_bytes)
    failures = 0
    while True:
        before = state.size()
        try:
            state.transfer(progress)
            break
        except _Transient as e:
            failures = 1 if state.size() > before else failures + 1
            if failures >= attempts:
                raise FailureError(
                    f"download of {url} stopped after {state.size():,} bytes: {e}",
                    hint="run the same command again, it goes on from there",
                ) from e
            logger.info("%s: %s, trying again", url, e)
            time.sleep(_FIRST_PAUSE * 2 ** (failures - 1))
    found = file_sha256(part)
    expected = sha256 or state.stated_hash
    if expected is not None and found != expected:
        state.forget()
        raise FailureError(
            f"{url} has SHA-256 {found}, expected {expected}; the file was not kept",
            hint="try again; if it stays so, the file was replaced by another one",
        )
    state.note.unlink(missing_ok=True)
    return found


class _State:
    """One download: the growing file, the version it is of, and what the server said."""

    def __init__(self, url: str, part: Path, sha256: str | None, max_bytes: int) -> None:
        self.url = url
        self.part = part
        self.sha256 = sha256
        self.max_bytes = max_bytes
        self.note = part.with_name(part.name + ".json")
        self.stated_hash: str | None = None

    def size(self) -> int:
        """Bytes here."""
        return self.part.stat().st_size if self.part.is_file() else 0

    def forget(self) -> None:
        """Remove what is here."""
        self.part.unlink(missing_ok=True)
        self.note.unlink(missing_ok=True)

    def transfer(self, progress: ProgressFn | None) -> None:
        """One request, to the end of the file.

        Raises:
            _Transient: the connection broke.
        """
        have, version = self.size(), self._version()
        if have and version is None and self.sha256 is None:
            have = 0  # nothing would tell us if the rest came from another version of the file
        request = urllib.request.Request(self.url, headers={"User-Agent": f"scaleprior/{__version__}"})
        if have:
            request.add_header("Range", f"bytes={have}-")
            if version is not None:
                request.add_header("If-Range", version)
        with self._open(request, have) as answer:
            start, total = self._extent(answer, have)
            self._remember(answer.headers)
            self._receive(answer, start, total, progress)

    def _version(self) -> str | None:
        """ETag or date of what is here; None if unknown."""
        try:
            note = json.loads(self.note.read_text(encoding="utf-8"))
            if note["url"] == self.url:
                self.stated_hash = note["sha256"]
                return note["version"]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            logger.warning("%s is damaged, the download begins again", self.note)
        self.forget()
        return None

    def _open(self, request: urllib.request.Request, have: int) -> Any:
        opener = urllib.request.build_opener(_Redirects(self))
        try:
            return opener.open(request, timeout=_TIMEOUT)
        except urllib.error.HTTPError as e:
            if e.code == 416 and have:  # we have more than there is: another file by now
                self.forget()
                raise _Transient("the file has changed at the server") from e
            if e.code in (408, 425, 429) or e.code >= 500:
                raise _Transient(f"the server answers {e.code} {e.reason}") from e
            raise FailureError(
                f"{self.url}: the server answers {e.code} {e.reason}", hint="check the address in the catalogue"
            ) from e
        except urllib.error.URLError as e:
            raise _Transient(str(e.reason)) from e
        except (OSError, http.client.HTTPException) as e:
            raise _Transient(f"{type(e).__name__}: {e}") from e

    def _extent(self, answer: Any, have: int) -> tuple[int, int | None]:
        """(first byte that comes, bytes of the whole file or None), checked against what was asked for."""
        length = answer.headers.get("Content-Length")
        total = int(length) if length and length.isdigit() else None
        start = 0
        if answer.status == 206:
            match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != have:
                self.forget()
                raise _Transient(f"the server sent another range than asked for ({match and match[0]})")
            start, total = have, int(match[3])
        if total is not None and total > self.max_bytes:
            raise FailureError(
                f"{self.url} has {total:,} bytes, at most {self.max_bytes:,} are taken", hint="check the address"
            )
        return start, total

    def _remember(self, headers: Message) -> None:
        self.take_hub_hash(headers)
        etag = headers.get("ETag")
        # A weak ETag does not promise equal bytes, so it cannot guard a resumption.
        version = etag if etag and not etag.startswith("W/") else headers.get("Last-Modified")
        write_json(self.note, {"url": self.url, "version": version, "sha256": self.stated_hash}, durable=False)

    def take_hub_hash(self, headers: Message) -> None:
        """Keep the SHA-256 that the Hugging Face hub states, if it does."""
        stated = (headers.get(_HUB_HASH) or "").strip('"')
        if _SHA256.fullmatch(stated):
            self.stated_hash = stated

    def _receive(self, answer: Any, start: int, total: int | None, progress: ProgressFn | None) -> None:
        try:
            with self.part.open("r+b" if self.part.is_file() else "wb") as file:
                file.truncate(start)
                file.seek(start)
                done = start
                while piece := _read(answer):
                    done += len(piece)
                    if done > self.max_bytes:
                        raise FailureError(
                            f"{self.url} has more than {self.max_bytes:,} bytes", hint="check the address"
                        )
                    file.write(piece)
                    file.flush()  # a killed process leaves all that arrived
                    if progress is not None:
                        progress(done, total or done, {})
        except OSError as e:
            raise FailureError(
                f"cannot write {self.part}: {e.strerror or e}", hint="free space or set SCALEPRIOR_HOME, and run again"
            ) from e
        if total is not None and done < total:
            raise _Transient(f"the connection ended {total - done:,} bytes early")
        if total is not None and done > total:
            self.forget()
            raise _Transient(f"{done - total:,} bytes too many arrived")


def _read(answer: Any) -> bytes:
    """The bytes that are here, waiting for one at least; what goes wrong is the network, not the disk."""
    try:
        return answer.read1(_PIECE)
    except (OSError, http.client.HTTPException) as e:
        raise _Transient(f"{type(e).__name__}: {e}") from e


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects as usual, but reads the hash that the hub states on the way."""

    def __init__(self, state: _State) -> None:
        self._state = state

    def redirect_request(self, req: Any, fp: Any, code: int, msg: str, headers: Any, newurl: str) -> Any:
        self._state.take_hub_hash(headers)
        return super().redirect_request(req, fp, code, msg, headers, newurl)
