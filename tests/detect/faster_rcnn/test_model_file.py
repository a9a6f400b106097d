"""Backbones into detectors and detectors into files: what matched, what did not, and what is refused."""

from __future__ import annotations

import contextlib
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.resnet.build import build_resnet
from scaleprior.backbones.trunks.resnet.names import to_detectron2
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.backbones.weights import save_backbone
from scaleprior.detect import get_engine
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.model_file import (
    fill_backbone,
    fixed_values,
    is_model_file,
    load_model,
    model_names,
    read_trained,
    save_model,
)
from scaleprior.detect.plan import follow_training
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from tests.detect.conftest import tiny_config

_SPEC = ResNetSpec(depth=50, norm="BN", res2_out_channels=16, width_per_group=4)


def _backbone() -> dict[str, torch.Tensor]:
    """Fresh weights in Detectron2's names; norms with numbers that can be told apart."""
    torch.manual_seed(5)
    state = to_detectron2(build_resnet(_SPEC, zero_init_last=False).state_dict())
    return {name: t + 0.1 * torch.rand_like(t) if ".norm." in name else t for name, t in state.items()}


def save_tiny_backbone(path: Path, **changes: object) -> Path:
    """A canonical file for the tiny configs, with fresh weights."""
    card = Card(
        **{
            **{"name": "tiny", "arch": _SPEC, "channel_order": "RGB"},
            **{"pixel_mean": (123.675, 116.28, 103.53), "pixel_std": (58.395, 57.12, 57.375)},
            **changes,
        }
    )
    save_backbone(path, _backbone(), card)
    return path


def _model(kind: str) -> Detector:
    return build_detector(tiny_config(kind).cfg)


@pytest.mark.parametrize(("kind", "prefix"), [("FPN", "backbone.bottom_up."), ("C4", "backbone.")])
def test_every_tensor_of_the_file_lands_in_its_place(kind: str, prefix: str) -> None:
    model, tensors = _model(kind), _backbone()
    report = fill_backbone(model, tensors, "file")
    assert len(report.matched) == len(tensors) == 265
    assert report.unexpected == ()
    assert not [name for name in report.missing if ".res" in name or "stem" in name]
    assert {"proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.cls_score.bias"} <= set(report.missing)
    if kind == "C4":
        assert "roi_heads.res5.2.conv3.weight" in report.matched
    state = {theirs: model.state_dict()[ours] for ours, theirs in model_names(model).items()}
    for name, tensor in tensors.items():
        place = "roi_heads." if kind == "C4" and name.startswith("res5") else prefix
        assert torch.equal(state[place + name], tensor)
    assert str(report).startswith("265 tensors matched, ")


def test_stages_without_a_place_are_reported() -> None:
    narrow = ["MODEL.RESNETS.OUT_FEATURES", "['res2', 'res3']", "MODEL.FPN.IN_FEATURES", "['res2', 'res3']"]
    maps = ["MODEL.RPN.IN_FEATURES", "['p2', 'p3', 'p4']", "MODEL.ROI_HEADS.IN_FEATURES", "['p2', 'p3']"]
    anchors = ["MODEL.ANCHOR_GENERATOR.SIZES", "[[8, 16]]"]
    model = build_detector(tiny_config("FPN", [*narrow, *maps, *anchors]).cfg)
    report = fill_backbone(model, _backbone(), "file")
    assert {name.split(".")[0] for name in report.unexpected} == {"res4", "res5"}


def test_what_does_not_fit_is_an_error_and_changes_nothing() -> None:
    model, tensors = _model("FPN"), _backbone()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(UserError, match=r"none of the 265 tensors of file fits the detector \(it has module\."):
        fill_backbone(model, {f"module.{name}": tensor for name, tensor in tensors.items()}, "file")
    partly = {name: tensor for name, tensor in tensors.items() if not name.startswith("res4.5")}
    with pytest.raises(
        UserError, match=r"file lacks 15 of the trunk's 265 tensors, first: backbone\.bottom_up\.res4\.5"
    ):
        fill_backbone(model, partly, "file")
    other = {**tensors, "stem.conv1.weight": torch.zeros(32, 3, 7, 7)}
    with pytest.raises(UserError, match=r"stem\.conv1\.weight \(32, 3, 7, 7\) instead of \(64, 3, 7, 7\)"):
        fill_backbone(model, other, "file")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def _train(tmp_path: Path, coco_overrides: list[str], weights: Path | None, *overrides: str, kind: str = "FPN") -> Path:
    loaded = tiny_config(kind, [*coco_overrides, "SOLVER.MAX_ITER", "1", *overrides])
    return get_engine("torchvision").train(loaded, weights, tmp_path / "run")


def test_the_card_is_applied_and_contradictions_are_refused(tmp_path: Path, coco_overrides: list[str]) -> None:
    bgr = save_tiny_backbone(tmp_path / "bgr.safetensors", channel_order="BGR")
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'RGB'; use INPUT\.FORMAT BGR"):
        _train(tmp_path, coco_overrides, bgr)
    with pytest.raises(UserError, match=r"MODEL\.RESNETS\.DEPTH is 101; use MODEL\.RESNETS\.DEPTH 50"):
        _train(
            *(tmp_path, coco_overrides, save_tiny_backbone(tmp_path / "rgb.safetensors")),
            *("MODEL.RESNETS.DEPTH", "101"),
        )
    assert not (tmp_path / "run").exists()
    model = _train(tmp_path, coco_overrides, bgr, "INPUT.FORMAT", "BGR")
    trained = read_trained(model)
    assert trained.config["INPUT.FORMAT"] == "BGR"
    assert trained.card is not None
    assert trained.card.name == "tiny"
    assert trained.class_names == ("block", "square")


def test_frozen_stages_come_out_as_they_went_in(tmp_path: Path, coco_overrides: list[str]) -> None:
    from safetensors.torch import load_file

    frozen = ["MODEL.BACKBONE.FREEZE_AT", "2", "MODEL.RESNETS.NORM", "FrozenBN"]
    model = _train(tmp_path, coco_overrides, save_tiny_backbone(tmp_path / "w.safetensors"), *frozen, kind="C4")
    trained, tensors = load_file(model), _backbone()
    assert torch.equal(trained["backbone.res2.0.conv1.weight"], tensors["res2.0.conv1.weight"])
    assert not torch.equal(trained["backbone.res3.0.conv1.weight"], tensors["res3.0.conv1.weight"])
    assert not torch.equal(trained["roi_heads.res5.0.conv1.weight"], tensors["res5.0.conv1.weight"])


def test_the_wrong_kind_of_file_is_named(tmp_path: Path, coco_overrides: list[str]) -> None:
    backbone = save_tiny_backbone(tmp_path / "w.safetensors")
    model = _train(tmp_path, coco_overrides, backbone)
    engine, loaded = get_engine("torchvision"), tiny_config("FPN", coco_overrides)
    with pytest.raises(UserError, match=r"w\.safetensors is not a trained detector \(perhaps a backbone\)"):
        engine.evaluate(loaded, backbone, tmp_path / "e")
    with pytest.raises(UserError, match=r"model\.safetensors is a trained detector, not a backbone"):
        engine.train(loaded, model, tmp_path / "e")
    (tmp_path / "model_final.pth").write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match=r"model_final\.pth is a file of Detectron2's.*engine='detectron2'"):
        engine.evaluate(loaded, tmp_path / "model_final.pth", tmp_path / "e")
    with pytest.raises(UserError, match="model not found"):
        engine.evaluate(loaded, tmp_path / "none", tmp_path / "e")
    with pytest.raises(UserError, match="weights not found"):
        engine.train(loaded, tmp_path / "none.safetensors", tmp_path / "e")
    with pytest.raises(UserError, match=r"contradicts the trained model: INPUT\.FORMAT is 'BGR'"):
        engine.evaluate(tiny_config("FPN", [*coco_overrides, "INPUT.FORMAT", "BGR"]), model, tmp_path / "e")
    assert not (tmp_path / "e").exists()
    with pytest.raises(UserError, match="does not fit the config"):
        load_model(model, _model("C4"))


def test_classes_follow_the_data_unless_set_otherwise(tmp_path: Path, coco_overrides: list[str]) -> None:
    with pytest.raises(UserError, match=r"NUM_CLASSES is 80 .* has 2 categories; use MODEL\.ROI_HEADS\.NUM_CLASSES 2"):
        _train(tmp_path, coco_overrides, None, "MODEL.ROI_HEADS.NUM_CLASSES", "80")
    assert read_trained(_train(tmp_path, coco_overrides, None)).config["MODEL.ROI_HEADS.NUM_CLASSES"] == 2


MASKS = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8"]


@pytest.mark.parametrize("kind", ["C4", "FPN"])
def test_a_mask_rcnn_is_saved_under_detectron2s_names_and_loaded_to_the_bit(tmp_path: Path, kind: str) -> None:
    """``roi_heads.mask_head.mask_fcn1``, ``deconv``, ``predictor``, with norms as Detectron2 calls them."""
    norms = ["MODEL.ROI_MASK_HEAD.NUM_CONV", "1", "MODEL.ROI_MASK_HEAD.NORM", "BN"]
    first, second = (build_detector(tiny_config(kind, [*MASKS, *norms]).cfg) for _ in range(2))
    names = {name.removeprefix("roi_heads.mask_head.") for name in model_names(first).values() if ".mask_" in name}
    parts = {f"mask_fcn1.norm.{part}" for part in ("weight", "bias", "running_mean", "running_var")}
    ends = {f"{layer}.{part}" for layer in ("deconv", "predictor") for part in ("weight", "bias")}
    assert names == {"mask_fcn1.weight"} | parts | ends
    plain = build_detector(tiny_config(kind).cfg)
    assert {n for n in model_names(first).values() if ".mask_head." not in n} == set(model_names(plain).values())
    file = tmp_path / "m.safetensors"
    save_model(file, first, _trained({}))
    load_model(file, second)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))
    with pytest.raises(
        UserError, match=r"does not fit the config: 9 tensors differ, first: roi_heads.mask_head.deconv"
    ):
        load_model(file, plain)


def test_a_file_says_whether_it_has_masks_and_one_from_before_has_none(tmp_path: Path) -> None:
    plain, masks = (tiny_config("FPN", words).cfg for words in ([], MASKS))
    inert = tiny_config("FPN", ["MODEL.ROI_MASK_HEAD.NUM_CONV", "4"])  # as Detectron2's base configs have it
    file = tmp_path / "m.safetensors"
    for cfg, expected in ((masks, True), (plain, False), (inert.cfg, False)):
        save_model(file, build_detector(cfg), _trained(fixed_values(cfg)))
        config = read_trained(file).config
        assert config["MODEL.MASK_ON"] == expected
        assert config.get("MODEL.ROI_MASK_HEAD.CONV_DIM") == (8 if expected else None)
        assert expected == follow_training(tiny_config("FPN"), config, fixed_values(plain)).MODEL.MASK_ON
    # what a mask head would be like is no contradiction of a detector that has none
    assert not follow_training(inert, config, fixed_values(inert.cfg)).MODEL.MASK_ON
    before = {name: value for name, value in fixed_values(plain).items() if "MASK" not in name}
    save_model(file, build_detector(plain), _trained(before))
    config = read_trained(file).config
    assert not follow_training(inert, config, fixed_values(inert.cfg)).MODEL.MASK_ON
    loaded = tiny_config("FPN", MASKS)
    with pytest.raises(UserError, match=r"contradicts the trained model: MODEL.MASK_ON is True; use MODEL.MASK_ON 'F"):
        follow_training(loaded, config, fixed_values(loaded.cfg))
    config = {**config, "MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 2}
    with pytest.raises(UserError, match=r"MODEL.ROI_MASK_HEAD.NUM_CONV is 4; use MODEL.ROI_MASK_HEAD.NUM_CONV '2'"):
        follow_training(inert, config, fixed_values(inert.cfg))


def _trained(config: dict[str, Any]) -> TrainedDetector:
    return TrainedDetector(("a",), (1,), config, None, 0, 1, "f", created_by())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[" * 5000, "nested too deeply"),
        ('{"schema": 1' + "0" * 5000 + "}", "4300 digits"),
        ("[]", "another version"),
        ("nothing", "is not JSON: line 1"),
        ('{"schema": 2}', "'class_names' is missing|'classes' is missing"),
    ],
)
def test_a_header_that_nobody_wrote_is_refused_in_one_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.zeros(1)}, path, {"scaleprior.detector": text})
    assert is_model_file(path)
    with pytest.raises(UserError, match=words) as caught:
        read_trained(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 600


def test_a_model_is_a_regular_file(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    os.mkfifo(path)
    assert not is_model_file(path)
    with pytest.raises(UserError, match=r"model .* is a pipe; give a file"):
        read_trained(path)


@pytest.mark.slow
def test_model_files_of_random_bytes_are_read_or_refused(tmp_path: Path) -> None:
    """1,000 mutations of a header, seeded."""
    path, draw = tmp_path / "model.safetensors", random.Random(17)
    said = {"schema": 2, "class_names": ["a"], "category_ids": [1], "config": {"SEED": 1}, "card": None, "seed": 3}
    said |= {"max_iter": 9, "fingerprint": "f", "created_by": {"version": "1", "commit": "c"}, "extended": []}
    save_file({"a": torch.zeros(1)}, path, {"scaleprior.detector": json.dumps(said)})
    good = path.read_bytes()
    for _ in range(1000):
        content = bytearray(good)
        for _ in range(draw.randrange(1, 4)):
            at = draw.randrange(len(content))
            content[at : at + draw.randrange(2)] = draw.choice(
                [b"", b"[", b"9", b"null", b'\\"', bytes([draw.randrange(256)])]
            )
        path.write_bytes(content)
        is_model_file(path)
        with contextlib.suppress(UserError):
            read_trained(path)
