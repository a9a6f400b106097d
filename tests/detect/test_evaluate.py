"""AP against pycocotools and by hand."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from scaleprior.detect.data.coco import load_coco
from scaleprior.detect.data.coco_format import CocoAnnotation, CocoCategory, CocoId, CocoImage, CocoTruth, Detection
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import ClassAP
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco


def random_case(seed: int) -> tuple[CocoTruth, list[Detection]]:
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


def coco_evaluator(truth: Any, detections: Sequence[Any], kind: Any = "bbox", **params: Any) -> Any:
    """pycocotools' evaluator, done; ``params`` are set on its parameters."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = {**truth, "annotations": [dict(a) for a in truth["annotations"]]}
        reference.createIndex()
        evaluator = COCOeval(reference, reference.loadRes([dict(d) for d in detections]), kind)
        for name, value in params.items():
            setattr(evaluator.params, name, value)
        evaluator.evaluate(), evaluator.accumulate(), evaluator.summarize()
    return evaluator


def percents(stats: Iterable[float]) -> list[float | None]:
    return [None if value == -1 else float(value) * 100 for value in stats]


def pycocotools(truth: Any, detections: Sequence[Any], kind: Any = "bbox") -> list[float | None]:
    return percents(coco_evaluator(truth, detections, kind).stats[:6])


def same_ap(mine: Iterable[float | None], theirs: Iterable[float | None]) -> bool:
    """Up to the order of a sum over at most 101 x 10 x 4 numbers in [0, 100]."""
    return all(a == (None if b is None else pytest.approx(b, abs=1e-9)) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("seed", range(4))
def test_equals_pycocotools(seed: int) -> None:
    truth, detections = random_case(seed)
    result = coco_ap(truth, detections)
    assert same_ap(result.named().values(), pycocotools(truth, detections))
    assert {number: c.name for number, c in result.per_class.items()} == {i: f"c{i}" for i in range(1, 5)}
    assert result.per_class[4].ap is None
    mean = np.mean([c.ap for c in result.per_class.values() if c.ap is not None])
    assert mean == pytest.approx(result.ap, abs=1e-9)


@functools.cache
def _known_case(seed: int) -> tuple[CocoTruth, list[Detection], list[float | None], Mapping[CocoId, ClassAP]]:
    """A case, pycocotools' numbers, and ours by class; nobody changes it."""
    truth, detections = random_case(seed)
    return truth, detections, pycocotools(truth, detections), coco_ap(truth, detections).per_class


_IDS = st.one_of(st.integers(-5, 2**40), st.sampled_from([0, 1, 2**63]))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ap_depends_on_no_id_and_on_no_order(data: st.DataObject) -> None:
    """What pycocotools finds with annotations numbered from 1 is found under any ids and in any order.

    Scores are distinct, and no detection overlaps two objects equally well: there COCO's AP does depend on the order.
    """
    truth, detections, expected, before = _known_case(data.draw(st.integers(0, 2), label="case"))

    def ids(olds: Sequence[CocoId], label: str) -> dict[CocoId, Any]:
        kinds = [_IDS] if label == "annotations" else [_IDS, st.text(min_size=1, max_size=4)]
        kind = data.draw(st.sampled_from(kinds), label=f"kind of id of {label}")
        new = data.draw(st.lists(kind, min_size=len(olds), max_size=len(olds), unique=True), label=label)
        return dict(zip(olds, new))

    images = ids([i["id"] for i in truth["images"]], "images")
    categories = ids([c["id"] for c in truth["categories"]], "categories")
    count = len(truth["annotations"])
    numbers = ids(list(range(count)), "annotations") if data.draw(st.booleans()) else {i: i for i in range(count)}
    if data.draw(st.booleans(), label="one id for all"):
        numbers = dict.fromkeys(numbers, 0)
    order = np.random.default_rng(data.draw(st.integers(0, 99), label="order"))

    def mixed(entries: Sequence[Any], **change: Callable[[Any], Any]) -> list[Any]:
        changed = [{**e, **{key: new(e) for key, new in change.items()}} for e in entries]
        return [changed[i] for i in order.permutation(len(changed))]

    of_entry: dict[str, Callable[[Any], Any]] = {
        "image_id": lambda e: images[e["image_id"]],
        "category_id": lambda e: categories[e["category_id"]],
    }
    other: CocoTruth = {
        "images": mixed(truth["images"], id=lambda i: images[i["id"]]),
        "annotations": mixed(truth["annotations"], id=lambda a: numbers[a["id"] - 1], **of_entry),
        "categories": mixed(truth["categories"], id=lambda c: categories[c["id"]]),
    }
    result = coco_ap(other, mixed(detections, **of_entry))
    assert same_ap(result.named().values(), expected)
    after = {number: result.per_class[categories[number]] for number in before}
    assert all(before[i].name == after[i].name and same_ap([after[i].ap], [before[i].ap]) for i in before)


def test_a_match_with_annotation_0_is_a_match(tmp_path: Path) -> None:
    """One object, found exactly: AP 100. Where ids count from 0, pycocotools takes the match for none."""
    image: CocoImage = {"id": 1, "file_name": "a.jpg", "height": 50, "width": 50}
    box = {"image_id": 1, "category_id": 1, "bbox": [5.0, 5.0, 20.0, 20.0]}
    truth: Any = {"images": [image], "categories": [{"id": 1, "name": "cat"}]}
    truth["annotations"] = [{**box, "id": 0, "area": 400.0, "iscrowd": 0}]
    found: Any = [{**box, "score": 0.9}]
    assert coco_ap(truth, found).ap == pytest.approx(100.0)
    assert pycocotools(truth, found)[0] == pytest.approx(0.0)  # why ids are numbered anew


def test_classes_of_one_name_keep_their_ap() -> None:
    truth, detections = random_case(0)
    before = coco_ap(truth, detections).per_class
    for category in truth["categories"]:
        category["name"] = "cat"
    after = coco_ap(truth, detections).per_class
    assert list(after) == [1, 2, 3, 4]
    assert {number: c.ap for number, c in after.items()} == {number: c.ap for number, c in before.items()}
    assert {c.name for c in after.values()} == {"cat"}


def test_detections_of_what_is_not_there_are_refused() -> None:
    truth, detections = random_case(0)
    for change, message in (({"image_id": "x"}, "category 'x'"), ({"category_id": 77}, "category 77")):
        wrong: Any = [*detections, {**detections[0], **change}]
        with pytest.raises(UserError, match=f"is of the image or {message}, which is not in the set"):
            coco_ap(truth, wrong)


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
    assert {number: (c.name, c.ap, c.ap_large) for number, c in result.per_class.items()} == {
        3: ("block", 0.0, None),
        7: ("square", 0.0, None),
    }
    assert (result.ar1, result.ar100, result.ar_small, result.ar_large) == (0.0, 0.0, 0.0, None)
    assert result.masks is None
    assert result.calibration is not None
    assert (result.calibration.d_ece, {each.detections for each in result.calibration.bins}) == (None, {0})
    with_masks = coco_ap(data.truth, [], masks=True)
    assert (with_masks.masks, with_masks.masks_per_class) == (
        {**dict.fromkeys(("AP", "AP50", "AP75", "APs", "AR1", "AR10", "AR100", "ARs"), 0.0),
         **dict.fromkeys(("APm", "APl", "ARm", "ARl"))},
        result.per_class,
    )  # fmt: skip


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
