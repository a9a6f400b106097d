"""Masks from the JSON to the results: what is refused beforehand, what a run leaves, and its AP."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from scaleprior.config import LoadedConfig, load_config
from scaleprior.detect import get_engine, score_detections
from scaleprior.detect.check import check_detection
from scaleprior.detect.data.segmentation import RunLengths
from scaleprior.errors import UserError
from scaleprior.parsing import read_json
from tests.detect.conftest import TINY_FPN, add_outlines, data_overrides, make_coco, tiny_config
from tests.detect.test_evaluate import pycocotools, same_ap

MASKS = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"]


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


def _mixed(data: dict[str, Any]) -> None:
    """Polygons, an object with run lengths, a crowd, and an image without any."""
    add_outlines(data)
    for annotation, x in ((data["annotations"][1], 8), (data["annotations"][2], 30)):
        annotation["segmentation"] = {"counts": [64 * x, 64 * 12, 64 * (64 - x - 12)], "size": [64, 64]}
        annotation.update(bbox=[x, 0, 12, 64], area=64 * 12)
    data["annotations"][2]["iscrowd"] = 1
    data["images"].append({"id": 9, "file_name": "000.png", "height": 64, "width": 64})


def test_a_run_has_boxes_and_masks_in_all_its_results(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data", change=_mixed)
    words = [*data_overrides(path, root), *MASKS, "INPUT.MASK_FORMAT", "bitmask", "SOLVER.MAX_ITER", "2"]
    words += ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "SCALEPRIOR.RESULTS", str(tmp_path / "all.csv")]
    loaded, out, engine = tiny_config("FPN", words), tmp_path / "run", get_engine("torchvision")
    result = engine.evaluate(loaded, engine.train(loaded, None, out), out)["tiny"]
    assert result.masks is not None
    written = out / "detections_tiny.json"
    detections = read_json(written, what="detections")
    assert detections
    for each in detections:
        x, y, w, h = each["bbox"]
        mask = each["segmentation"]
        assert mask["size"] == [64, 64]
        array = RunLengths(mask["counts"].encode(), 64, 64).array()
        rows, columns = array.nonzero()
        if len(rows):  # none of an object lies outside its box
            assert rows.min() >= y - 1
            assert rows.max() <= y + h
            assert columns.min() >= x - 1
            assert columns.max() <= x + w
    truth = json.loads(path.read_text())
    boxless = [{key: value for key, value in each.items() if key != "bbox"} for each in detections]
    assert same_ap(list(result.masks.values())[:6], pycocotools(truth, boxless, "segm"))
    assert same_ap(result.named().values(), pycocotools(truth, detections))
    scored = score_detections(written, path)
    assert (scored.masks, scored.named()) == (result.masks, result.named())
    said = read_json(out / "results.json", what="results")
    assert (said["segm"], said["AP"]) == (result.masks, result.ap)
    header, row = ((tmp_path / "all.csv").read_text()).splitlines()
    of_row = dict(zip(header.split(","), row.split(",")))
    assert of_row["detector"] == "build_resnet_fpn_backbone+masks"
    assert float(of_row["ap"]) == pytest.approx(result.ap)


def test_a_detector_that_finds_nothing_has_an_ap_of_masks(tmp_path: Path) -> None:
    words = [*data_overrides(*make_coco(tmp_path / "data", change=add_outlines)), *MASKS, "SOLVER.MAX_ITER", "1"]
    loaded = tiny_config("FPN", [*words, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "1.0"])
    engine = get_engine("torchvision")
    result = engine.evaluate(loaded, engine.train(loaded, None, tmp_path / "run"), tmp_path / "run")["tiny"]
    assert (result.detections, result.ap) == (0, 0)
    assert result.masks is not None
    assert result.masks["AP"] == 0


def _spoilt(data: dict[str, Any]) -> None:
    add_outlines(data)
    del data["annotations"][0]["segmentation"]
    data["annotations"][3]["segmentation"] = {"counts": [1], "size": [64, 64]}


@pytest.mark.parametrize("name", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_the_check_finds_what_would_stop_the_run(tmp_path: Path, name: str) -> None:
    path, root = make_coco(tmp_path / "data", change=_spoilt)
    engine = get_engine(name)

    def loaded(*words: str) -> LoadedConfig:
        every = [*TINY_FPN, *data_overrides(path, root), *words]
        return load_config("COCO-Detection/Base-RCNN-FPN.yaml", every, defaults=engine.default_config())

    assert check_detection(loaded(), None, tmp_path / "run", engine=engine).ok
    report = check_detection(loaded(*MASKS), None, tmp_path / "run", engine=engine)
    found = [(finding.kind, finding.count) for finding in report.findings if finding.kind.startswith("segm")]
    assert found == [("segmentation_missing", 1), ("segmentation_rle", 1)]  # of one file, once
    assert not report.ok


def test_a_set_without_masks_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data")
    loaded = tiny_config("FPN", [*data_overrides(path, root), *MASKS])
    with pytest.raises(UserError, match=r"has 9 annotations without a segmentation, .*leave MODEL.MASK_ON False"):
        get_engine("torchvision").train(loaded, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()
