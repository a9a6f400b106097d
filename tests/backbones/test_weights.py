"""Backbone files: round trip, what is refused, and that reading a card needs no torch."""

from __future__ import annotations

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
    with pytest.raises(UserError, match=r"cannot be read.*damaged"):
        load_backbone(strange)
