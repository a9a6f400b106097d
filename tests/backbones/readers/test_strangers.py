"""Files and folders that are no weights are called what they are; weights in several files are read."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint import save as save_distributed

from scaleprior.backbones import ReadOptions, RefusedFileError, read_backbone
from scaleprior.errors import UserError
from tests.backbones.readers.search.conftest import FACTS, small

READ = ReadOptions(**FACTS)


def packed() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("w.pth")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
    return file.getvalue()


def array() -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 102530333\n", "`git lfs pull`"),
        (b"<!DOCTYPE html><html><head><title>Virus scan warning</title>", r"it is a page of the web \(HTML\)"),
        (b"\n <html>", r"it is a page of the web \(HTML\)"),
        (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code>', "it is XML"),
        (b"Entry not found", "it is a text: 'Entry not found' .*get the file again"),
        (b'{"error": "Entry not found"}', "is JSON without a weight_map"),
        (gzip.compress(b"abc", mtime=0), r"it is compressed \(gzip\).*unpack it first"),
        (bz2.compress(b"abc"), r"it is compressed \(bzip2\)"),
        (lzma.compress(b"abc"), r"it is compressed \(xz\)"),
        (packed(), r"it is an archive \(tar\).*unpack it first"),
        (array(), r"it is one array \(.npy\)"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "it is an HDF5 file, as Keras writes"),
        (bytes(600), r"is no kind of weights that is known here \[refused: damaged\]; known: safetensors"),
    ],
)
def test_what_is_no_weights_is_called_what_it_is(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(content)
    with pytest.raises(RefusedFileError, match=rf"w.pth .*{said}"):
        read_backbone(tmp_path / "w.pth", READ)


def test_archives_of_weights_and_half_ones(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "w.zip", "w") as archive:
        archive.writestr("model/w.pth", b"abc")
    with pytest.raises(RefusedFileError, match=r"\(holds model/w.pth\).*unpack it, and give model/w.pth"):
        read_backbone(tmp_path / "w.zip", READ)
    torch.save({"weight": torch.zeros(1000)}, tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:2000])
    with pytest.raises(RefusedFileError, match=r"not a whole zip archive.*ended early leaves this"):
        read_backbone(tmp_path / "w.pth", READ)


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["checkpoint-1000/", "checkpoint-500/"], "it holds checkpoint-1000/, checkpoint-500/: give one of them"),
        (["latest", "global_step100/"], "it is a checkpoint of DeepSpeed; join it by zero_to_fp32.py"),
        (["checkpoint", "model.ckpt-1.index"], "it is a checkpoint of TensorFlow"),
        ([], "a folder may hold one of backbone.safetensors, "),
    ],
)
def test_folders_without_weights_of_a_known_name(names: list[str], said: str, tmp_path: Path) -> None:
    for name in names:
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).touch()
    with pytest.raises(UserError, match=rf"no weights in the folder .*; {said}"):
        read_backbone(tmp_path, READ)


@pytest.mark.filterwarnings("ignore")
def test_a_distributed_checkpoint_is_named(tmp_path: Path) -> None:
    save_distributed({"model": {"weight": torch.ones(4)}}, checkpoint_id=str(tmp_path))
    with pytest.raises(UserError, match=rf"in pieces; join them by `python -m .*dcp_to_torch {tmp_path} w.pth`"):
        read_backbone(tmp_path, READ)
    with pytest.raises(UserError, match=r"not named tensors; save a state_dict; pieces of a distributed checkpoint"):
        read_backbone(next(tmp_path.glob("*.distcp")), READ)


def write_shards(folder: Path) -> dict[str, Tensor]:
    """transformers' ``save_pretrained(safe_serialization=False, max_shard_size=...)``."""
    state = small().state_dict()
    names, where = list(state), {}
    for number, part in enumerate((names[:150], names[150:]), 1):
        file = f"pytorch_model-0000{number}-of-00002.bin"
        torch.save({name: state[name] for name in part}, folder / file)
        where |= dict.fromkeys(part, file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return state


def test_shards_of_torch(tmp_path: Path) -> None:
    state = write_shards(tmp_path)
    torch.save(state, tmp_path / "whole.pth")
    whole = read_backbone(tmp_path / "whole.pth", READ)
    for source in (tmp_path, tmp_path / "pytorch_model.bin.index.json"):
        found = read_backbone(source, READ)
        assert found.card.tensors_sha256 == whole.card.tensors_sha256
        assert all(torch.equal(found.tensors[name], whole.tensors[name]) for name in whole.tensors)
    torch.save([1, 2], tmp_path / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(RefusedFileError, match=r"00002-of-00002\.bin is no dict of tensors, as a shard is"):
        read_backbone(tmp_path, READ)


def test_files_without_tensors(tmp_path: Path) -> None:
    for tree in ({}, {"epoch": 3}):
        torch.save(tree, tmp_path / "w.pth")
        with pytest.raises(UserError, match=r"w.pth holds no tensors; save a state_dict"):
            read_backbone(tmp_path / "w.pth", READ)
