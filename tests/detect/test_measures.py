"""AR, classes and sizes against pycocotools; calibration against its matches, and by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from scaleprior.ap_names import AP_NAMES, AR_NAMES
from scaleprior.detect.calibration import Calibration, calibration_of, matched
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import ClassAP, DetectionResult, results_to_dict
from scaleprior.errors import UserError
from tests.detect.test_evaluate import coco_evaluator, percents, random_case, same_ap


@pytest.mark.parametrize("seed", range(2))
def test_recall_and_every_class_are_pycocotools(seed: int) -> None:
    truth, detections = random_case(seed)
    result = coco_ap(truth, detections)
    assert same_ap(result.recalls().values(), percents(coco_evaluator(truth, detections).stats[6:]))
    for number, said in result.per_class.items():  # evaluated alone
        alone = percents(coco_evaluator(truth, detections, catIds=[number]).stats)
        mine = [getattr(said, name) for name in (*AP_NAMES, "ar100")]
        assert same_ap(mine, [*alone[:6], alone[8]])


def _by_pycocotools(truth: Any, detections: Sequence[Any], threshold: float) -> tuple[list[float], list[bool]]:
    """Scores of the detections that count at one IoU, and whether they are matched."""
    evaluator = coco_evaluator(truth, detections, iouThrs=np.array([0.5, 0.75]))
    of_all = [e for e in evaluator.evalImgs if e is not None and e["aRng"] == evaluator.params.areaRng[0]]
    place = [0.5, 0.75].index(threshold)
    scores, right = [], []
    for each in of_all:
        for score, match, ignored in zip(each["dtScores"], each["dtMatches"][place], each["dtIgnore"][place]):
            if not ignored:
                scores.append(score)
                right.append(match > 0)
    return scores, right


@pytest.mark.parametrize("seed", range(4))
def test_calibration_goes_by_pycocotools_matches(seed: int) -> None:
    """With crowds, classes, and more than 100 detections of a class in an image."""
    truth, found_here = random_case(seed)
    detections: list[Any] = list(found_here)
    detections += [{**detections[0], "score": score} for score in np.linspace(0.01, 0.02, 120).tolist()]
    scores, right = _by_pycocotools(truth, detections, 0.5)
    found = coco_ap(truth, detections).calibration
    assert found is not None
    assert sum(each.detections for each in found.bins) == len(scores) < len(detections)
    for each in found.bins:  # by definition, without an index computed
        inside = [(s, r) for s, r in zip(scores, right) if each.low <= s < each.high]
        assert each.detections == len(inside)
        if inside:
            assert each.score == pytest.approx(sum(s for s, _ in inside) / len(inside))
            assert each.precision == pytest.approx(sum(r for _, r in inside) / len(inside))
    gaps = [e.detections * abs((e.precision or 0) - (e.score or 0)) for e in found.bins]
    assert found.d_ece == pytest.approx(100 * sum(gaps) / len(scores))


def test_a_d_ece_by_hand() -> None:
    """Four detections of 0.9, three right: 0.15 apart. One of 0.2, right: 0.8 apart. (4 * 0.15 + 0.8) / 5 = 0.28."""
    found = calibration_of(np.array([0.9, 0.9, 0.2, 0.9, 0.9]), np.array([True, True, True, False, True]))
    assert found is not None
    assert found.d_ece == pytest.approx(28.0)
    assert [each.detections for each in found.bins] == [0, 0, 1, 0, 0, 0, 0, 0, 0, 4]
    assert (found.bins[2].low, found.bins[2].high, found.bins[2].precision) == (0.2, 0.3, 1.0)
    assert found.bins[9].precision == pytest.approx(0.75)
    assert (found.bins[0].score, found.bins[0].precision) == (None, None)


def test_scores_that_say_what_is_right_have_no_error() -> None:
    """Of twenty of each score the share that is right is the score itself: 1 of those of 0.05, 3 of 0.15."""
    scores = np.repeat(np.arange(1, 20, 2) / 20, 20)
    right = np.concatenate([np.arange(20) < count for count in range(1, 20, 2)])
    found = calibration_of(scores, right)
    assert found is not None
    assert found.d_ece == pytest.approx(0.0, abs=1e-12)
    wrong = calibration_of(np.array([1.0, 1.0]), np.array([False, False]))
    assert wrong is not None
    assert (wrong.d_ece, wrong.bins[9].detections) == (100.0, 2)  # 1 is in the last bin


def test_scores_that_are_no_shares_have_no_calibration() -> None:
    truth, detections = random_case(0)
    for score in (-0.1, 1.5, 37.0):
        detections[3]["score"] = score
        result = coco_ap(truth, detections)
        assert result.calibration is None
        assert "calibration" not in result.to_dict()
        assert result.ap > 0


@pytest.mark.parametrize(
    ("overlaps", "ignored", "expected"),
    [
        # the best detection takes the object, the second finds it taken
        ([[0.6], [0.9]], [False], [1, 0]),
        # 0.5 is a match, less is none
        ([[0.5], [0.4999]], [False], [1, 0]),
        # what is left of two objects
        ([[0.9, 0.8], [0.9, 0.7]], [False, False], [1, 1]),
        # a crowd swallows any number, and does not come before an object that fits less well
        ([[0.6, 0.9], [0.3, 0.9], [0.2, 0.8], [0.1, 0.1]], [False, True], [1, -1, -1, 0]),
        # whatever their order
        ([[0.9, 0.6], [0.9, 0.3]], [True, False], [1, -1]),
    ],
)
def test_matches_by_hand(overlaps: list[list[float]], ignored: list[bool], expected: list[int]) -> None:
    assert matched(np.array(overlaps), ignored).tolist() == expected


def test_every_figure_comes_back_from_json_under_both_names() -> None:
    truth, detections = random_case(1)
    result = replace(coco_ap(truth, detections), masks={"AP": 1.0}, masks_per_class={1: ClassAP("c1", 1.0, ap50=2.0)})
    result = replace(result, masks_calibration=result.calibration)
    words = json.loads(json.dumps(results_to_dict({"a": result})))
    assert DetectionResult.from_dict(words) == result
    assert all(words[name] == words[word] for name, word in {**AP_NAMES, **AR_NAMES}.items())
    assert list(words["per_class"]["1"]) == ["name", *AP_NAMES, "ar100"]
    assert words["per_class"]["4"] == {"name": "c4", "ap": None}  # there is no object of it
    assert [each["low"] for each in words["calibration"]["bins"]] == pytest.approx([i / 10 for i in range(10)])
    assert list(result.named()) == list(AP_NAMES)  # the columns of results.csv


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"AR10": "3"}, "here: AR10 is '3'; evaluate again"),
        ({"per_class": {"3": {"name": "a", "ap": 1.0, "ap50": "x"}}}, "here: per_class: 3: ap50 is 'x'"),
        ({"calibration": 3}, "here: calibration is damaged"),
        ({"calibration": {"D-ECE": 1.0, "bins": [{"low": 0}]}}, "here: calibration is damaged"),
        ({"calibration": {"D-ECE": "1", "bins": []}}, "here: calibration: a number is '1'"),
        ({"segm_per_class": []}, r"here: segm_per_class is \[\]"),
    ],
)
def test_damaged_figures_are_refused(change: dict[str, Any], message: str) -> None:
    truth, detections = random_case(1)
    with pytest.raises(UserError, match=message):
        DetectionResult.from_dict({**coco_ap(truth, detections).to_dict(), **change}, where="here")
    assert Calibration.from_dict({"D-ECE": None, "bins": []}, "here") == Calibration(None, ())
