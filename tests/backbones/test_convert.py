"""Converting writes the same file as reading and saving, and the numbers that were stored, whatever a file stores."""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scaleprior.backbones import (
    ReadOptions,
    RefusedFileError,
    ResNetSpec,
    build_resnet,
    convert_backbone,
    read_backbone,
    save_backbone,
    to_detectron2,
)
from scaleprior.errors import FailureError

SPEC = ResNetSpec(res2_out_channels=64, width_per_group=16)
FACTS = ReadOptions(pixel_mean=(1, 2, 3), pixel_std=(1, 1, 1), channel_order="RGB", stride_in_1x1=False, norm_eps=1e-5)


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    return build_resnet(SPEC).state_dict()


def detectron2(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[dict[str, Tensor], Path], None]:
    def write(state: dict[str, Tensor], path: Path) -> None:
        model = {name: change(tensor.numpy()) for name, tensor in to_detectron2(state).items()}
        path.write_bytes(pickle.dumps({"model": model}, protocol=4))

    return write


def torch_file(
    change: Callable[[Tensor], Tensor] = lambda tensor: tensor, *, old: bool = False
) -> Callable[[dict[str, Tensor], Path], None]:
    def write(state: dict[str, Tensor], path: Path) -> None:
        changed = {name: change(tensor) if tensor.ndim else tensor for name, tensor in state.items()}
        torch.save(changed, path, _use_new_zipfile_serialization=not old)

    return write


def turned(tensor: Tensor) -> Tensor:
    return tensor.permute(*range(tensor.ndim)[::-1]).contiguous().permute(*range(tensor.ndim)[::-1])


WRITERS = {
    "pickle": detectron2(lambda array: array),
    "pickle, column-major": detectron2(np.asfortranarray),
    "pickle, half": detectron2(lambda array: array.astype(np.float16)),
    "pickle, double": detectron2(lambda array: array.astype(np.float64)),
    "pickle, big-endian": detectron2(lambda array: array.astype(">f4")),
    "zip": torch_file(),
    "zip, turned": torch_file(turned),
    "zip, bfloat16": torch_file(lambda tensor: tensor.bfloat16()),
    "old": torch_file(old=True),
    "old, turned": torch_file(turned, old=True),
    "old, half": torch_file(lambda tensor: tensor.half(), old=True),
    "old, bfloat16": torch_file(lambda tensor: tensor.bfloat16(), old=True),
}
EXACT = {"pickle", "pickle, column-major", "pickle, double", "pickle, big-endian", "zip", "zip, turned", "old",
         "old, turned"}  # fmt: skip


@pytest.mark.parametrize("kind", WRITERS)
def test_the_same_file_as_reading_and_saving(kind: str, state: dict[str, Tensor], tmp_path: Path) -> None:
    WRITERS[kind](state, tmp_path / "source")
    reading = read_backbone(tmp_path / "source", FACTS)
    saved = save_backbone(tmp_path / "saved.safetensors", reading.tensors, reading.card)
    card, report = convert_backbone(tmp_path / "source", tmp_path / "made.safetensors", FACTS)
    assert (tmp_path / "made.safetensors").read_bytes() == (tmp_path / "saved.safetensors").read_bytes()
    assert card == saved
    assert report.to_dict() == reading.report.to_dict()
    made = load_file(tmp_path / "made.safetensors")
    for name, tensor in to_detectron2(state).items():
        expected = tensor if kind in EXACT else tensor.bfloat16() if "bfloat16" in kind else tensor.half()
        assert torch.equal(made[name], expected.float()), name
    for name, tensor in reading.tensors.items():
        assert tensor.data_ptr() % 4 == 0, name
        tensor.zero_()  # writable, and without effect on the file
    assert convert_backbone(tmp_path / "source", tmp_path / "again.safetensors", FACTS)[0] == card


def test_a_refused_or_failed_conversion_leaves_the_old_file(state: dict[str, Tensor], tmp_path: Path) -> None:
    out = tmp_path / "out.safetensors"
    out.write_bytes(b"old")
    broken = {name: tensor.clone() for name, tensor in state.items()}
    broken["layer4.2.conv2.weight"][-1, -1, -1, -1] = float("nan")
    broken["bn1.bias"][0] = float("-inf")
    torch.save(broken, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    said = r"2 tensors hold NaN or infinity \(res5.2.conv2.weight, stem.conv1.norm.bias\)"
    with pytest.raises(RefusedFileError, match=said):
        convert_backbone(tmp_path / "w.pth", out, FACTS)
    with pytest.raises(RefusedFileError, match=said):
        read_backbone(tmp_path / "w.pth", FACTS)
    assert out.read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "w.pth"]
    _, report = convert_backbone(tmp_path / "w.pth", out, replace(FACTS, allow_nonfinite=True))
    assert report.notes[-1].startswith("2 tensors hold NaN or infinity")
    (tmp_path / "plain").write_text("")
    with pytest.raises(FailureError, match=r"cannot write .*plain"):
        convert_backbone(
            tmp_path / "w.pth", tmp_path / "plain" / "out.safetensors", replace(FACTS, allow_nonfinite=True)
        )


def test_doubles_beyond_float32_are_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    large = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    large["bn1.weight"][0] = 1e300
    torch.save(large, tmp_path / "w.pth")
    with pytest.raises(RefusedFileError, match=r"1 tensors hold NaN or infinity \(stem.conv1.norm.weight\)"):
        convert_backbone(tmp_path / "w.pth", tmp_path / "out.safetensors", FACTS)


def test_a_cut_file_is_refused(state: dict[str, Tensor], tmp_path: Path) -> None:
    torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    data = (tmp_path / "w.pth").read_bytes()
    for end in (len(data) - 1, len(data) // 2, len(data) - struct.calcsize("<Q")):
        (tmp_path / "w.pth").write_bytes(data[:end])
        with pytest.raises(RefusedFileError, match=r"\[refused: (damaged|size)\]"):
            convert_backbone(tmp_path / "w.pth", tmp_path / "out.safetensors", FACTS)


def test_two_names_of_one_tensor_become_two_tensors(state: dict[str, Tensor], tmp_path: Path) -> None:
    """safetensors itself refuses to write them."""
    tied = {**state, "bn1.running_mean": state["bn1.bias"], "layer1.0.bn1.running_mean": state["layer1.0.bn1.bias"]}
    torch.save(tied, tmp_path / "w.pth")
    convert_backbone(tmp_path / "w.pth", tmp_path / "out.safetensors", FACTS)
    made = load_file(tmp_path / "out.safetensors")
    assert torch.equal(made["stem.conv1.norm.running_mean"], state["bn1.bias"])
    assert torch.equal(made["stem.conv1.norm.bias"], state["bn1.bias"])
    card = read_backbone(tmp_path / "w.pth", FACTS).card
    save_backbone(tmp_path / "again.safetensors", to_detectron2(tied), card)
    assert (tmp_path / "again.safetensors").read_bytes() == (tmp_path / "out.safetensors").read_bytes()
