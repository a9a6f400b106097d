"""Tars: reading by offset, writing WebDataset shards."""

from __future__ import annotations

import json
import os
import pickle
import resource
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from scaleprior.corpus import ByteReader, ShardWriter
from scaleprior.errors import FailureError, UserError
from tests.limits import leave_descriptors, limits_kept


def test_reader_keeps_few_files_open_and_survives_threads(tmp_path):
    for k in range(20):
        (tmp_path / f"{k}").write_bytes(bytes([k]) * 100)
    reader = ByteReader(tmp_path, open_files=3)
    before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda k: reader.read(str(k % 20), 10, 50), range(2000)))
    assert results == [bytes([k % 20]) * 50 for k in range(2000)]
    if before:
        assert len(os.listdir("/proc/self/fd")) - before <= 3
    copy = pickle.loads(pickle.dumps(reader))
    assert copy.read("7", 0, 2) == b"\x07\x07"


def test_reader_errors(tmp_path):
    (tmp_path / "f").write_bytes(b"12345")
    reader = ByteReader(tmp_path)
    with pytest.raises(UserError, match="f ends at byte 5, expected 9"):
        reader.read("f", 2, 7)
    with pytest.raises(UserError, match=r"cannot read .*absent"):
        reader.read("absent", 0, 1)


def test_shards_are_tars_webdataset_can_read(tmp_path):
    images = [bytes([k]) * (500 + k) for k in range(5)]
    with ShardWriter(tmp_path / "s", images_per_shard=2) as writer:
        places = [writer.write(f"train/{k:03d}", image, {"labels": [k]}) for k, image in enumerate(images)]
    assert sorted(os.listdir(tmp_path / "s")) == [f"shard-{k:06d}.tar" for k in range(3)]
    reader = ByteReader(tmp_path / "s")
    assert [reader.read(shard, m.offset, m.size) for shard, m in places] == images
    # WebDataset's own rule: consecutive members whose names agree up to the first dot are one sample
    samples: dict[str, dict[str, bytes]] = {}
    for shard in sorted(os.listdir(tmp_path / "s")):
        with tarfile.open(tmp_path / "s" / shard) as tar:
            for member in tar:
                key, _, suffix = member.name.partition(".")
                samples.setdefault(key, {})[suffix] = tar.extractfile(member).read()
    assert list(samples) == [f"train/{k:03d}" for k in range(5)]
    assert [sample["jpg"] for sample in samples.values()] == images
    assert [json.loads(sample["json"])["labels"] for sample in samples.values()] == [[k] for k in range(5)]


def test_same_images_give_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        with ShardWriter(tmp_path / name) as writer:
            writer.write("k", b"image", {"b": 1, "a": 2})
    assert (tmp_path / "a" / "shard-000000.tar").read_bytes() == (tmp_path / "b" / "shard-000000.tar").read_bytes()


def test_interrupted_shard_leaves_nothing_but_the_finished_ones(tmp_path):
    def work() -> None:
        with ShardWriter(tmp_path, images_per_shard=1) as writer:
            writer.write("a", b"1", {})
            writer.write("b", b"2", {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()
    assert os.listdir(tmp_path) == ["shard-000000.tar"]


def test_disk_full_while_writing_a_shard(tmp_path, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tarfile.TarFile, "addfile", full)
    with pytest.raises(FailureError, match=r"cannot write .*No space left"), ShardWriter(tmp_path) as writer:
        writer.write("a", b"1", {})
    assert os.listdir(tmp_path) == []


def test_bad_shard_arguments(tmp_path):
    with pytest.raises(UserError, match=r"shard key 'a/b.c' has a dot"), ShardWriter(tmp_path) as writer:
        writer.write("a/b.c", b"1", {})
    with pytest.raises(UserError, match="images_per_shard is 0"):
        ShardWriter(tmp_path, images_per_shard=0)


def test_without_descriptors_a_file_is_not_taken_for_damaged(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    reader = ByteReader(tmp_path)
    with limits_kept(resource.RLIMIT_NOFILE):
        leave_descriptors(0)
        with pytest.raises(FailureError, match=r"cannot read .*/a: Too many open files; raise the limit \(ulimit -n\)"):
            reader.read("a", 0, 3)
    assert reader.read("a", 0, 3) == b"abc"
