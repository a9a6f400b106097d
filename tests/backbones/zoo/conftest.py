"""A zoo of its own for every test, and a local server that can be made to fail in the ways real ones do."""

from __future__ import annotations

import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty zoo folder, named by the environment."""
    folder = tmp_path / "home"
    monkeypatch.setenv("SCALEPRIOR_HOME", str(folder))
    for name in ("SCALEPRIOR_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub")
    )  # read from the environment once
    return folder


@dataclass
class Server:
    """What the local server serves and how it misbehaves.

    Attributes:
        files: path -> bytes.
        hub: path -> (path, X-Linked-Etag): a file of a hub, which redirects to its storage and states the hash.
        drop_after: the connection is cut after this many bytes of a body, once for each number in the list.
        statuses: answered once each, in place of the file, before anything else.
        ranges, etags: whether the server knows them.
        stall_after: the first body stops for good after this many bytes; 0 = it does not.
        requests: (path, Range header) of every request.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    hub: dict[str, tuple[str, str]] = field(default_factory=dict)
    drop_after: list[int] = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    stall_after: int = 0
    released: threading.Event = field(default_factory=threading.Event)
    requests: list[tuple[str, str]] = field(default_factory=list)


def etag(data: bytes) -> str:
    return f'"{hashlib.md5(data).hexdigest()}"'


def _handler(state: Server) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            if self.path not in state.hub:
                self.send_error(404)
                return
            target, linked = state.hub[self.path]
            self.send_response(302)
            # Another host: the library follows redirects on the hub itself before it looks for the hash.
            self.send_header("Location", state.url.replace("127.0.0.1", "localhost") + target)
            self.send_header("X-Linked-Etag", linked)
            self.send_header("X-Linked-Size", str(len(state.files[target])))
            self.send_header("X-Repo-Commit", "c" * 40)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            state.requests.append((self.path, self.headers.get("Range", "")))
            if state.statuses:
                self.send_error(state.statuses.pop(0))
            elif self.path in state.files:
                self._send(state.files[self.path])
            else:
                self.send_error(404)

        def _send(self, data: bytes) -> None:
            start = 0
            wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
            unchanged = self.headers.get("If-Range") in (None, etag(data))
            if wanted and state.ranges and unchanged:
                start = int(wanted[1])
                if start >= len(data):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(data) - start))
            if state.etags:
                self.send_header("ETag", etag(data))
            self.end_headers()
            if state.stall_after:
                self.wfile.write(data[start : state.stall_after])
                state.stall_after = 0
                state.released.wait()
                return
            end = start + state.drop_after.pop(0) if state.drop_after else len(data)
            self.wfile.write(data[start:end])
            self.close_connection = True

        def log_message(self, *args: object) -> None:
            """Quiet."""

    return Handler


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on 127.0.0.1; downloads do not pause between attempts."""
    monkeypatch.setattr("scaleprior.backbones.zoo.download._FIRST_PAUSE", 0.001)
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    state = Server()
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    state.url = f"http://127.0.0.1:{httpd.server_address[1]}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state
    state.released.set()
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def backbone(tmp_path: Path) -> Path:
    """A narrow R-50 with a card, as pretraining writes it."""
    import torch

    torch.manual_seed(0)
    spec = ResNetSpec(depth=50, norm="BN", width_per_group=8, res2_out_channels=32)
    card = Card(
        name="mine", arch=spec, pixel_mean=(127.5,) * 3, pixel_std=(127.5,) * 3, channel_order="RGB", images=1234,
        labels=9, steps=3, noise={"rate": 0.2, "kind": "uniform", "drop": 0.0}, licence="CC0", source="a test",
        corpus={"name": "my-corpus", "fingerprint": "f"},
    )  # fmt: skip
    path = tmp_path / "backbone.safetensors"
    save_backbone(path, to_detectron2(build_resnet(spec).state_dict()), card)
    return path
