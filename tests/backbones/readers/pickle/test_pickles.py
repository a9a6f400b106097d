"""The reader that runs nothing gives what Python's and torch's readers give, wherever it gives something."""

from __future__ import annotations

import argparse
import datetime
import io
import pathlib
import pickle
import random
import string
from collections import OrderedDict, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.backbones import ReadOptions, RefusedFileError, read_backbone
from scaleprior.backbones.readers.limits import LIMITS
from scaleprior.backbones.readers.pickle.load import load_pickle
from scaleprior.backbones.readers.pickle.machine import Machine
from scaleprior.backbones.readers.pickle.placeholders import Placeholder
from scaleprior.backbones.readers.pickle.torch_files import load_torch_legacy, load_torch_zip


def run(data: bytes) -> Any:
    return Machine(io.BytesIO(data), len(data), {}, LIMITS).load()


def tree(rng: random.Random, depth: int = 0) -> Any:
    kind = rng.randrange(11 if depth < 4 else 7)
    if kind < 7:
        text = "".join(rng.choices(string.printable + "äß漢\U0001f600", k=rng.randrange(300)))
        return (
            text, rng.randrange(-(2**70), 2**70), rng.randrange(300), rng.random() * 1e9, None, rng.random() < 0.5,
            rng.choice([-1, 255, 256, 65535, 65536, 2**31]),
        )[kind]  # fmt: skip
    items = [tree(rng, depth + 1) for _ in range(rng.randrange(5))]
    if kind == 7:
        return items
    if kind == 8:
        return tuple(items)
    return {(f"k{i}" if kind == 9 else i): item for i, item in enumerate(items)}


@pytest.mark.parametrize("protocol", range(6))
def test_plain_content_is_what_pickle_reads(protocol: int) -> None:
    rng = random.Random(protocol)
    for _ in range(60):
        value = tree(rng)
        assert run(pickle.dumps(value, protocol=protocol)) == value
    shared = [1]
    made = run(pickle.dumps({"a": shared, "b": shared}, protocol=protocol))
    assert made["a"] is made["b"]
    if protocol >= 4:
        assert run(pickle.dumps({"s": {1, 2}, "f": frozenset("a")}, protocol=protocol)) == {"s": {1, 2}, "f": {"a"}}


@pytest.mark.parametrize("protocol", range(6))
def test_large_and_small_arrays(protocol: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(protocol)
    arrays = {
        "small": rng.standard_normal(5), "large": rng.standard_normal((70, 80, 9)).astype(np.float32),
        "fortran": np.asfortranarray(rng.standard_normal((300, 200))), "empty": np.zeros((0, 3)),
        "swapped": np.arange(30000, dtype=">i4"), "bool": rng.random(9) > 0.5, "half": np.float16([1, 2]),
    }  # fmt: skip
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(arrays, protocol=protocol))
    found = load_pickle(str(tmp_path / "w.pkl")).content
    for name, value in arrays.items():
        np.testing.assert_array_equal(found[name], value)
        assert found[name].dtype == value.dtype.newbyteorder("=")


def test_every_cut_and_every_flipped_byte_ends_in_a_refusal_or_in_values(tmp_path: Path) -> None:
    data = pickle.dumps({"a": np.arange(3, dtype=np.float32), "b": ["x", 1, 2.5, (None, True)]}, protocol=4)
    rng = random.Random(0)
    path = tmp_path / "w.pkl"
    broken = [data[:n] for n in range(len(data))]
    for _ in range(400):
        changed = bytearray(data)
        changed[rng.randrange(len(data))] = rng.randrange(256)
        broken.append(bytes(changed))
    refused = 0
    for content in broken:
        path.write_bytes(content)
        try:
            load_pickle(str(path))
        except RefusedFileError:
            refused += 1
    assert refused >= len(data)


def odd_tensors() -> dict[str, Any]:
    torch.manual_seed(0)
    base = torch.randn(6, 8)
    return {
        "whole": base,
        "view": base[1:4, ::2],
        "transposed": base.t(),
        "expanded_inside": torch.randn(1, 4).expand(1, 4),
        "types": [torch.arange(5), torch.tensor([True, False]), torch.randn(3).half(), torch.randn(3).bfloat16()],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 4),
        "parameter": torch.nn.Parameter(torch.randn(2, 2)),
        "size": torch.Size([2, 3]),
        "ordered": OrderedDict(a=torch.ones(2), b=1),
        "numbers": {"epoch": 3, "lr": 0.1, "best": np.float64(0.5), "array": np.arange(4)},
    }


def equal(ours: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        ours = torch.from_numpy(ours.copy()) if isinstance(ours, np.ndarray) else ours  # not aligned in the file
        assert ours.data_ptr() % ours.element_size() == 0
        assert (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape)
        assert torch.equal(ours, theirs.detach())
    elif isinstance(theirs, dict):
        assert list(ours) == list(theirs)
        for key in theirs:
            equal(ours[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            equal(a, b)
    else:
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("old", [False, True])
def test_torch_files_are_what_torch_reads(old: bool, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(odd_tensors(), path, _use_new_zipfile_serialization=not old)
    ours = (load_torch_legacy if old else load_torch_zip)(path).content
    equal(ours, torch.load(path, weights_only=False))
    ours["whole"][...] = 0  # writing reaches the memory only, and views share it
    assert not ours["view"].any()
    assert torch.load(path, weights_only=False)["whole"].any()


def settings() -> argparse.Namespace:
    return argparse.Namespace(
        lr=0.1, out=pathlib.Path("/runs/1"), started=datetime.datetime(2020, 1, 2, tzinfo=datetime.timezone.utc),
        device=torch.device("cpu"), dtype=torch.float16, nested=argparse.Namespace(a=[1, {2, 3}]),
        counts=defaultdict(list, a=[1]),
    )  # fmt: skip


@pytest.mark.parametrize("old", [False, True])
def test_settings_beside_the_weights_are_passed_over_and_said(old: bool, tmp_path: Path) -> None:
    """As timm's and many other training scripts save their arguments."""
    from torchvision.models import resnet18

    torch.set_num_threads(1)
    state = resnet18().state_dict()
    content = {"epoch": 3, "args": settings(), "state_dict": state, "paths": [pathlib.Path("a")]}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not old)
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(assume="torchvision"))
    assert torch.equal(reading.tensors["stem.conv1.weight"], state["conv1.weight"])
    said = f"paths: {type(pathlib.Path()).__module__}.{type(pathlib.Path()).__name__}"
    assert reading.report.notes == [f"objects that are no weights were passed over: args: argparse.Namespace, {said}"]


@pytest.mark.parametrize("protocol", range(2, 6))
def test_settings_in_every_protocol(protocol: int, tmp_path: Path) -> None:
    value = {"args": argparse.Namespace(a=1), "w": np.zeros(3)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(value, protocol=protocol))
    found = load_pickle(str(tmp_path / "w.pkl"))
    assert found.content["args"] == Placeholder("argparse.Namespace", {"a": 1})
    assert found.left_out == ["args: argparse.Namespace"]


def test_a_key_twice_is_named(tmp_path: Path) -> None:
    entry = b"X\x01\x00\x00\x00aK\x01"
    for data in (b"}(" + entry + entry + b"u.", b"}q\x00" + entry + b"s" + entry + b"s.", b"(" + entry + entry + b"d."):
        (tmp_path / "w.pkl").write_bytes(b"\x80\x02" + data)
        with pytest.raises(RefusedFileError, match=r"w.pkl: it holds 'a' twice \[refused: duplicate\]"):
            load_pickle(str(tmp_path / "w.pkl"))
    (tmp_path / "w.pkl").write_bytes(b"\x80\x02}(X\x01\x00\x00\x00aK\x01U\x01aK\x02u.")
    with pytest.raises(RefusedFileError, match=r"a dict with a key as text and as bytes"):
        load_pickle(str(tmp_path / "w.pkl"))
