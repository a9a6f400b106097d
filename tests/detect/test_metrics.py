"""The record of an evaluation, and its words in files."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from scaleprior.detect.data.coco_format import CocoId
from scaleprior.detect.metrics import ClassAP, DetectionResult, results_to_dict
from scaleprior.errors import UserError

# As results.json holds it.
WORDS: dict[str, Any] = {
    "AP": 12.5, "AP50": 30.0, "AP75": 8.0, "APs": None, "APm": 10.0, "APl": 20.0,
    "per_class": {"3": {"name": "cat", "ap": 12.5}, "7": {"name": "cat", "ap": None}},
    "images": 9, "detections": 40, "seconds": 1.5,
}  # fmt: skip


def test_words_of_files_and_back() -> None:
    result = DetectionResult.from_dict({"engine": "torchvision", "model": "m", **WORDS})
    assert (result.ap, result.ap_small, result.ap_large, result.images) == (12.5, None, 20.0, 9)
    assert result.to_dict() == WORDS
    assert list(result.to_dict()) == list(WORDS)
    assert json.loads(json.dumps(result.to_dict())) == WORDS


def test_classes_are_known_by_the_ids_of_the_data() -> None:
    result = DetectionResult.from_dict(WORDS)
    assert result.per_class == {3: ClassAP("cat", 12.5), 7: ClassAP("cat", None)}
    named: dict[CocoId, ClassAP] = {"n01": ClassAP("cat", 1.0), "007": ClassAP("dog", None)}
    other = DetectionResult(1.0, 2.0, 0.0, None, None, 3.0, per_class=named)
    assert DetectionResult.from_dict(json.loads(json.dumps(other.to_dict()))) == other


def test_what_earlier_versions_wrote_is_read() -> None:
    """AP by the class's name, one number a name."""
    old = DetectionResult.from_dict({**WORDS, "per_class": {"cat": 12.5, "3": None}})
    assert old.per_class == {"cat": ClassAP("cat", 12.5), "3": ClassAP("3", None)}


def test_what_an_engine_does_not_say_is_left_out() -> None:
    result = DetectionResult(1.0, 2.0, 0.0, None, None, 3.0, per_class={}, masks={"AP": 4.0, "APs": None})
    words = result.to_dict()
    assert list(words) == ["AP", "AP50", "AP75", "APs", "APm", "APl", "per_class", "segm"]
    assert words["segm"] == {"AP": 4.0, "APs": None}
    assert DetectionResult.from_dict(words) == result


def test_one_set_is_flat_and_several_stand_by_name() -> None:
    one = DetectionResult.from_dict(WORDS)
    both = {**WORDS, "ap": 12.5, "ap50": 30.0, "ap75": 8.0, "ap_small": None, "ap_medium": 10.0, "ap_large": 20.0}
    assert results_to_dict({"a": one}) == both
    assert results_to_dict({"a": one, "b": one}) == {"a": both, "b": both}
    assert DetectionResult.from_dict(both) == one
    assert results_to_dict({}) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AP": None}, r"here: AP is None; evaluate again"),
        ({"APs": "1"}, r"here: APs is '1'"),
        ({"AP75": ...}, r"here: AP75 is missing"),
        ({"AP": math.nan}, r"here: AP is nan"),
        ({"APs": True}, r"here: APs is True"),
        ({"per_class": [1.0]}, r"here: per_class is \[1.0\]"),
        ({"per_class": {"cat": "1"}}, r"here: per_class: cat is '1'"),
        ({"per_class": {"3": {"name": "cat", "ap": "1"}}}, r"here: per_class: 3 is '1'"),
        ({"per_class": {"3": {"ap": 1.0}}}, r"here: per_class: the name of 3 is None"),
        ({"segm": {"AP": math.inf}}, r"here: segm: AP is inf"),
        ({"detections": "many"}, r"here: detections is 'many'"),
    ],
)
def test_a_number_that_is_none_is_refused(change: dict[str, Any], message: str) -> None:
    words = {k: v for k, v in {**WORDS, **change}.items() if v is not ...}
    with pytest.raises(UserError, match=message):
        DetectionResult.from_dict(words, where="here")


@pytest.mark.parametrize("raw", [None, [1.0], 3])
def test_what_is_no_record_is_refused(raw: Any) -> None:
    with pytest.raises(UserError, match=r"here: the detection is .*; evaluate again"):
        DetectionResult.from_dict(raw, where="here")


def test_a_result_without_boxes_has_no_ap_anywhere() -> None:
    """Semantic segmentation: every number under its own name, none under a box's, and back from JSON."""
    figures = {"sem_seg": {"mIoU": 31.5, "IoU-road": None}}
    result = DetectionResult.without_boxes(metrics=figures)
    assert not result.has_boxes
    assert result.named() == {}
    assert result.to_dict() == {"metrics": figures}
    assert results_to_dict({"a": result}) == {"metrics": figures}
    again = DetectionResult.from_dict(json.loads(json.dumps(result.to_dict())))
    assert (again.has_boxes, again.metrics) == (False, figures)
    with pytest.raises(UserError, match="AP is missing"):
        DetectionResult.from_dict({"metrics": {}})
    with pytest.raises(UserError, match=r"result: metrics of sem_seg: mIoU is 'much'"):
        DetectionResult.from_dict({"metrics": {"sem_seg": {"mIoU": "much"}}})


def test_what_augmentation_gave_stands_beside() -> None:
    plain = DetectionResult(10.0, 20.0, 5.0, None, None, None, per_class={})
    both = replace(plain, augmented=replace(plain, ap=11.0))
    assert both.to_dict()["TTA"]["AP"] == 11.0
    assert DetectionResult.from_dict(json.loads(json.dumps(both.to_dict()))) == both
