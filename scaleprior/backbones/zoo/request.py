"""One request for a file from a server that is not trusted: by http(s) alone, within a time, with headers that agree.

urllib asks; where it would follow (ftp:, a page without end behind a redirect) and what it lets pass (two lengths,
other bytes than those that were asked for) is refused here.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from socket import socket
from typing import IO, Any
from urllib.parse import urlsplit

from scaleprior._version import __version__
from scaleprior.errors import FailureError, UserError
from scaleprior.wording import one_line, shown

__all__ = ["SECONDS_VARIABLE", "Deadline", "Reply", "TransientError", "ask"]

SECONDS_VARIABLE = "SCALEPRIOR_DOWNLOAD_SECONDS"
_GRACE = 120.0  # seconds
_LEAST_RATE = 32 << 10  # bytes a second: 100 MB in 51 minutes
_TIMEOUT = 30.0  # seconds without a byte
_SCHEMES = ("http", "https")
_LENGTH = re.compile(r"[0-9]{1,18}")
_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class TransientError(Exception):
    """Something that may be gone at the next attempt: a dropped connection, a busy server."""


class _TooSlowError(Exception):
    """The time of a download is up."""


class Deadline:
    """How long a download may take, all attempts together: two minutes, and what its bytes take at 32 KiB a second.

    So a server that sends a byte now and then ends after two minutes, and a large file may take its time.
    ``$SCALEPRIOR_DOWNLOAD_SECONDS`` is another number of seconds, whatever arrives.

    Attributes:
        received: bytes of the file so far.

    Raises:
        UserError: the variable is no number above 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self._start = time.monotonic()
        self._seconds: float | None = None
        if said := os.environ.get(SECONDS_VARIABLE):
            try:
                self._seconds = float(said)
            except ValueError:
                self._seconds = 0.0
            if not 0 < self._seconds < float("inf"):
                raise UserError(f"{SECONDS_VARIABLE} is {shown(said)}", hint="give seconds above 0")

    def left(self) -> float:
        """Seconds until it is over; negative behind that."""
        allowed = _GRACE + self.received / _LEAST_RATE if self._seconds is None else self._seconds
        return allowed - (time.monotonic() - self._start)

    def check(self) -> None:
        """Raises _TooSlowError: it is over."""
        if self.left() <= 0:
            raise _TooSlowError


@dataclass(frozen=True)
class Reply:
    """What a server sends.

    Attributes:
        start: the byte of the file that the answer begins with.
        total: bytes of the whole file; None where it does not say.
    """

    answer: http.client.HTTPResponse
    start: int
    total: int | None


@contextlib.contextmanager
def ask(url: str, have: int, deadline: Deadline) -> Iterator[Reply]:
    """Ask for a file from byte ``have`` on; what is read within the block comes within ``deadline``.

    Raises:
        TransientError: the connection broke, or a busy server; within the block, too.
        FailureError: no such file, no address of the web, headers that do not agree, or the time is up; says which.
    """
    headers = {"User-Agent": f"scaleprior/{__version__}", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        deadline.check()
        request = urllib.request.Request(_of_the_web(url), headers=headers)
        with _opener(deadline).open(request, timeout=min(_TIMEOUT, deadline.left())) as answer:
            yield _reply(url, answer, have)
    except _TooSlowError as e:
        raise FailureError(
            f"download of {url} took too long: {deadline.received:,} bytes arrived",
            hint=f"run the same command again, or set {SECONDS_VARIABLE} to the seconds that it may take",
        ) from e
    except urllib.error.HTTPError as e:
        reason = one_line(e.reason)
        if e.code in (408, 416, 425, 429) or e.code >= 500:
            raise TransientError(f"the server answers {e.code} {reason}", e.code) from e
        raise FailureError(
            f"{url}: the server answers {e.code} {reason}", hint="check the address in the catalogue"
        ) from e
    except (OSError, http.client.HTTPException) as e:
        raise TransientError(one_line(getattr(e, "reason", e))) from e


def _of_the_web(url: str) -> str:
    try:
        parts = urlsplit(url)
        if parts.scheme in _SCHEMES and parts.hostname and url.isprintable() and " " not in url:
            return url
    except ValueError:
        pass
    raise FailureError(f"{shown(url)} is no address of the web", hint="files come by http and https")


def _reply(url: str, answer: http.client.HTTPResponse, have: int) -> Reply:
    """What the headers say.

    Raises:
        FailureError: they contradict each other, or are of a file that is not sent as it is.
        TransientError: other bytes than those that were asked for; the next attempt should ask for all.
    """

    def odd(name: str, value: object) -> FailureError:
        return FailureError(
            f"{url}: the server's {name} is {shown(value)}", hint="check the address in the catalogue, or try a mirror"
        )

    if answer.status not in (200, 206):
        raise odd("status", answer.status)
    lengths = answer.headers.get_all("Content-Length", [])
    if len(lengths) > 1 or (lengths and not _LENGTH.fullmatch(lengths[0])):
        raise odd("Content-Length", lengths[0] if len(lengths) == 1 else lengths)
    encoding = answer.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":  # nobody asked for it, and hashes are of what is unpacked
        raise odd("Content-Encoding", encoding)
    chunked = "Transfer-Encoding" in answer.headers
    if chunked and lengths:
        raise odd("Transfer-Encoding beside a Content-Length", answer.headers["Transfer-Encoding"])
    length = int(lengths[0]) if lengths else None
    if answer.status == 200:
        return Reply(answer, 0, length)
    said = answer.headers.get("Content-Range", "")
    found = _RANGE.fullmatch(said)
    if found is None or not _fits(found, have, length):
        raise TransientError(f"the server's Content-Range is {shown(said)} for bytes from {have:,} on", 416)
    return Reply(answer, have, int(found[2]) + 1 if found[3] == "*" else int(found[3]))


def _fits(found: re.Match[str], have: int, length: int | None) -> bool:
    """Whether a Content-Range is from byte ``have`` to the end of the file, and as long as the answer."""
    first, last = int(found[1]), int(found[2])
    to_the_end = found[3] == "*" or last == int(found[3]) - 1
    return have > 0 and first == have and last >= first and to_the_end and length in (None, last - first + 1)


def _opener(deadline: Deadline) -> urllib.request.OpenerDirector:
    """urllib's, without what opens files, FTP and data, and with every byte within the deadline."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        *(urllib.request.ProxyHandler(), _Web(deadline), urllib.request.UnknownHandler(), _Redirects()),
        *(urllib.request.HTTPDefaultErrorHandler(), urllib.request.HTTPErrorProcessor()),
    ):
        opener.add_handler(handler)
    return opener


class _Web(urllib.request.AbstractHTTPHandler):
    """Opens http and https."""

    def __init__(self, deadline: Deadline) -> None:
        super().__init__()
        self._deadline = deadline
        self.http_request = self.https_request = self.do_request_

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connected, http.client.HTTPConnection), request)  # pyright: ignore[reportArgumentType]

    def https_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(partial(self._connected, http.client.HTTPSConnection), request)  # pyright: ignore[reportArgumentType]

    def _connected(
        self, kind: Callable[..., http.client.HTTPConnection], host: str, **options: Any
    ) -> http.client.HTTPConnection:
        connection = kind(host, **options)
        connection.response_class = partial(_Answer, deadline=self._deadline)  # pyright: ignore[reportAttributeAccessIssue]
        return connection


class _Answer(http.client.HTTPResponse):
    """Whose head, too, comes within the deadline: a byte of it now and then would otherwise go on for days."""

    def __init__(self, sock: socket, *args: Any, deadline: Deadline, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        raw = self.fp.detach()  # pyright: ignore[reportAttributeAccessIssue]
        self.fp = io.BufferedReader(_Within(raw, sock, deadline))


class _Within(io.RawIOBase):
    """A connection that waits for a byte until the deadline at most."""

    def __init__(self, raw: io.RawIOBase, sock: socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw, self._sock, self._deadline = raw, sock, deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._deadline.check()
        self._sock.settimeout(max(min(_TIMEOUT, self._deadline.left()), 0.001))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Redirects(urllib.request.HTTPRedirectHandler):
    """To http and https alone, and from https not to http, where anybody on the way could send another file."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        fp.close()  # urllib would read the page to its end
        _of_the_web(newurl)
        if req.type == "https" and urlsplit(newurl).scheme != "https":
            raise FailureError(
                f"{req.full_url} leads to {shown(newurl)}, which is not by https", hint="take an address that stays so"
            )
        return super().redirect_request(req, fp, code, msg, headers, newurl)
