"""Files of every kind, spliced, cut and edited at random: each is read or ends in one line, with bounded work.

Beside :mod:`tests.backbones.readers.test_fuzz`, which listens for what runs: more cases, values of JSON that are
replaced as a whole, pieces of other files. Seeds are fixed; what they found stands in ``test_hostile.py``.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save as save_safetensors

from scaleprior.backbones import Card, ResNetSpec, build_resnet, save_backbone, to_detectron2
from scaleprior.backbones.addresses import address_of, path_of
from scaleprior.backbones.readers import Limits
from scaleprior.errors import UserError
from tests.backbones.readers.hostile.oracle import ended
from tests.backbones.readers.test_fuzz import WRITERS, change, changed_member
from tests.backbones.readers.test_hostile import work_of

CASES, FEW = 100, 10  # those of whole trunks take 0.1 s each
LIMITS = Limits(keys=5000)
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1.5, 1 << 62, 1 << 64, 10**4200, float("nan"), float("inf"), "", "a", "\0", "\ud800", "\x1b[31m",
    "../a", "/dev/zero", "x" * 100_000, [], [[]], [1] * 9, [-1, 2], {}, {"a": {}}, {"": None},
)  # fmt: skip
"""Values that stand where others do."""


def stored() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **{"a/kernel": np.arange(9.0), "b": np.ones((2, 3), ">f4")})
    return buffer.getvalue()


def narrow() -> dict[str, torch.Tensor]:
    return to_detectron2(build_resnet(ResNetSpec(res2_out_channels=8, width_per_group=2)).state_dict())


def canonical(folder: Path) -> bytes:
    """A file of our own."""
    arch = ResNetSpec(res2_out_channels=8, width_per_group=2)
    card = Card("a", arch, (1.0, 2.0, 3.0), (1.0, 1.0, 1.0), "RGB", images=3, recipe={"a": [1, {"b": 2}]})
    save_backbone(folder / "canonical", narrow(), card)
    return (folder / "canonical").read_bytes()


def index() -> bytes:
    return json.dumps({"metadata": {"total_size": 40}, "weight_map": {"a": "shard", "b": "shard"}}).encode()


def edited(value: Any, rng: random.Random) -> Any:
    """The value with one of those in it, or with one of its names, replaced or taken away."""
    if isinstance(value, (dict, list)) and value and rng.random() < 0.85:
        at = rng.choice(list(value) if isinstance(value, dict) else range(len(value)))
        made: Any = dict(value) if isinstance(value, dict) else list(value)
        way = rng.random()
        if way < 0.7:
            made[at] = edited(value[at], rng)
        elif way < 0.85:
            del made[at]
        elif isinstance(made, dict):
            made[rng.choice(("", "a", "../a", "__metadata__", "x" * 300, "\0"))] = made.pop(at)
        return made
    return rng.choice(ODD)


def edited_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a value of its header replaced, or one of the card in it."""
    length = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    card = header.get("__metadata__", {}).get("scaleprior.card")
    if card is not None and rng.random() < 0.8:
        header["__metadata__"]["scaleprior.card"] = json.dumps(edited(json.loads(card), rng))
    else:
        header = edited(header, rng)
    raw = json.dumps(header).encode()
    return struct.pack("<Q", len(raw)) + raw + data[8 + length :]


def spliced(data: bytes, other: bytes, rng: random.Random) -> bytes:
    """The beginning of one and the end of the other."""
    return data[: rng.randrange(len(data))] + other[rng.randrange(len(other)) :]


def changed(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    way = rng.random()
    if way < 0.15:
        return data[: rng.randrange(len(data))]
    if way < 0.3:
        return spliced(data, rng.choice(others), rng)
    if data[:2] == b"PK" and way < 0.7:
        return changed_member(data, rng)
    if data[8:9] == b"{" and way < 0.9:
        return edited_header(data, rng)
    if data[:1] == b"{" and way < 0.9:
        return json.dumps(edited(json.loads(data), rng)).encode()
    return change(data, rng)


MORE: dict[str, Callable[[], bytes]] = {**WRITERS, "stored npz": stored, "index": index}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [*MORE, "canonical"])
def test_changed_files_are_read_or_end_in_one_line(kind: str, tmp_path: Path) -> None:
    data = canonical(tmp_path) if kind == "canonical" else MORE[kind]()
    others = [data, *(write() for write in (index, stored, WRITERS["pickle 2"]))]
    (tmp_path / "shard").write_bytes(save_safetensors({"a": torch.ones(2, 3), "b": torch.arange(4)}))
    rng, path = random.Random(zlib.crc32(kind.encode())), tmp_path / "weights"
    ends = set()
    for _ in range(FEW if kind == "canonical" else CASES):
        path.write_bytes(changed(data, others, rng))
        with work_of(path.stat().st_size):
            ends.add(ended(path, limits=LIMITS))
    assert len(ends) > 3


CONFIG = """
model = dict(backbone=dict(type='ResNet', style='caffe', norm_cfg=dict(type='BN', eps=1e-5), strides=(1, 2, 2, 2)),
             data_preprocessor=dict(mean=[1.0, 2, 3], std=[1, 1, 1], bgr_to_rgb=False))
"""
TIMM = "model mean std crop_pct interpolation bn_eps reprob remode sched model_ema num_classes img_size model_kwargs"
SETTINGS: dict[str, Any] = {
    "args": {**dict.fromkeys(TIMM.split()), "model": "mine", "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1]},
    "hyper_parameters": {"arch": "mine", "mean": [1, 2, 3], "std": [1, 1, 1], "normalize": {"mean": [0, 0, 0]}},
    "meta": {"cfg": CONFIG},
    "arch": "mine",
}
BESIDE: dict[str, Any] = {
    "config.json": {
        "architecture": "mine", "model_type": "resnet", "depths": [3, 4, 6, 3], "model_args": {"output_stride": 32},
        "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "input_size": [3, 2, 2], "tag": "a",
                           "license": "b"},
    },
    "preprocessor_config.json": {
        "image_processor_type": "a", "rescale_factor": 0.1, "image_mean": [1, 2, 3], "image_std": [1, 1, 1],
    },
    "open_clip_config.json": {"preprocess_cfg": {"mean": [1, 2, 3], "std": [1, 1, 1]}},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_settings_beside_a_trunk_of_any_values_are_read_or_end_in_one_line(tmp_path: Path) -> None:
    state = build_resnet(ResNetSpec(res2_out_channels=8, width_per_group=2)).state_dict()
    rng, path = random.Random(3), tmp_path / "weights"
    ends = set()
    for _ in range(FEW):
        tree, beside = SETTINGS, BESIDE
        for _ in range(3):
            tree, beside = edited(tree, rng), edited(beside, rng)
        tree = {**tree, "args": argparse.Namespace(a=1)} if isinstance(tree, dict) and rng.random() < 0.1 else tree
        torch.save({"state_dict": state, **(tree if isinstance(tree, dict) else {"args": tree})}, path)
        for name in BESIDE:
            value = beside.get(name) if isinstance(beside, dict) else beside
            (tmp_path / name).write_text(json.dumps(value if rng.random() < 0.5 else None))
        with work_of(path.stat().st_size):
            ends.add(ended(path, limits=LIMITS))
    assert ends


PIECES = (
    "http", "https", "hf", "hf-hub", "s3", "catalog", "modelzoo", "detectron2", "file", "scaleprior", "timm", ":", "/",
    "//", "[", "]", "@", "%", "%00", "\0", "~", "..", "a", " ", "'", '"', "$", "\ud800", "\x1b", "?", "#", "x" * 5000,
    "huggingface.co", "github.com", "ImageNetPretrained",
)  # fmt: skip


@pytest.mark.slow
def test_addresses_of_any_letters_are_addresses_paths_or_refused() -> None:
    rng = random.Random(0)
    said = []
    for _ in range(20_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randrange(1, 9)))
        try:
            address_of(text)
            path_of(text)
        except UserError as e:
            said.append(str(e))
    assert said
    assert [line for line in said if not line.isprintable()] == []
