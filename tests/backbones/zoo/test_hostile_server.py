"""Downloads from a server that sends what none should: endless, slow, cut, contradictory, or away from the web."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import io
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from scaleprior.backbones.zoo import fetch
from scaleprior.backbones.zoo.download import download
from scaleprior.backbones.zoo.hashes import PrintedHash
from scaleprior.errors import FailureError, UserError
from tests.backbones.zoo.test_catalogue import GOOD

DATA = bytes(range(256)) * 20
HASH = PrintedHash("sha256", hashlib.sha256(DATA).hexdigest())
HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = f"Content-Length: {len(DATA)}\r\n".encode()
Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


@dataclass
class Hostile:
    """A server whose answers are functions of its handler; the last of them goes on being given."""

    url: str = ""
    answers: list[Answer] = field(default_factory=list)
    ranges: list[str] = field(default_factory=list)

    def say(self, *texts: bytes | Answer) -> None:
        """Answer with bytes as they are, one text a request."""
        self.answers = [text if callable(text) else _raw(text) for text in texts]


def _raw(text: bytes) -> Answer:
    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(text)

    return answer


def drip(*texts: bytes) -> Answer:
    """The first text at once, then the others a byte at a time, without end."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        handler.wfile.write(texts[0])
        for text in itertools.cycle(texts[1:]):
            for at in range(len(text)):
                handler.wfile.write(text[at : at + 1])
                time.sleep(0.002)

    return answer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hostile]:
    """On 127.0.0.1; downloads do not pause between attempts."""
    monkeypatch.setattr("scaleprior.backbones.zoo.download._FIRST_PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    state = Hostile()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range", ""))
            answer = state.answers.pop(0) if len(state.answers) > 1 else state.answers[0]
            with contextlib.suppress(OSError):  # the other end has gone
                answer(self)
            self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            """Quiet."""

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}/f.pth"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


ODD = {
    "negative length": (b"Content-Length: -5\r\n", r"the server's Content-Length is '-5'"),
    "length of other digits": ("Content-Length: ²\r\n".encode("latin-1"), r"the server's Content-Length is '²'"),
    "length of words": (b"Content-Length: many\r\n", r"the server's Content-Length is 'many'"),
    "length of many digits": (b"Content-Length: " + b"9" * 5000 + b"\r\n", r"Content-Length is '9+'\.\.\. \(5,000"),
    "huge length": (b"Content-Length: 99999999999999999\r\n", r"has 99,999,999,999,999,999 bytes, at most"),
    "two lengths": (LENGTH + b"Content-Length: 3\r\n", r"the server's Content-Length is \['5120', '3'\]"),
    "a list of lengths": (b"Content-Length: 5120, 3\r\n", r"the server's Content-Length is '5120, 3'"),
    "packed": (LENGTH + b"Content-Encoding: gzip\r\n", r"the server's Content-Encoding is 'gzip'"),
    "length and pieces": (LENGTH + b"Transfer-Encoding: chunked\r\n", r"Transfer-Encoding beside a Content-Length is"),
    "a name that acts": (LENGTH + b"Content-Encoding: \x1b[2J\r\n", r"Content-Encoding is '\\x1b\[2J'"),
}  # fmt: skip


@pytest.mark.parametrize("printed", [None, HASH])
@pytest.mark.parametrize("case", ODD)
def test_odd_headers_are_named(case: str, printed: PrintedHash | None, server: Hostile, tmp_path: Path) -> None:
    headers, said = ODD[case]
    server.say(HEAD + headers + b"\r\n" + DATA)
    with pytest.raises(FailureError, match=said) as refused:
        download(server.url, tmp_path / "part", printed=printed)
    assert str(refused.value).isprintable()
    assert len(server.ranges) == 1
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize("status", [b"204 No Content", b"203 Other", b"999 x"])
def test_a_status_that_is_none_of_a_file_is_named(status: bytes, server: Hostile, tmp_path: Path) -> None:
    server.say(b"HTTP/1.1 " + status + b"\r\n" + LENGTH + b"\r\n" + DATA)
    with pytest.raises(FailureError, match=status[:3].decode()):
        download(server.url, tmp_path / "part", attempts=2)


@pytest.mark.parametrize(
    "text",
    [b"", b"\x00" * 100, b"HTTP/9.9 two hundred\r\n\r\n", HEAD + b"a: b\r\n" * 200 + b"\r\n", HEAD + b"a" * 70_000],
)
def test_what_is_no_answer_is_a_broken_connection(text: bytes, server: Hostile, tmp_path: Path) -> None:
    server.say(text)
    with pytest.raises(FailureError, match="stopped after 0 bytes: ") as refused:
        download(server.url, tmp_path / "part", attempts=2)
    assert len(str(refused.value)) < 700
    assert len(server.ranges) == 2


def test_a_part_is_not_kept_for_the_whole(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where 1,000 bytes before the connection broke were taken for the file, and their hash for its own."""
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    entry = {key: value for key, value in {**GOOD, "url": server.url}.items() if key not in ("sha256", "hash")}
    (tmp_path / "home" / "zoo.yaml").write_text(yaml.safe_dump({"schema": 1, "public": {"shared": entry}}))
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n" + DATA[:1000] + b"\r\n0\r\n\r\n"
    for text in (HEAD + b"\r\n" + DATA[:1000], chunked):
        server.say(text)
        with pytest.raises(FailureError, match="does not say the file's length, and no hash of it is known"):
            fetch("shared")
    server.say(HEAD + LENGTH + b"\r\n" + DATA[:1000])
    with pytest.raises(FailureError, match="stopped after 1,000 bytes: the connection ended 4,120 bytes early"):
        fetch("shared")
    assert not list((tmp_path / "home" / "zoo").glob("records/*"))
    assert not list((tmp_path / "home" / "zoo").glob("files/*"))
    server.say(HEAD + LENGTH + b"\r\n" + DATA)
    assert fetch("shared").read_bytes() == DATA


def test_a_known_hash_stands_for_the_length(server: Hostile, tmp_path: Path) -> None:
    server.say(HEAD + b"\r\n" + DATA)
    assert download(server.url, tmp_path / "part", printed=HASH) == HASH.digits
    server.say(HEAD + b"\r\n" + DATA[:1000])
    with pytest.raises(FailureError, match="the file was not kept"):
        download(server.url, tmp_path / "other", printed=HASH)


RANGES = {
    "none": b"",
    "another start": b"Content-Range: bytes 0-5119/5120\r\n",
    "not to the end": b"Content-Range: bytes 100-200/5120\r\n",
    "backwards": b"Content-Range: bytes 100-50/5120\r\n",
    "no numbers": b"Content-Range: bytes x-y/z\r\n",
    "another unit": b"Content-Range: pages 100-5119/5120\r\n",
    "another length": b"Content-Range: bytes 100-5119/5120\r\nContent-Length: 7\r\n",
}  # fmt: skip


@pytest.mark.parametrize("case", RANGES)
def test_other_bytes_than_were_asked_for_are_not_appended(case: str, server: Hostile, tmp_path: Path) -> None:
    (tmp_path / "part").write_bytes(DATA[:100])
    server.say(b"HTTP/1.1 206 Partial\r\n" + RANGES[case] + b"\r\n" + DATA[100:], HEAD + LENGTH + b"\r\n" + DATA)
    assert download(server.url, tmp_path / "part", printed=HASH) == HASH.digits
    assert server.ranges == ["bytes=100-", ""]


def test_a_piece_that_nobody_asked_for_is_named(server: Hostile, tmp_path: Path) -> None:
    server.say(b"HTTP/1.1 206 Partial\r\nContent-Range: bytes 0-5119/5120\r\n" + LENGTH + b"\r\n" + DATA)
    with pytest.raises(FailureError, match="Content-Range is 'bytes 0-5119/5120' for bytes from 0 on"):
        download(server.url, tmp_path / "part", attempts=2)


DRIPS = {
    "the first line": drip(b"", b"H"),
    "the headers": drip(HEAD, b"a: bbbbbbbbbbbbbbbbbbb\r\n"),
    "endless welcomes": drip(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the file": drip(HEAD + b"Content-Length: 1000000\r\n\r\n", b"x"),
    "pieces": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "trailers": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"a: b\r\n"),
}


@pytest.fixture
def half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what is given to a download beyond what its bytes take."""
    monkeypatch.setattr("scaleprior.backbones.zoo.request._GRACE", 0.5)


@pytest.mark.usefixtures("half_a_second")
@pytest.mark.parametrize("case", DRIPS)
def test_a_server_that_sends_a_byte_now_and_then_is_left(case: str, server: Hostile, tmp_path: Path) -> None:
    """Each byte of it came within the time-out, so that nothing ended it."""
    server.say(DRIPS[case])
    with pytest.raises(FailureError, match=r"took too long: [\d,]+ bytes arrived; run .* SCALEPRIOR_DOWNLOAD_SECONDS"):
        download(server.url, tmp_path / "part", printed=HASH)


@pytest.mark.usefixtures("half_a_second")
def test_a_server_that_always_breaks_off_is_left(server: Hostile, tmp_path: Path) -> None:
    """A byte an attempt, each of which is progress."""

    def one_byte(handler: http.server.BaseHTTPRequestHandler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        time.sleep(0.01)
        handler.wfile.write(f"HTTP/1.1 206 x\r\nContent-Range: bytes {start}-999999/1000000\r\n\r\nx".encode())

    server.say(HEAD + b"Content-Length: 1000000\r\n\r\nx", one_byte)
    with pytest.raises(FailureError, match="took too long"):
        download(server.url, tmp_path / "part", printed=HASH)


def test_the_time_is_that_of_the_environment(server: Hostile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.say(HEAD + LENGTH + b"\r\n" + DATA)
    monkeypatch.setattr("scaleprior.backbones.zoo.request._GRACE", -1.0)
    with pytest.raises(FailureError, match="took too long: 0 bytes"):
        download(server.url, tmp_path / "part")
    monkeypatch.setenv("SCALEPRIOR_DOWNLOAD_SECONDS", "60")
    assert download(server.url, tmp_path / "part") == HASH.digits
    for wrong in ("soon", "0", "-1", "nan", "inf"):
        monkeypatch.setenv("SCALEPRIOR_DOWNLOAD_SECONDS", wrong)
        with pytest.raises(UserError, match=f"SCALEPRIOR_DOWNLOAD_SECONDS is '{wrong}'; give seconds above 0"):
            download(server.url, tmp_path / "part")


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/", "//", "http://", "http:///x"]
)
def test_a_redirect_stays_on_the_web(target: str, server: Hostile, tmp_path: Path) -> None:
    server.say(f"HTTP/1.1 302 x\r\nLocation: {target}\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(FailureError, match=r"no address of the web|is not allowed|no host|server answers 302"):
        download(server.url, tmp_path / "part", attempts=2)
    assert not (tmp_path / "part").exists()


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "/etc/passwd", "http:///x", "http://a b/", ""]
)
def test_an_address_is_one_of_the_web(url: str, tmp_path: Path) -> None:
    with pytest.raises(FailureError, match="is no address of the web; files come by http and https"):
        download(url, tmp_path / "part")


def test_a_redirect_is_followed_without_its_page(server: Hostile, tmp_path: Path) -> None:
    """urllib reads the page of a redirect to its end, which may never come."""
    head = f"HTTP/1.1 302 x\r\nLocation: {server.url}2\r\n\r\n".encode()
    server.say(drip(head, b"x" * 100), HEAD + LENGTH + b"\r\n" + DATA)
    assert download(server.url, tmp_path / "part") == HASH.digits


def test_redirects_end(server: Hostile, tmp_path: Path) -> None:
    server.say(f"HTTP/1.1 302 x\r\nLocation: {server.url}\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(FailureError, match=r"the server answers 302 .*infinite loop"):
        download(server.url, tmp_path / "part")


def test_https_does_not_become_http(server: Hostile) -> None:
    from urllib.request import Request

    from scaleprior.backbones.zoo.request import _Redirects

    page = io.BytesIO()
    with pytest.raises(FailureError, match="leads to 'http://b/f', which is not by https"):
        _Redirects().redirect_request(Request("https://a/f"), page, 302, "x", None, "http://b/f")  # pyright: ignore[reportArgumentType]
    assert page.closed
