"""Photographs stored turned, with the tag that says so, are to the detector what they are upright."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from scaleprior.corpus.images.orientation import stored
from scaleprior.detect.data.coco import DetectionSet, load_coco
from scaleprior.detect.data.loader import TrainLoader
from scaleprior.detect.faster_rcnn.evaluating import evaluate_set
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.predict import predict
from scaleprior.errors import UserError
from scaleprior.training.processes import ProcessGroup
from tests.corpus.images.files import exif, save
from tests.detect.conftest import data_overrides, make_coco, tiny_config


def _sets(tmp_path: Path) -> tuple[DetectionSet, DetectionSet]:
    """Eight upright images of 48 x 64, and the same stored by each of the eight orientations."""

    def low(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["height"] = 48

    sets = []
    for name in ("upright", "stored"):
        path, root = make_coco(tmp_path / name, 8, change=low)
        for number, file in enumerate(sorted(root.iterdir())):
            pixels = np.asarray(Image.open(io.BytesIO(file.read_bytes())).convert("RGB"))[:48]
            turned = stored(pixels, number + 1) if name == "stored" else pixels
            file.write_bytes(save(turned, "PNG", exif=exif(number + 1 if name == "stored" else 1)))
        sets.append(load_coco(path, root, name=name))
    return sets[0], sets[1]


@pytest.mark.parametrize("cache", ["0", "64"])
def test_training_and_evaluation_see_the_same(tmp_path: Path, cache: str) -> None:
    upright, turned = _sets(tmp_path)
    path = tmp_path / "upright"
    overrides = [*data_overrides(path / "instances.json", path / "images"), "SCALEPRIOR.IMAGE_CACHE_MB", cache]
    cfg = tiny_config(
        "FPN", [*overrides, "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    ).cfg
    for one, other in zip(*(TrainLoader.from_config(cfg, [data]).batches(0, 8) for data in (upright, turned))):
        assert one.ids == other.ids
        for field in ("images", "boxes", "classes"):
            assert all(torch.equal(a, b) for a, b in zip(getattr(one, field), getattr(other, field), strict=True))
    torch.manual_seed(0)
    model = build_detector(cfg)
    one, other = (predict(model, data, order="BGR", short=64, longest=96).rows(data) for data in (upright, turned))
    assert len(one) > 8
    assert one == other


def test_strictness_reaches_the_evaluation(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, 2)
    (root / "001.png").write_bytes((root / "001.png").read_bytes() + b"x")
    data, alone = load_coco(path, root, name="tiny"), ProcessGroup(0, 1, torch.device("cpu"))
    words = [*data_overrides(path, root), "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    cfg = tiny_config("FPN", words).cfg
    assert evaluate_set(cfg, build_detector(cfg), data, tmp_path, alone).images == 2
    cfg = tiny_config("FPN", [*words, "SCALEPRIOR.STRICT_IMAGES", "True"]).cfg
    with pytest.raises(UserError, match=r"001\.png: PNG with bytes after the end"):
        evaluate_set(cfg, build_detector(cfg), data, tmp_path, alone)
