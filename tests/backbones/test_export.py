"""Exports: what torchvision and stock Detectron2 make of them, and what they cannot hold."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
import torch
from torchvision.models import resnet50

from benchmarks.exactness import FORMATS, randomise
from scaleprior.backbones import (
    Card,
    ReadOptions,
    ResNetSpec,
    build_resnet,
    compare_backbones,
    config_lines,
    export_backbone,
    read_backbone,
    to_detectron2,
)
from scaleprior.errors import UserError

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def backbone(spec: ResNetSpec, seed: int = 0) -> tuple[dict, Card]:
    torch.manual_seed(seed)
    return to_detectron2(randomise(build_resnet(spec), seed).state_dict()), Card("b", spec, MEAN, STD, "RGB", images=9)


def test_torchvision_loads_its_export(tmp_path: Path) -> None:
    tensors, card = backbone(ResNetSpec())
    export_backbone(tensors, card, tmp_path / "w.pth")
    model = resnet50()
    missing, unexpected = model.load_state_dict(torch.load(tmp_path / "w.pth", weights_only=True), strict=False)
    assert (missing, unexpected) == (["fc.weight", "fc.bias"], [])
    assert torch.equal(model.layer3[5].bn2.running_var, tensors["res4.5.conv2.norm.running_var"])


def test_the_pickle_is_what_detectron2_asks_for_and_keeps_the_card(tmp_path: Path) -> None:
    tensors, card = backbone(ResNetSpec(depth=18))
    export_backbone(tensors, card, tmp_path / "w.pkl")
    content = pickle.loads((tmp_path / "w.pkl").read_bytes(), encoding="latin1")  # as Detectron2 reads it
    assert (content["__author__"], content["matching_heuristics"]) == ("ScalePrior", True)
    assert {type(v).__name__ for v in content["model"].values()} == {"ndarray"}
    again = read_backbone(tmp_path / "w.pkl")
    difference = compare_backbones(tensors, card, again.tensors, again.card)
    assert difference.same_tensors
    assert difference.card == {}
    assert list(tmp_path.iterdir()) == [tmp_path / "w.pkl"]


def test_config_lines_are_words_that_a_config_takes(tmp_path: Path) -> None:
    from scaleprior.backbones import check_contract
    from scaleprior.config import load_config

    _, card = backbone(ResNetSpec(depth=101, res2_out_channels=64, width_per_group=16))
    words = [word.strip("'") for line in config_lines(card, "w.pkl") for word in line.split(" ", 1)]
    assert words[:2] == ["MODEL.WEIGHTS", "w.pkl"]
    assert check_contract(load_config(None, words).cfg, card) == []


def test_what_cannot_be_held_is_refused(tmp_path: Path) -> None:
    for spec, what in (
        (ResNetSpec(stride_in_1x1=True, res2_out_channels=32, width_per_group=8), "strides in the 1x1"),
        (ResNetSpec(norm="GN"), "GroupNorm"),
    ):
        tensors, card = backbone(spec)
        with pytest.raises(UserError, match=rf"b has {what}.* torchvision's ResNet does not; export to Detectron2's"):
            export_backbone(tensors, card, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"cannot tell the format of .*w.onnx; end its name with .pkl \(detectron2\)"):
        export_backbone(tensors, card, tmp_path / "w.onnx")
    with pytest.raises(UserError, match=r"kind is 'torchvision' for .*w.pkl; name it \*.pth"):
        export_backbone(tensors, card, tmp_path / "w.pkl", kind="torchvision")
    assert list(tmp_path.iterdir()) == []


def test_differences_are_found(tmp_path: Path) -> None:
    tensors, card = backbone(ResNetSpec(depth=18))
    other = {**tensors, "stem.conv1.weight": tensors["stem.conv1.weight"] + 0.5}
    other["res2.0.conv1.weight"] = torch.zeros(1)
    del other["res5.1.conv2.weight"]
    found = compare_backbones(tensors, card, other, Card("c", card.arch, MEAN, STD, "BGR", images=9))
    assert found.card == {"name": ("b", "c"), "channel_order": ("RGB", "BGR")}
    assert found.only_a == ["res5.1.conv2.weight"]
    assert found.shapes == {"res2.0.conv1.weight": ((64, 64, 3, 3), (1,))}
    assert found.values["stem.conv1.weight"][0] == pytest.approx(0.5, abs=1e-6)
    assert found.equal == len(tensors) - 3
    json.dumps(found.to_dict())


def _detectron2_model(name: str, card: Card):
    detectron2 = pytest.importorskip("detectron2", reason="detectron2 does not import here")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    # Not through detectron2.model_zoo: that needs pkg_resources, which today's setuptools has dropped.
    package = Path(detectron2.__file__).parent
    folders = (package / "model_zoo" / "configs", package.parent / "configs")
    cfg = get_cfg()
    cfg.merge_from_file(str(next(f for f in folders if f.is_dir()) / "COCO-Detection" / f"{name}.yaml"))
    cfg.merge_from_list([w.strip("'") for line in config_lines(card) for w in line.split(" ", 1)])
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def _bare(name: str) -> str:
    return name.removeprefix("backbone.").removeprefix("bottom_up.").removeprefix("roi_heads.")


@pytest.mark.detectron2
@pytest.mark.parametrize("depth", [50, 152])
@pytest.mark.parametrize("name", ["faster_rcnn_R_50_C4_1x", "faster_rcnn_R_50_FPN_1x"])
def test_stock_detectron2_fills_every_tensor(name: str, depth: int, tmp_path: Path) -> None:
    tensors, card = backbone(ResNetSpec(depth=depth))
    model = _detectron2_model(name, card)
    from detectron2.checkpoint import DetectionCheckpointer

    export_backbone(tensors, card, tmp_path / "w.pkl")
    DetectionCheckpointer(model).load(str(tmp_path / "w.pkl"))
    state = {_bare(k): v for k, v in model.state_dict().items()}
    assert sum(torch.equal(state[n], t) for n, t in tensors.items()) == len(tensors)
    assert len(tensors) == {50: 265, 152: 775}[depth]


@pytest.mark.detectron2
@pytest.mark.parametrize("name", ["faster_rcnn_R_50_C4_1x", "faster_rcnn_R_50_FPN_1x"])
def test_msra_is_read_as_detectron2_reads_it(name: str, tmp_path: Path) -> None:
    pytest.importorskip("detectron2", reason="detectron2 does not import here")
    path, _ = FORMATS["MSRA .pkl (Caffe2)"][1](50, tmp_path)
    reading = read_backbone(path)
    model = _detectron2_model(name, reading.card)
    from detectron2.checkpoint import DetectionCheckpointer

    DetectionCheckpointer(model).load(str(path))
    state = {_bare(k): v for k, v in model.state_dict().items()}
    loaded = [n for n in reading.tensors if torch.equal(state[n], reading.tensors[n])]
    assert sorted(loaded) == sorted(reading.tensors)  # statistics too: Detectron2's FrozenBN starts from these


@pytest.mark.detectron2
def test_a_detector_that_detectron2_saved_is_read_back(tmp_path: Path) -> None:
    tensors, card = backbone(ResNetSpec())
    model = _detectron2_model("faster_rcnn_R_50_C4_1x", card)
    from detectron2.checkpoint import DetectionCheckpointer

    export_backbone(tensors, card, tmp_path / "w.pkl")
    checkpointer = DetectionCheckpointer(model, str(tmp_path))
    checkpointer.load(str(tmp_path / "w.pkl"))
    checkpointer.save("model_final", iteration=3)
    options = ReadOptions(pixel_mean=MEAN, pixel_std=STD, channel_order="RGB", stride_in_1x1=False, norm_eps=1e-5)
    again = read_backbone(tmp_path / "model_final.pth", options)
    assert compare_backbones(tensors, card, again.tensors, card).same_tensors
    assert "the file is a whole detector; its backbone was cut out" in again.report.notes
