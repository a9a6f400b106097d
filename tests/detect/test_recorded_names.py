"""Our names and shapes against a record of Detectron2's, so that the contract is tested where Detectron2 is not.

``detectron2_detectors.json`` holds name -> shape of every tensor of Detectron2's Faster R-CNN with 80 classes, for
R-50, R-101 and R-152, C4 and FPN; the last test compares the record with the real one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from scaleprior.backbones import ResNetSpec
from scaleprior.backbones.trunks.resnet.names import names_and_shapes
from scaleprior.config import load_config
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names

RECORD: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "detectron2_detectors.json").read_text())


def config_of(key: str) -> str:
    _, depth, kind = key.split("-")
    return f"COCO-Detection/faster_rcnn_R_{depth}_{kind}.yaml"


def shape(tensor: torch.Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def test_the_record_is_whole() -> None:
    assert set(RECORD) == {f"R-{depth}-{kind}" for depth in (50, 101, 152) for kind in ("C4", "FPN")}
    assert len(RECORD["R-50-C4"]) == 275
    assert len(RECORD["R-50-FPN"]) == 295


@pytest.mark.parametrize("key", RECORD)
def test_a_converted_backbone_has_a_place_for_every_tensor(key: str) -> None:
    """C4: res5 in the heads, the rest under ``backbone.``; FPN: all under ``backbone.bottom_up.``."""
    names = names_and_shapes(ResNetSpec(depth=int(key.split("-")[1])))
    c4 = key.endswith("C4")
    place = {n: ("roi_heads." if n.startswith("res5") else "backbone.") if c4 else "backbone.bottom_up." for n in names}
    for name, size in names.items():
        assert RECORD[key][place[name] + name] == "x".join(map(str, size))
    trunk = {n for n in RECORD[key] if ".stem." in n or n.split("backbone.")[-1].split("bottom_up.")[-1][:3] == "res"}
    trunk |= {n for n in RECORD[key] if n.startswith("roi_heads.res5")}
    assert trunk == {place[name] + name for name in names}


@pytest.mark.parametrize("key", RECORD)
def test_the_torchvision_engines_detector_speaks_detectron2s_names(key: str) -> None:
    with torch.device("meta"):
        model = build_detector(load_config(config_of(key), ["MODEL.DEVICE", "cpu"]).cfg)
    state, names = model.state_dict(), model_names(model)
    assert {theirs: shape(state[ours]) for ours, theirs in names.items()} == RECORD[key]


@pytest.mark.detectron2
@pytest.mark.parametrize("key", ["R-50-C4", "R-50-FPN", "R-152-C4", "R-152-FPN"])
def test_the_record_is_detectron2s(key: str) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.modeling import build_model

    from scaleprior.d2.plan import default_config

    model = build_model(load_config(config_of(key), ["MODEL.DEVICE", "cpu"], defaults=default_config()).cfg)
    state = {n: shape(t) for n, t in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    assert state == RECORD[key]
