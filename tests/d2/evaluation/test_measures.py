"""Under Detectron2 the same measures as on the torchvision engine, of the same detections."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import DatasetEvaluators
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes, Instances

from scaleprior.ap_names import AP_NAMES, AR_NAMES
from scaleprior.d2.evaluation.coco import Evaluator
from scaleprior.d2.evaluation.results import results_by_set, to_result
from scaleprior.detect import score_detections
from scaleprior.detect.metrics import DetectionResult
from tests.detect.test_score import _with_masks


def _instances(detections: list[Any], *, masks: bool) -> Instances:
    from pycocotools import mask

    boxes = torch.tensor([d["bbox"] for d in detections], dtype=torch.float32).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    instances = Instances((400, 400))
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([d["score"] for d in detections])
    instances.pred_classes = torch.tensor([d["category_id"] - 1 for d in detections], dtype=torch.int64)
    if masks:
        decoded = [mask.decode(d["segmentation"]).astype(bool) for d in detections]
        instances.pred_masks = torch.from_numpy(np.array(decoded).reshape(-1, 400, 400))
    return instances


def _found(name: str, folder: Path, *, masks: bool, keep: slice = slice(None)) -> tuple[dict[str, Any], Any, Path]:
    """What Detectron2's evaluator returns, inside the wrapper that panoptic sets have; truth; its detections' file."""
    truth, detections = _with_masks(2)
    path = folder / "truth.json"
    path.write_text(json.dumps(truth))
    register_coco_instances(name, {}, str(path), str(folder))
    DatasetCatalog.get(name)
    evaluator = DatasetEvaluators([Evaluator(name, str(folder))])
    evaluator.reset()
    for image in truth["images"]:
        of_image = [d for d in detections[keep] if d["image_id"] == image["id"]]
        evaluator.process([{"image_id": image["id"]}], [{"instances": _instances(of_image, masks=masks)}])
    return copy.deepcopy(dict(evaluator.evaluate())), truth, folder / "coco_instances_results.json"


def _numbers(result: DetectionResult) -> list[Any]:
    """Every number, in one list."""
    words = result.to_dict()
    return [
        *(words[word] for word in (*AP_NAMES.values(), *AR_NAMES.values(), "detections")),
        *(value for each in words["per_class"].values() for value in each.values()),
        *(value for each in words["calibration"]["bins"] for value in each.values()),
        words["calibration"]["D-ECE"],
    ]


def test_boxes_and_masks_are_measured_as_on_the_other_engine(tmp_path: Path) -> None:
    """AP by pycocotools, in Detectron2's evaluator, and by ours are one; the rest is there of both."""
    found, truth, file = _found("d2_measures", tmp_path, masks=True)
    result = to_result(found, "d2_measures")
    alone = score_detections(file, truth)
    for mine, theirs in zip(_numbers(result), _numbers(alone), strict=True):
        assert mine == (pytest.approx(theirs, abs=1e-9) if isinstance(theirs, float) else theirs)
    assert result.ap == found["bbox"]["AP"]  # Detectron2's own number stays what it was
    assert result.masks == pytest.approx(alone.masks)
    assert result.masks_per_class == alone.masks_per_class
    assert result.masks_calibration == alone.masks_calibration
    assert result.masks is not None
    assert result.masks["AP"] == found["segm"]["AP"]
    per_class = {f"AP-{c.name}": c.ap for c in result.per_class.values() if c.ap is not None}
    assert per_class == {name: found["bbox"][name] for name in per_class}


def test_detectron2_sees_no_more_than_its_own_numbers(tmp_path: Path) -> None:
    """Its hooks store every number of a result; a class' sizes would be hundreds."""
    found, _, _ = _found("d2_plain", tmp_path, masks=False)
    flat = flatten_results_dict(found)
    names = [*AP_NAMES.values(), *(f"AP-c{number}" for number in range(1, 5))]
    assert sorted(flat) == sorted(f"bbox/{name}" for name in names)
    assert all(isinstance(value, float) for value in flat.values())
    result = results_by_set(found, ["d2_plain"])["d2_plain"]
    assert result.metrics is not None
    assert list(result.metrics["bbox"]) == names
    assert (result.masks, result.masks_per_class) == (None, None)
    assert result.ar100 is not None


def test_without_a_detection_every_measure_is_zero(tmp_path: Path) -> None:
    found, truth, _ = _found("d2_blind", tmp_path, masks=False, keep=slice(0))
    result = to_result(found, "d2_blind")
    assert _numbers(result) == _numbers(score_detections([], truth))
