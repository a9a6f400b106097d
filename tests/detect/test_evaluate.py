"""AP against pycocotools and by hand; predictions in the original image's pixels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.detect.data.coco import load_coco
from scaleprior.detect.data.coco_format import CocoAnnotation, CocoCategory, CocoImage, CocoTruth, Detection
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections
from scaleprior.detect.faster_rcnn.predict import predict
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco


def _random_case(seed: int) -> tuple[CocoTruth, list[Detection]]:
    """Truth with crowds in three size bins, and detections around it and elsewhere."""
    generator = np.random.default_rng(seed)
    images: list[CocoImage] = [{"id": i, "file_name": f"{i}.jpg", "height": 400, "width": 400} for i in range(12)]
    annotations: list[CocoAnnotation] = []
    detections: list[Detection] = []
    for image in images:
        for _ in range(generator.integers(0, 7)):
            x, y = generator.uniform(0, 250, 2).tolist()
            w, h = np.exp(generator.uniform(2, 5, 2)).tolist()
            category = int(generator.integers(1, 4))
            crowd = int(generator.random() < 0.1)
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image["id"],
                    "category_id": category,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": crowd,
                }
            )
            for _ in range(generator.integers(0, 4)):
                box = (np.array([x, y, w, h]) * generator.normal(1, 0.05, 4)).tolist()
                found = int(generator.integers(1, 4)) if generator.random() < 0.3 else category
                score = float(generator.random())
                detections.append({"image_id": image["id"], "category_id": found, "bbox": box, "score": score})
    categories: list[CocoCategory] = [{"id": i, "name": f"c{i}"} for i in range(1, 5)]  # the last one never occurs
    return {"images": images, "annotations": annotations, "categories": categories}, detections


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    truth, detections = _random_case(seed)
    reference = COCO()
    reference.dataset = {**truth, "annotations": [dict(a) for a in truth["annotations"]]}
    reference.createIndex()
    evaluator = COCOeval(reference, reference.loadRes([dict(d) for d in detections]), "bbox")
    evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    result = coco_ap(truth, detections)
    actual = list(result.named().values())
    expected = [None if value == -1 else value * 100 for value in evaluator.stats[:6]]
    for mine, theirs in zip(actual, expected):
        assert mine == (None if theirs is None else pytest.approx(theirs, abs=1e-9))
    assert result.per_class["c4"] is None
    mean = np.mean([value for value in result.per_class.values() if value is not None])
    assert mean == pytest.approx(result.ap, abs=1e-9)


def test_the_truth_itself_scores_100_and_absent_sizes_none(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path), name="tiny")
    found = [{**a, "score": 1.0} for a in data.truth["annotations"]]
    result = coco_ap(data.truth, found)
    assert result.ap == pytest.approx(100)
    assert result.ap_small == pytest.approx(100)
    assert result.ap_medium is None
    assert result.ap_large is None


def test_no_detection_is_zero_not_a_crash(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path), name="tiny")
    result = coco_ap(data.truth, [])
    assert (result.ap, result.ap50, result.ap_small, result.ap_medium) == (0.0, 0.0, 0.0, None)
    assert result.per_class == {"block": 0.0, "square": 0.0}


def test_nothing_to_find_is_an_error(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path, change=lambda d: d["annotations"].clear()), name="tiny")
    with pytest.raises(UserError, match="has no objects, so"):
        coco_ap(data.truth, [])


def test_only_objects_that_coco_does_not_count_are_an_error(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["area"] = 1e11

    data = load_coco(*make_coco(tmp_path, change=change), name="tiny")
    found: list[Detection] = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1.0}
        for a in data.truth["annotations"]
    ]
    with pytest.raises(UserError, match=r"no objects of an area that COCO counts \(0 to 1e10\)"):
        coco_ap(data.truth, found)


class _Fixed(torch.nn.Module):
    """Finds the same two boxes in the resized image, whatever is in it."""

    def forward(self, images: list[torch.Tensor]) -> list[Detections]:
        boxes = torch.tensor([[0.0, 8.0, 16.0, 32.0], [32.0, 32.0, 32.0, 40.0]])
        return [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 0])) for _ in images]


def test_boxes_come_back_in_original_pixels_and_empty_ones_go(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path, images=3, side=64), name="tiny")
    found = predict(_Fixed(), data, order="RGB", short=32, longest=32)
    assert [d["image_id"] for d in found] == [100, 101, 102]
    assert found[0]["bbox"] == [0.0, 16.0, 32.0, 48.0]
    assert found[0]["category_id"] == 7
