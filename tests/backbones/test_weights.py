"""Backbone files: round trip, what is refused, and that reading a card needs no torch."""

from __future__ import annotations

import hashlib
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleprior.backbones import (
    Card,
    ResNetSpec,
    build_resnet,
    load_backbone,
    read_card,
    save_backbone,
    tensors_sha256,
    to_detectron2,
)
from scaleprior.errors import UserError

SPEC = ResNetSpec(res2_out_channels=32, width_per_group=8)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    card = Card("x", SPEC, (1, 2, 3), (1, 1, 1), "RGB", images=5)
    path = tmp_path / "w.safetensors"
    save_backbone(path, to_detectron2(build_resnet(SPEC).state_dict()), card)
    return path


def test_round_trip_is_exact_and_reproducible(saved: Path, tmp_path: Path) -> None:
    state, card = load_backbone(saved)
    assert card.images == 5
    assert card.tensors_sha256 == tensors_sha256(state)
    assert card == read_card(saved)
    again = tmp_path / "again.safetensors"
    save_backbone(again, state, card)
    assert again.read_bytes() == saved.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.safetensors", "w.safetensors"]


def test_hash_sees_name_shape_type_and_values() -> None:
    base = {"a": torch.zeros(4), "b": torch.ones(2)}
    variants = [
        {"a": torch.zeros(4), "c": torch.ones(2)},
        {"a": torch.zeros(2, 2), "b": torch.ones(2)},
        {"a": torch.zeros(4, dtype=torch.int32), "b": torch.ones(2)},
        {"a": torch.zeros(4), "b": torch.tensor([1.0, 2.0])},
    ]
    assert len({tensors_sha256(v) for v in [base, *variants]}) == 5
    assert tensors_sha256(dict(reversed(base.items()))) == tensors_sha256(base)


def test_hash_is_the_documented_one_and_the_first_one_is_still_read(saved: Path, tmp_path: Path) -> None:
    """Both written out here, byte by byte."""
    tensors, card = load_backbone(saved)
    first, second = hashlib.sha256(), hashlib.sha256(b"scaleprior tensors 2\0")
    for name in sorted(tensors):
        data = tensors[name].numpy().tobytes()
        caption = f"{name}\0torch.float32\0{tuple(tensors[name].shape)}\0".encode()
        first.update(caption + data)
        second.update(caption + hashlib.sha256(data).digest())
    assert card.tensors_sha256 == second.hexdigest()
    old = tmp_path / "old.safetensors"
    old.write_bytes(saved.read_bytes().replace(second.hexdigest().encode(), first.hexdigest().encode()))
    again, old_card = load_backbone(old)
    assert old_card.tensors_sha256 == first.hexdigest()
    assert tensors_sha256(again) == card.tensors_sha256
    data = bytearray(old.read_bytes())
    data[-1] ^= 1
    old.write_bytes(data)
    with pytest.raises(UserError, match=r"differ from the hash in their card"):
        load_backbone(old)


def test_tensors_with_gaps_and_of_several_types_are_written_whole(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = to_detectron2(build_resnet(SPEC).state_dict())
    card = Card("x", SPEC, (1, 2, 3), (1, 1, 1), "RGB")
    plain = save_backbone(tmp_path / "a.safetensors", state, card)
    gaps = {n: t.permute(*range(t.ndim)[::-1]).contiguous().permute(*range(t.ndim)[::-1]) for n, t in state.items()}
    assert not gaps["res2.0.conv1.weight"].is_contiguous() or not gaps["res5.0.conv2.weight"].is_contiguous()
    assert save_backbone(tmp_path / "b.safetensors", gaps, card).tensors_sha256 == plain.tensors_sha256
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    state["res5.0.conv2.weight"] = state["res5.0.conv2.weight"].half()
    save_backbone(tmp_path / "c.safetensors", state, card)
    again = load_file(tmp_path / "c.safetensors")
    assert all(torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in state.items())


def test_read_card_imports_no_torch(saved: Path) -> None:
    code = (
        "import sys; from scaleprior.backbones import read_card; "
        f"print(read_card({str(saved)!r}).images, sorted({{'torch', 'timm'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "5 []"


def test_altered_tensors_are_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[-1] ^= 1
    saved.write_bytes(data)
    with pytest.raises(UserError, match=r"differ from the hash in their card"):
        load_backbone(saved)


def test_weights_of_another_architecture_are_refused(saved: Path) -> None:
    state, card = load_backbone(saved)
    other = to_detectron2(build_resnet(ResNetSpec(depth=18)).state_dict())
    with pytest.raises(UserError, match=r"not those of R-50-w8: .* missing .*weights of another architecture"):
        save_backbone(saved, other, card)
    state["stem.conv1.weight"] = torch.zeros(64, 4, 7, 7)
    with pytest.raises(UserError, match=r"1 of another shape \(first: stem.conv1.weight \(64, 4, 7, 7\) instead of"):
        save_backbone(saved, state, card)
    assert load_backbone(saved)  # the refused saves left the file alone


def test_files_that_are_no_backbones(saved: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"weights not found: .*gone"):
        read_card(tmp_path / "gone")
    strange = tmp_path / "strange.safetensors"
    for content in (
        b"",
        b"short",
        struct.pack("<Q", 1 << 60) + b"{}",  # claims a header of an exbibyte
        struct.pack("<Q", 4) + b"\xff\xfe\xff\xfe",
        struct.pack("<Q", 2) + b"[]",
        struct.pack("<Q", 20000) + b"[" * 20000,  # deep nesting
    ):
        strange.write_bytes(content)
        with pytest.raises(UserError, match=r"not a safetensors file"):
            read_card(strange)
    save_file({"a": torch.zeros(1)}, strange)
    with pytest.raises(UserError, match=r"has no ScalePrior card"):
        read_card(strange)
    save_file(load_file(saved), strange, metadata={"scaleprior.card": json.dumps({"schema": 99})})
    with pytest.raises(UserError, match=r"strange.safetensors: card schema 99"):
        load_backbone(strange)
    strange.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(UserError, match=r"lies outside the file \[refused: damaged\]"):
        load_backbone(strange)
