"""Decoded images on the disk: the same bits, decoded once for all, never those of another file, never half of one."""

from __future__ import annotations

import errno
import fcntl
import itertools
import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import cv2
import pytest
import torch

from scaleprior.detect.data.coco import DetectionSet, load_coco
from scaleprior.detect.data.loader import TrainLoader
from scaleprior.detect.data.store import room as rooms, stored
from scaleprior.detect.data.store.images import ImageStore
from scaleprior.detect.data.store.room import Room, machine_room, tenants
from scaleprior.detect.data.store.stored import StoredImages, file_bytes
from scaleprior.detect.data.transforms import ResizeAugmentation
from scaleprior.errors import UserError
from tests import processes
from tests.detect.conftest import data_overrides, make_coco, tiny_config

IMAGES = 6
MUCH = 2**30


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images that a test has just written are old enough to be stored."""
    monkeypatch.setattr(stored, "_SETTLED", -1)


@pytest.fixture
def data(tmp_path: Path) -> DetectionSet:
    return load_coco(*make_coco(tmp_path / "data", IMAGES), name="tiny")


def _store(data: DetectionSet, folder: Path, size: int = MUCH, **settings: Any) -> ImageStore:
    return ImageStore(data, **{"order": "RGB", "cache_bytes": 0, "room": Room(folder, size), **settings})


def _all(store: ImageStore, short: int = 32, *, keep: bool = True) -> list[torch.Tensor]:
    return [store.load(index, short, 64, keep=keep) for index in range(len(store.data))]


def _same(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> bool:
    return all(map(torch.equal, ours, theirs))


@pytest.mark.parametrize(("sizes", "direction"), [((32,), "horizontal"), ((32, 48), "vertical"), ((64,), "none")])
def test_training_sees_the_same_bits_with_and_without_it(
    data: DetectionSet, tmp_path: Path, sizes: tuple[int, ...], direction: str
) -> None:
    augmentation = ResizeAugmentation(sizes=sizes, sampling="choice", longest=64, direction=direction)

    def seen(**settings: Any) -> tuple[list[Any], int]:
        loader = TrainLoader([data], augmentation, order="BGR", batch_size=2, seed=1, **settings)
        batches = [(b.images, b.images.stride(), b.sizes, b.boxes, b.ids) for b in loader.batches(0, 6)]
        return batches, loader.stores[0].decoded

    plain, decoded = seen()
    assert decoded == 12
    room = Room(tmp_path / "room", MUCH)
    for settings, times in (
        ({"room": room, "threads": 2}, IMAGES),
        ({"room": room}, 0),
        ({"room": Room(tmp_path / "room", MUCH), "cache_bytes": MUCH}, 0),
    ):
        found, decoded = seen(**settings)
        assert decoded == times
        for (images, strides, sizes_, boxes, ids), (images_, strides_, sizes__, boxes_, ids_) in zip(plain, found):
            assert torch.equal(images, images_)
            assert strides == strides_  # the network's last bits may follow from them
            assert (sizes_, ids) == (sizes__, ids_)
            assert _same(boxes, boxes_)


def test_every_setting_that_pixels_depend_on_has_its_own(
    data: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "room"
    first = _all(_store(data, folder))
    for number, (settings, short, keep) in enumerate(
        [({"order": "BGR"}, 32, True), ({}, 40, True), ({}, 64, True), ({}, 32, False)], start=2
    ):
        store = _store(data, folder, **settings)
        assert _same(_all(store, short, keep=keep), _all(_store(data, folder, room=None, **settings), short, keep=keep))
        assert store.decoded == IMAGES
        assert len(tenants(folder)) == number
    monkeypatch.setattr("scaleprior.detect.data.store.images._made_by", lambda: {"simplejpeg": "0"})
    store = _store(data, folder)
    assert _same(_all(store), first)
    assert store.decoded == IMAGES
    # boxes are no part of it: a repaired JSON needs no image decoded anew
    other = Path(data.source).with_name("other.json")
    other.write_text(json.dumps({**json.loads(Path(data.source).read_text()), "annotations": []}))
    store = _store(load_coco(other, Path(data.source).parent / "images", name="other"), folder)
    assert _same(_all(store), first)
    assert store.decoded == 0


def test_a_changed_file_is_noticed_also_while_it_is_in_use(data: DetectionSet, tmp_path: Path) -> None:
    store = _store(data, tmp_path / "room")
    before = _all(store)
    path = Path(data.source).parent / "images" / "002.png"
    times = path.stat()
    pixels = cv2.imread(str(path))
    assert pixels is not None
    path.write_bytes(cv2.imencode(".png", 255 - pixels)[1].tobytes())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))  # as tools do that copy times along
    for other in (store, _store(data, tmp_path / "room"), _store(data, tmp_path / "room")):
        after = _all(other)
        assert [torch.equal(a, b) for a, b in zip(before, after)] == [index != 2 for index in range(IMAGES)]
    assert other.decoded == 0
    path.unlink()
    with pytest.raises(UserError, match=r"image not found: .*002\.png"):
        _all(_store(data, tmp_path / "room"))


def test_a_file_that_changes_while_it_is_decoded_is_noticed(data: DetectionSet, tmp_path: Path) -> None:
    store = _store(data, tmp_path / "room")
    read, path = data.root.read, Path(data.source).parent / "images" / "001.png"

    def read_and_change(name: str) -> bytes:
        content = read(name)
        if name == path.name:
            shutil.copy(path.with_name("003.png"), path)
        return content

    data.root.read = read_and_change  # type: ignore[method-assign]
    old = _all(store)
    data.root.read = read  # type: ignore[method-assign]
    assert store.decoded == IMAGES
    new = _all(_store(data, tmp_path / "room"))
    assert torch.equal(new[1], new[3])
    assert not torch.equal(old[1], new[1])


def test_a_file_that_has_just_changed_is_decoded_again(
    data: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two changes within a tick of the file system's clock leave one time: the second would not be noticed."""
    monkeypatch.setattr(stored, "_SETTLED", 3600 * 10**9)
    for _ in range(2):
        store = _store(data, tmp_path / "room")
        _all(store)
        assert store.decoded == IMAGES


def _damage(kind: str, file: Path) -> None:
    content = bytearray(file.read_bytes())
    if kind == "half":
        content = content[: len(content) // 2]
    elif kind == "zeros":
        content = bytearray(len(content))
    elif kind == "one bit":
        content[7] ^= 1
    elif kind == "empty":
        content.clear()
    file.write_bytes(content)


@pytest.mark.parametrize("kind", ["half", "zeros", "one bit", "empty"])
def test_what_is_not_whole_does_not_count(data: DetectionSet, tmp_path: Path, kind: str) -> None:
    expected = _all(_store(data, tmp_path / "room"))
    (place,) = (each.folder for each in tenants(tmp_path / "room"))
    _damage(kind, place / "000" / "000004")
    for times in (1, 0):
        store = _store(data, tmp_path / "room")
        assert _same(_all(store), expected)
        assert store.decoded == times


_KILLED = """
import os, sys
from pathlib import Path
from scaleprior.detect.data.store import stored
from tests.detect.data.store.test_store import _store, load_coco
stored._SETTLED = -1
pack = stored.struct.Struct.pack
class Tail(stored.struct.Struct):
    def pack(self, *values):
        os._exit(9)  # the pixels are written, and nothing behind them
stored._TAIL = Tail("<16sI")
store = _store(load_coco(sys.argv[1], Path(sys.argv[1]).parent / "images", name="tiny"), Path(sys.argv[2]))
store.load(0, 32, 64, keep=True)
"""


def test_a_killed_writer_leaves_nothing_that_counts_and_no_claim(data: DetectionSet, tmp_path: Path) -> None:
    killed = processes.run([sys.executable, "-c", _KILLED, data.source, tmp_path / "room"], cwd=tmp_path)
    assert killed.returncode == 9, killed.stderr
    (place,) = (each.folder for each in tenants(tmp_path / "room"))
    assert [path.suffix for path in (place / "000").iterdir()] == [".tmp"]
    store = _store(data, tmp_path / "room")
    assert _same(_all(store), _all(_store(data, tmp_path / "room", room=None)))
    assert store.decoded == IMAGES


_USER = """
import sys, time
from pathlib import Path
from scaleprior.detect.data.store import images, stored
from tests.detect.data.store.test_store import _all, _store, load_coco
stored._SETTLED = -1
stored._PATIENCE = 60.0  # however busy the machine is
decode = images.decode
def slowly(*args, **settings):
    time.sleep(0.02)
    return decode(*args, **settings)
images.decode = slowly
store = _store(load_coco(sys.argv[1], Path(sys.argv[1]).parent / "images", name="tiny"), Path(sys.argv[2]))
print("ready", flush=True)
sys.stdin.readline()
_all(store)
print(store.decoded)
"""


def test_two_processes_at_once_decode_each_image_once(data: DetectionSet, tmp_path: Path) -> None:
    command = [sys.executable, "-c", _USER, data.source, tmp_path / "room"]
    started = [processes.start(command, cwd=tmp_path, stdin=subprocess.PIPE) for _ in range(2)]
    for process in started:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    decoded = [int(process.communicate()[0]) for process in started]
    assert sum(decoded) == IMAGES


def test_who_is_halted_while_decoding_holds_up_nobody(
    data: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_PATIENCE", 0.01)
    held = threading.Event()

    def refused(*_: object) -> NoReturn:
        held.set()
        raise OSError(errno.EAGAIN, "held by another process")

    monkeypatch.setattr(fcntl, "lockf", refused)
    store = _store(data, tmp_path / "room")
    _all(store)
    assert held.is_set()
    assert store.decoded == IMAGES


def test_a_full_disk_is_said_once_and_is_no_error(
    data: DetectionSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = _store(data, tmp_path / "room")
    store.load(0, 32, 64, keep=True)
    replace = os.replace

    def full(source: Any, target: Any) -> None:
        if Path(target).name.isdigit():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    expected = _all(_store(data, tmp_path / "room", room=None))
    for _ in range(2):
        assert _same(_all(store), expected)
    assert store.decoded == 1 + 2 * (IMAGES - 1)
    (said,) = (message for message in caplog.messages if "No space left" in message)
    assert "no more decoded images are stored" in said
    assert not list((tmp_path / "room").rglob("*.tmp"))


def test_a_folder_that_cannot_be_had_is_said_once_and_is_no_error(
    data: DetectionSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        store = _store(data, tmp_path / "file" / "room")
        _all(store)
        assert store.decoded == IMAGES
    assert len([message for message in caplog.messages if "cannot be stored" in message]) == 1


def test_the_room_may_be_removed_at_any_time(data: DetectionSet, tmp_path: Path) -> None:
    store = _store(data, tmp_path / "room")
    expected = _all(store)
    shutil.rmtree(tmp_path / "room")
    assert _same(_all(store), expected)
    assert not (tmp_path / "room").exists()  # nothing is left behind that nobody would count
    again = _store(data, tmp_path / "room")
    assert _same(_all(again), expected)
    assert again.decoded == IMAGES


def test_what_has_no_room_is_decoded_and_kept_in_memory(data: DetectionSet, tmp_path: Path) -> None:
    each = file_bytes((3, 32, 32))
    for times in (IMAGES, IMAGES - 2):
        store = _store(data, tmp_path / "room", 2 * each + 1, cache_bytes=MUCH)
        for _ in range(2):
            _all(store)
        assert store.decoded == times
    assert sum(path.stat().st_size for path in (tmp_path / "room").rglob("0000*")) <= 2 * each
    assert _store(data, tmp_path / "none", each - 1)._on_disk((32, 64)) is None


def test_bytes_of_a_file_by_hand() -> None:
    assert file_bytes((3, 32, 32)) == 4096  # 3072 of pixels and 20 behind them
    assert file_bytes((4076, 1)) == 4096
    assert file_bytes((4077, 1)) == 8192


def _opened(room: Room, name: str, images: int) -> StoredImages | None:
    return room.open({"name": name}, [(3, 32, 32)] * images, about={"set": name})


def _names(room: Room) -> list[str]:
    return sorted(each.about["set"] for each in tenants(room.folder))


def test_the_longest_unused_give_way_and_none_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count(1)
    utime = os.utime
    monkeypatch.setattr(os, "utime", lambda path: utime(path, (now := next(seconds), now)))
    room = Room(tmp_path, 5 * 4096)
    for name in ("a", "b", "a", "c"):  # b is the longest unused
        assert _opened(room, name, 1) is not None
    used = _opened(room, "c", 1)
    assert _opened(room, "d", 3) is not None
    assert _names(room) == ["a", "c", "d"]
    assert _opened(room, "e", 4) is not None  # a and d go, in that order; c is in use
    assert _names(room) == ["c", "e"]
    larger = _opened(room, "f", 6)
    assert larger is None  # no room is made for what would not fit alone
    assert _names(room) == ["c", "e"]
    assert used is not None
    partly = _opened(room, "g", 5)  # c cannot go
    assert partly is not None
    assert len(partly) == 4
    assert _names(room) == ["c", "g"]
    assert not list(tmp_path.glob(".gone-*"))


def test_a_smaller_room_is_kept_to(tmp_path: Path) -> None:
    assert _opened(Room(tmp_path, 9 * 4096), "a", 4) is not None
    other = _opened(Room(tmp_path, 9 * 4096), "b", 4)
    small = Room(tmp_path, 5 * 4096)
    assert _opened(small, "c", 1) is not None
    assert _names(small) == ["b", "c"]
    del other
    assert _opened(Room(tmp_path, 3 * 4096), "b", 4) is not None
    assert {each.about["set"]: each.bytes for each in tenants(tmp_path)} == {"b": 2 * 4096, "c": 4096}


def test_sets_whose_images_are_gone_go(data: DetectionSet, tmp_path: Path) -> None:
    room = Room(tmp_path / "room", MUCH)
    _all(ImageStore(data, order="RGB", cache_bytes=0, room=room))
    assert _opened(room, "a", 1) is not None
    assert _names(room) == ["a", "tiny"]
    shutil.rmtree(Path(data.source).parent)
    assert _opened(room, "b", 1) is not None
    assert _names(room) == ["a", "b"]


def test_a_set_whose_record_is_gone_is_removed(tmp_path: Path) -> None:
    room = Room(tmp_path, 5 * 4096)
    for name in ("a", "b"):
        assert _opened(room, name, 1) is not None
    for each in tenants(tmp_path):
        (each.folder / "set.json").write_text("[")
    assert _opened(room, "c", 1) is not None
    assert _names(room) == ["c"]


def test_half_of_a_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = shutil.disk_usage(tmp_path)._replace(free=6 * 4096)
    monkeypatch.setattr(rooms.shutil, "disk_usage", lambda _: free)
    found = _opened(Room(tmp_path, MUCH), "a", 10)
    assert found is not None
    assert len(found) == 3


def test_images_out_of_order_are_told_of_in_every_run(data: DetectionSet, tmp_path: Path) -> None:
    file = Path(data.source).parent / "images" / "001.png"
    file.write_bytes(file.read_bytes() + b"x")
    for times in (IMAGES, 1):
        store = _store(data, tmp_path / "room")
        _all(store)
        assert store.oddities.counts() == {"bytes after the end": 1}
        assert store.decoded == times
    with pytest.raises(UserError, match=r"001\.png: PNG with bytes after the end"):
        _all(_store(data, tmp_path / "room", strict=True))


@pytest.mark.parametrize("megabytes", [0, 1])
def test_the_key_reaches_training_and_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, megabytes: int, engine_run: Callable[..., Any]
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    path, root = make_coco(tmp_path / "data", IMAGES)
    engine_run([*data_overrides(path, root), "SCALEPRIOR.IMAGE_STORE_MB", str(megabytes)])
    found = tenants(tmp_path / "home" / "images")
    assert len(found) == megabytes  # training and evaluation of one set in one size share it
    assert len(list((tmp_path / "home").rglob("0000??"))) == IMAGES * megabytes


@pytest.fixture
def engine_run(tmp_path: Path) -> Callable[[list[str]], Any]:
    from scaleprior.detect.engines import get_engine

    def run(overrides: list[str]) -> Any:
        engine, loaded = get_engine("torchvision"), tiny_config("FPN", overrides)
        model = engine.train(loaded, None, tmp_path / "out")
        return engine.evaluate(loaded, model, tmp_path / "out")

    return run


def test_none_is_no_room() -> None:
    room = machine_room(3)
    assert machine_room(0) is None
    assert room is not None
    assert room.size == 3 * 2**20
