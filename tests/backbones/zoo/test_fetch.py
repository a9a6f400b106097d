"""Downloads: resumed, verified, cached, locked, offline; everything against a server on this machine."""

from __future__ import annotations

import hashlib
import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.backbones.zoo import fetch, load_catalogue, local_path
from scaleprior.backbones.zoo.download import download
from scaleprior.backbones.zoo.hashes import PrintedHash
from scaleprior.backbones.zoo.resolve import locate
from scaleprior.errors import FailureError, UserError
from tests import processes
from tests.backbones.zoo.conftest import Server
from tests.backbones.zoo.test_catalogue import GOOD

DATA = random.Random(0).randbytes(300_000)
SHA256 = hashlib.sha256(DATA).hexdigest()
REPO = Path(__file__).resolve().parents[3]


@pytest.fixture
def entry(home: Path, server: Server) -> str:
    """The name of a user's public entry whose file the server has."""
    server.files["/w/file.pth"] = DATA
    write_entry(home, server)
    return "shared"


def write_entry(home: Path, server: Server, **change: Any) -> None:
    home.mkdir(exist_ok=True)
    value = {**GOOD, "url": f"{server.url}/w/file.pth", "sha256": SHA256, **change}
    value = {k: v for k, v in value.items() if v is not None}
    (home / "zoo.yaml").write_text(yaml.safe_dump({"schema": 1, "public": {"shared": value}}))


def test_a_file_is_fetched_once_and_lies_under_its_hash(entry: str, server: Server, home: Path) -> None:
    seen: list[tuple[int, int]] = []
    path = fetch(entry, progress=lambda done, total, numbers: seen.append((done, total)))
    assert path == home / "zoo" / "files" / SHA256 / "shared.pth"
    assert path.read_bytes() == DATA
    assert seen[-1] == (len(DATA), len(DATA))
    assert fetch(entry) == path
    assert len(server.requests) == 1
    assert not list((home / "zoo" / "partial").iterdir())
    fetch(entry, refresh=True)
    assert len(server.requests) == 2


def test_a_dropped_connection_is_gone_on_from(entry: str, server: Server) -> None:
    server.drop_after = [100_000, 50_000]
    assert fetch(entry).read_bytes() == DATA
    assert [r for _, r in server.requests] == ["", "bytes=100000-", "bytes=150000-"]


def test_a_killed_download_goes_on_in_the_next_process(entry: str, server: Server, home: Path) -> None:
    server.drop_after = [100_000] + [0] * 20
    with pytest.raises(FailureError, match=r"stopped after 100,000 bytes: .*; run the same command again, it goes on"):
        fetch(entry)
    assert (home / "zoo" / "partial" / entry).stat().st_size == 100_000
    server.drop_after.clear()
    assert fetch(entry).read_bytes() == DATA
    assert server.requests[-1][1] == "bytes=100000-"


def test_after_kill_9_the_next_process_goes_on(entry: str, server: Server, home: Path) -> None:
    """Killed in the middle of a body: no lock stays, and what had arrived is not fetched again."""
    server.stall_after = 100_000
    code = f"from scaleprior.backbones.zoo import fetch; fetch({entry!r})"
    process = processes.start([sys.executable, "-c", code])
    part = home / "zoo" / "partial" / entry
    processes.wait_until(lambda: part.is_file() and part.stat().st_size, process)
    process.kill()
    process.communicate()
    have = part.stat().st_size
    assert 0 < have <= 100_000
    assert fetch(entry).read_bytes() == DATA
    assert server.requests[-1][1] == f"bytes={have}-"


def test_without_a_known_hash_a_download_begins_anew(tmp_path: Path, server: Server) -> None:
    """Nothing would tell if the rest came from another version: bytes of two versions never mix."""
    server.files["/f"] = DATA
    server.drop_after = [100_000] + [0] * 20
    with pytest.raises(FailureError, match=r"stopped after .* it begins anew, as no hash is known"):
        download(f"{server.url}/f", tmp_path / "part")
    server.drop_after.clear()
    server.files["/f"] = DATA[-50_000:]  # shorter than what was here, too
    download(f"{server.url}/f", tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == server.files["/f"]
    assert {r for _, r in server.requests} == {""}


def test_bytes_of_two_versions_are_never_kept(tmp_path: Path, server: Server) -> None:
    server.files["/f"] = DATA[::-1]
    (tmp_path / "part").write_bytes(DATA[:100_000])
    with pytest.raises(FailureError, match="the file was not kept"):
        download(f"{server.url}/f", tmp_path / "part", printed=PrintedHash("sha256", SHA256))
    server.files["/f"] = DATA
    assert download(f"{server.url}/f", tmp_path / "part", printed=PrintedHash("sha256", SHA256)) == SHA256


def test_a_file_that_became_shorter_begins_again(tmp_path: Path, server: Server) -> None:
    (tmp_path / "part").write_bytes(b"x" * 200)
    server.files["/f"] = b"y" * 100
    download(
        f"{server.url}/f", tmp_path / "part", printed=PrintedHash("sha256", hashlib.sha256(b"y" * 100).hexdigest())
    )
    assert (tmp_path / "part").read_bytes() == b"y" * 100
    assert [r for _, r in server.requests] == ["bytes=200-", ""]


@pytest.mark.parametrize("ranges", [False, True])
@pytest.mark.parametrize("sha256", [None, SHA256])
def test_servers_that_cannot_resume_still_deliver(
    tmp_path: Path, server: Server, ranges: bool, sha256: str | None
) -> None:
    server.files["/f"], server.ranges, server.drop_after = DATA, ranges, [70_000]
    printed = PrintedHash("sha256", sha256) if sha256 else None
    assert download(f"{server.url}/f", tmp_path / "part", printed=printed) == SHA256
    assert (tmp_path / "part").read_bytes() == DATA


def test_busy_servers_are_asked_again_and_missing_files_are_not(tmp_path: Path, server: Server) -> None:
    server.files["/f"] = DATA
    server.statuses = [503, 429, 500]
    assert download(f"{server.url}/f", tmp_path / "part") == SHA256
    before = len(server.requests)
    with pytest.raises(FailureError, match="the server answers 404"):
        download(f"{server.url}/none", tmp_path / "other")
    assert len(server.requests) == before + 1


def test_no_connection_is_said(tmp_path: Path, server: Server) -> None:
    with pytest.raises(FailureError, match=r"http://127\.0\.0\.1:9/f stopped after 0 bytes"):
        download("http://127.0.0.1:9/f", tmp_path / "part", attempts=2)


def test_a_wrong_hash_is_refused_and_nothing_kept(home: Path, server: Server) -> None:
    server.files["/w/file.pth"] = DATA[::-1]
    write_entry(home, server)
    with pytest.raises(FailureError, match=f"has SHA-256 .*, expected {SHA256}; the file was not kept"):
        fetch("shared")
    assert not [p for p in (home / "zoo").rglob("*") if p.is_file() and p.parent.name != "locks"]


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_the_digits_that_a_publisher_prints_are_held_against_the_file(
    home: Path, server: Server, algorithm: str
) -> None:
    server.files["/w/file.pth"] = DATA
    printed = f"{algorithm}:{hashlib.new(algorithm, DATA).hexdigest()[:8]}"
    write_entry(home, server, sha256=None, hash=printed)
    server.drop_after = [100_000]
    path = fetch("shared")
    assert path == home / "zoo" / "files" / SHA256 / "shared.pth"  # files lie under their whole SHA-256
    assert [r for _, r in server.requests] == ["", "bytes=100000-"]  # eight digits are enough to go on
    assert fetch("shared") == path
    assert len(server.requests) == 2
    server.files["/w/file.pth"] = DATA[::-1]
    name = {"sha256": "SHA-256", "md5": "MD5"}[algorithm]
    wanted = rf"has {name} [0-9a-f]+, expected {printed[-8:]}\.\.\.; the file was not kept"
    with pytest.raises(FailureError, match=wanted):
        fetch("shared", refresh=True)


@pytest.mark.parametrize("algorithm", ["sha256", "md5"])
def test_a_cached_file_that_the_catalogue_no_longer_means_is_fetched_again(
    home: Path, server: Server, algorithm: str
) -> None:
    server.files["/w/file.pth"] = DATA
    write_entry(home, server)
    fetch("shared")
    server.files["/w/file.pth"] = other = DATA[::-1]
    write_entry(home, server, sha256=None, hash=f"{algorithm}:{hashlib.new(algorithm, other).hexdigest()[:10]}")
    assert fetch("shared").read_bytes() == other


def test_too_large_files_are_refused(tmp_path: Path, server: Server) -> None:
    server.files["/f"] = DATA
    with pytest.raises(FailureError, match="has 300,000 bytes, at most 1,000 are taken"):
        download(f"{server.url}/f", tmp_path / "part", max_bytes=1000)


def test_a_damaged_cache_is_noticed_and_made_good(entry: str, server: Server) -> None:
    path = fetch(entry)
    path.write_bytes(DATA[::-1])
    assert fetch(entry).read_bytes() == DATA
    assert len(server.requests) == 2


def test_without_a_published_hash_the_first_download_counts(home: Path, server: Server) -> None:
    server.files["/w/file.pth"] = DATA
    write_entry(home, server, sha256=None)
    path = fetch("shared")
    path.unlink()
    server.files["/w/file.pth"] = DATA[::-1]
    with pytest.raises(FailureError, match=f"expected {SHA256}"):
        fetch("shared")


@pytest.mark.parametrize("on", ["1", "true"])
def test_offline_the_cache_answers_or_the_error_says_what_to_do(
    entry: str, server: Server, monkeypatch: pytest.MonkeyPatch, on: str
) -> None:
    monkeypatch.setenv("SCALEPRIOR_OFFLINE", on)
    with pytest.raises(UserError, match=r"shared is not in the cache .* SCALEPRIOR_OFFLINE or .* is set; run `"):
        fetch(entry)
    assert not server.requests
    monkeypatch.setenv("SCALEPRIOR_OFFLINE", "0")
    path = fetch(entry)
    monkeypatch.setenv("SCALEPRIOR_OFFLINE", on)
    assert fetch(entry) == path


def test_two_processes_download_once(entry: str, server: Server) -> None:
    code = f"from scaleprior.backbones.zoo import fetch; print(fetch({entry!r}))"
    started = [processes.start([sys.executable, "-c", code]) for _ in range(3)]
    printed = {p.communicate()[0].strip() for p in started}
    assert all(p.returncode == 0 for p in started)
    assert len(printed) == 1
    assert Path(printed.pop()).read_bytes() == DATA
    assert len(server.requests) == 1


HUB_NAME = "R-50-ig-940m-swsl"
HUB_ADDRESS = "/timm/resnet50.fb_swsl_ig1b_ft_in1k/resolve/main/model.safetensors"
STORED = "/storage/abc"


@pytest.fixture
def hub(home: Path, server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """A mirror that answers as the hub does: it redirects to its storage and states the hash on the way."""
    monkeypatch.setenv("HF_ENDPOINT", server.url + "/")
    server.hub[HUB_ADDRESS] = (STORED, f'"{SHA256}"')
    server.files[STORED] = DATA
    return server


def test_timms_names_lead_to_the_hub_and_its_cache(hub: Server, home: Path, tmp_path: Path) -> None:
    assert locate(load_catalogue().find(HUB_NAME)).url == hub.url + HUB_ADDRESS
    seen: list[tuple[int, int]] = []
    path = fetch(HUB_NAME, progress=lambda done, total, numbers: seen.append((done, total)))
    assert path == home / "zoo" / "files" / SHA256 / f"{HUB_NAME}.safetensors"
    assert path.read_bytes() == DATA
    assert path.resolve() == tmp_path / "hub/models--timm--resnet50.fb_swsl_ig1b_ft_in1k/blobs" / SHA256
    assert not seen or seen[-1] == (len(DATA), len(DATA))  # an older huggingface_hub draws a bar of its own instead
    assert fetch(HUB_NAME) == path
    assert hub.requests == [(STORED, "")]
    fetch(HUB_NAME, refresh=True)
    assert len(hub.requests) == 2


def test_a_connection_that_the_storage_drops_is_taken_up_again(hub: Server) -> None:
    """By the hub's library, from its last whole piece, of 10 MB."""
    hub.drop_after = [100_000]
    assert fetch(HUB_NAME).read_bytes() == DATA
    assert len(hub.requests) == 2


def test_the_hubs_hash_is_held_against_what_came(hub: Server) -> None:
    """huggingface_hub itself checks the size only."""
    hub.files[STORED] = DATA[::-1]
    with pytest.raises(FailureError, match=f"has SHA-256 .*, expected {SHA256}; it is not used"):
        fetch(HUB_NAME)
    hub.files[STORED] = DATA
    assert fetch(HUB_NAME).read_bytes() == DATA


def test_a_damaged_file_of_the_hubs_cache_is_made_good(hub: Server) -> None:
    path = fetch(HUB_NAME)
    path.resolve().write_bytes(DATA[::-1])
    assert fetch(HUB_NAME).read_bytes() == DATA
    path.resolve().unlink()  # as the hub's own cleaning does
    assert fetch(HUB_NAME).read_bytes() == DATA
    assert len(hub.requests) == 3


@pytest.mark.parametrize("variable", ["SCALEPRIOR_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_what_timm_brought_is_found(
    hub: Server, home: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    from huggingface_hub import hf_hub_download

    monkeypatch.setenv(variable, "1")
    with pytest.raises(UserError, match=f"{HUB_NAME} is not in the cache"):
        fetch(HUB_NAME)
    hf_hub_download("timm/resnet50.fb_swsl_ig1b_ft_in1k", "model.safetensors", endpoint=hub.url)  # as timm does
    assert fetch(HUB_NAME).read_bytes() == DATA
    assert len(hub.requests) == 1


def test_a_hub_without_the_file_or_without_a_connection_is_said(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.hub.clear()
    with pytest.raises(FailureError, match=rf"download of {hub.url}{HUB_ADDRESS} failed: "):
        fetch(HUB_NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library tries again, with pauses of 20 s in all
    with pytest.raises(FailureError, match=r"download of http://127\.0\.0\.1:9/timm/.* failed: .*check the connection"):
        fetch(HUB_NAME)


@pytest.mark.parametrize("name", [e.name for e in load_catalogue(user=False) if e.kind == "public"])
def test_every_public_entry_has_an_address(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    entry = load_catalogue(user=False).find(name)
    hub = f"https://huggingface.co/timm/{entry.timm}/resolve/main/model.safetensors"
    assert getattr(locate(entry), "url", locate(entry)) == (entry.url or hub)


@pytest.mark.parametrize("name", ["resnet50.nonsense", "no_such_model.x", "resnet50.bamboo_"])
def test_names_that_timm_does_not_have(home: Path, server: Server, name: str) -> None:
    write_entry(home, server, url=None, timm=name, sha256=None)
    with pytest.raises(FailureError, match=f"timm.* {name}.*update timm"):
        fetch("shared")


def test_weights_that_are_not_public_say_how_to_make_ones_own(home: Path) -> None:
    with pytest.raises(UserError, match=r"not public \(arXiv:1707\.02968\); make your own .*: scaleprior pretrain"):
        fetch("paper-R-50-jft-300m")


def test_an_altered_own_file_is_refused(home: Path, backbone: Path) -> None:
    from scaleprior.backbones.zoo import add_backbone

    add_backbone(backbone, "mine")
    path = fetch("mine")
    path.write_bytes(b"other")
    with pytest.raises(FailureError, match="the file of mine, is missing or was altered"):
        fetch("mine")


@pytest.mark.parametrize("name", ["R-50-yfcc100m-ssl", "BiT-R50x1-imagenet-21k", "CLIP-R50-cc12m"])
def test_a_uri_is_a_canonical_file(
    home: Path, server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    """What the hub has (timm's own names and head, random weights here) becomes a canonical file with full card."""
    import timm
    import torch
    from safetensors.torch import save_file

    from scaleprior.backbones import load_backbone

    torch.manual_seed(0)
    entry = load_catalogue().find(name)
    assert entry.timm is not None
    save_file(timm.create_model(entry.timm.split(".")[0]).state_dict(), tmp_path / "model.safetensors")
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    data = (tmp_path / "model.safetensors").read_bytes()
    server.hub[f"/timm/{entry.timm}/resolve/main/model.safetensors"] = (STORED, f'"{hashlib.sha256(data).hexdigest()}"')
    server.files[STORED] = data
    path = local_path(f"scaleprior://{name}")
    tensors, card = load_backbone(path)
    assert tensors
    assert (card.name, card.images, card.labels, card.licence) == (name, entry.images, entry.labels, entry.licence)
    assert (card.pixel_mean, card.pixel_std, card.channel_order) == (entry.pixel_mean, entry.pixel_std, "RGB")
    assert card.corpus["name"] == entry.corpus
    written = path.stat().st_mtime_ns
    assert local_path(f"scaleprior://{name}").stat().st_mtime_ns == written  # converted once
    assert local_path("some/file.safetensors") == Path("some/file.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [("sha256", "../../x"), ("sha256", 5), ("file", "../x"), ("file", ""), ("file", 7), ("file", None), ("url", {})],
)
def test_a_record_leads_nowhere_else(entry: str, server: Server, home: Path, key: str, value: Any) -> None:
    fetch(entry)
    path = home / "zoo" / "records" / f"{entry}.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, key: value}))
    if key == "url":
        assert fetch(entry).read_bytes() == DATA
        return
    with pytest.raises(UserError, match=r"record of the zoo .* is damaged: .*; remove it"):
        fetch(entry)
