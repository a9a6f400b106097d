"""The record of a trained detector, and its words in the files of either engine."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.provenance import CreatedBy

MADE = CreatedBy(version="0.1", commit="c")
CARD = Card(
    "b", ResNetSpec(50), (123.5, 116.5, 103.5), (58.5, 57.0, 57.5), "RGB", images=10, labels=8, epochs=2.5, steps=7,
    recipe={"SEED": 1}, seed=1, created_by=MADE, tensors_sha256="ff",
)  # fmt: skip
RECORD = TrainedDetector(
    ("cat", "dog"), (1, 18), {"INPUT.FORMAT": "RGB", "MODEL.RPN.IN_FEATURES": ["res4"]}, CARD, 3, 9, "abcd", MADE
)

# As files have held it since before there was a record.
_CARD: dict[str, Any] = {
    "schema": 1, "name": "b",
    "arch": {
        "depth": 50, "norm": "BN", "stem_out_channels": 64, "res2_out_channels": 256, "num_groups": 1,
        "width_per_group": 64, "stride_in_1x1": False,
    },
    "pixel_mean": [123.5, 116.5, 103.5],
    "pixel_std": [58.5, 57.0, 57.5], "channel_order": "RGB", "norm_eps": 1e-05, "input_size": None,
    "corpus": {"name": "unknown", "fingerprint": "unknown"}, "images": 10, "labels": 8, "noise": None, "epochs": 2.5,
    "steps": 7, "recipe": {"SEED": 1}, "seed": 1, "parent": None, "licence": "unknown", "source": "unknown",
    "created_by": {"version": "0.1", "commit": "c"}, "tensors_sha256": "ff", "stride_in_1x1": False, "norm": "BN",
}  # fmt: skip
_CONFIG: dict[str, Any] = {"INPUT.FORMAT": "RGB", "MODEL.RPN.IN_FEATURES": ["res4"]}
SAFETENSORS: dict[str, Any] = {
    "schema": 2, "class_names": ["cat", "dog"], "category_ids": [1, 18], "config": _CONFIG, "card": _CARD, "seed": 3,
    "max_iter": 9, "fingerprint": "abcd", "created_by": {"version": "0.1", "commit": "c"},
}  # fmt: skip
_WRONG: list[tuple[str, Any]] = [
    ("class_names", 3), ("class_names", ["a", None]), ("category_ids", "12"), ("category_ids", [1.5]), ("config", [1]),
    ("seed", "3"), ("seed", True), ("max_iter", None), ("fingerprint", 3), ("created_by", {}), ("tuning", []),
    ("created_by", {"version": 3, "commit": "c"}), ("start", "x"), ("extended", 3), ("config", "x" * 100_000),
]  # fmt: skip
PTH: dict[str, Any] = {
    "fingerprint": "abcd", "seed": 3, "max_iter": 9, "created_by": {"version": "0.1", "commit": "c"}, "card": _CARD,
    "config": _CONFIG, "classes": ["cat", "dog"],
}  # fmt: skip


@pytest.mark.parametrize(
    ("words", "record"), [(SAFETENSORS, RECORD), (PTH, replace(RECORD, category_ids=None))], ids=["safetensors", "pth"]
)
def test_files_of_before_are_read_and_written_in_the_same_words(words: dict[str, Any], record: TrainedDetector) -> None:
    assert TrainedDetector.from_dict(words, where="m") == record
    written = json.loads(json.dumps(record.to_dict()))
    assert written == {key: value for key, value in words.items() if key != "schema"}  # the schema is of the file
    assert TrainedDetector.from_dict(written, where="m") == record


def test_from_scratch_there_is_no_card() -> None:
    record = replace(RECORD, card=None)
    assert record.to_dict()["card"] is None
    assert TrainedDetector.from_dict(record.to_dict(), where="m") == record


def test_what_identifies_the_run_in_a_comparison_is_kept() -> None:
    record = replace(RECORD, tuning={"batch_size": 16, "settings": "0a"})
    written = json.loads(json.dumps(record.to_dict()))
    assert written["tuning"] == {"batch_size": 16, "settings": "0a"}
    assert TrainedDetector.from_dict(written, where="m") == record


def test_what_is_damaged_is_named() -> None:
    for key in ("class_names", "config", "card", "seed", "max_iter", "fingerprint", "created_by"):
        words = {k: v for k, v in SAFETENSORS.items() if k != key}
        with pytest.raises(UserError, match=rf"model m\.pth cannot be read: '{key}' is missing; the file is damaged"):
            TrainedDetector.from_dict(words, where="m.pth")
    for key, value in _WRONG:
        with pytest.raises(UserError, match=rf"^model m\.pth cannot be read: {key} is .{{1,140}}; the file is damaged"):
            TrainedDetector.from_dict({**SAFETENSORS, key: value}, where="m.pth")
    with pytest.raises(UserError, match=r"^model m\.pth cannot be read: it says \[3\] of itself"):
        TrainedDetector.from_dict([3], where="m.pth")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"m\.pth: card has unknown fields \[\] and lacks \['arch'"):
        TrainedDetector.from_dict({**SAFETENSORS, "card": {"schema": 1}}, where="m.pth")
