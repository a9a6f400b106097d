"""Any results file against any truth: pycocotools' numbers, and clear words for what does not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaleprior.ap_names import AP_NAMES, AR_NAMES
from scaleprior.detect import load_coco, score_detections
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco
from tests.detect.test_evaluate import coco_evaluator, percents, pycocotools, random_case, same_ap

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def _write(folder: Path, truth: Any, detections: Any) -> tuple[Path, Path]:
    paths = folder / "found.json", folder / "truth.json"
    for path, content in zip(paths, (detections, truth)):
        path.write_text(json.dumps(content))
    return paths


def test_two_files_are_enough(tmp_path: Path, cli: Cli) -> None:
    """No images, and of each image no more than its id; annotation ids from 0 change nothing."""
    truth, detections = random_case(1)
    expected = pycocotools(truth, detections)
    bare: Any = {**truth, "images": [{"id": i["id"]} for i in truth["images"]]}
    bare["annotations"] = [{**a, "id": a["id"] - 1} for a in truth["annotations"]]
    found, gt = _write(tmp_path, bare, detections)
    run = cli("detect", "score", found, "--gt", gt, "--json")
    assert (run.returncode, run.stderr) == (0, "")
    words = json.loads(run.stdout)
    columns = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
    assert same_ap([words[name] for name in columns], expected)
    assert [words[name] for name in ("AP", "AP50", "AP75", "APs", "APm", "APl")] == [words[name] for name in columns]
    assert words["per_class"]["4"] == {"name": "c4", "ap": None}
    assert (words["scored"], words["truth"]) == (str(found), str(gt))
    assert (words["images"], words["detections"]) == (12, len(detections))
    run = cli("detect", "score", found, "--gt", gt)
    of_ap, of_ar = run.stdout.splitlines()
    assert of_ap.startswith(f"boxes: AP {words['ap']:.2f}, AP50 {words['ap50']:.2f}, AP75 ")
    assert of_ap.endswith(f"(12 images, {len(detections)} detections)")
    assert of_ar.startswith(f"boxes: AR1 {words['ar1']:.2f}, AR10 {words['AR10']:.2f}, AR100 ")
    assert of_ar.endswith(f", D-ECE {words['calibration']['D-ECE']:.2f}")


def test_a_list_and_a_set_do_as_well_as_files(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    data = load_coco(path, root, name="tiny")
    found = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in data.truth["annotations"]]
    results = [score_detections(found, truth) for truth in (path, data, data.truth)]
    assert results[0] == results[1] == results[2]
    assert results[0].ap == pytest.approx(100.0)
    assert score_detections([], path).ap == 0.0


def test_ids_are_compared_as_they_are_meant(tmp_path: Path) -> None:
    """Whole floats are numbers, as in pycocotools."""
    path, _ = make_coco(tmp_path)
    truth = json.loads(path.read_text())["annotations"]
    found = [
        {"image_id": float(a["image_id"]), "category_id": float(a["category_id"]), "bbox": a["bbox"], "score": 1}
        for a in truth
    ]
    assert score_detections(found, path).ap == pytest.approx(100.0)


def _change(**values: Any) -> Callable[[list[dict[str, Any]]], None]:
    def change(detections: list[dict[str, Any]]) -> None:
        for detection in detections[3:5]:
            detection.update(values)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change(image_id=99), "2 of 9 detections of images that the truth has not, first: image_id 99 in number 3"),
        (_change(image_id="100"), "first: image_id '100' in number 3 .*ids are compared as they are written"),
        (_change(image_id=[1]), "of images that the truth has not"),
        (_change(category_id=0), "2 of 9 detections of categories that the truth has not, first: category_id 0"),
        (_change(bbox=[1, 2, 3]), r"2 of 9 detections whose bbox is not \[x, y, width, height\], first: bbox \[1, 2"),
        (_change(bbox=[1, 2, -3, 4]), "whose bbox is not"),
        (_change(bbox=[1, 2, 3, float("nan")]), "whose bbox is not"),
        (_change(bbox=None), "whose bbox is not"),
        (_change(score=None), "whose score is not a number, first: score None"),
        (_change(score=float("nan")), "whose score is not a number, first: score nan"),
        (lambda found: found.append(3), "is not a list of {image_id, category_id, bbox, score}"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, change: Callable[[Any], None], message: str, cli: Cli) -> None:
    path, _ = make_coco(tmp_path)
    truth = json.loads(path.read_text())
    found = [{**a, "score": 0.5} for a in truth["annotations"]]
    change(found)
    file, gt = _write(tmp_path, truth, found)
    with pytest.raises(UserError, match=message) as caught:
        score_detections(file, gt)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_wrong_file_is_refused_in_one_line(tmp_path: Path, cli: Cli) -> None:
    path, _ = make_coco(tmp_path)
    run = cli("detect", "score", path, "--gt", path)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr == (
        f"scaleprior: error: {path} is not a list of {{image_id, category_id, bbox, score}}; give a COCO results file, "
        "and the truth as the other file\n"
    )


def _with_masks(seed: int) -> tuple[Any, Any]:
    """A case whose objects and detections are ellipses in their boxes."""
    from pycocotools import mask

    truth, detections = random_case(seed)
    rows, columns = np.mgrid[:400, :400]

    def ellipse(box: list[float]) -> dict[str, Any]:
        x, y, w, h = box
        inside = ((columns - x - w / 2) / (w / 2)) ** 2 + ((rows - y - h / 2) / (h / 2)) ** 2 <= 1
        rle: Any = mask.encode(np.asfortranarray(inside.astype(np.uint8)))
        return {"size": rle["size"], "counts": rle["counts"].decode()}

    for entry in (*truth["annotations"], *detections):
        rle = ellipse(entry["bbox"])
        entry.update(segmentation=rle)  # type: ignore[call-arg]
        if "area" in entry:
            entry.update(area=float(mask.area(rle)))  # type: ignore[call-arg]
    return truth, detections


def test_masks_are_scored_where_all_have_one(tmp_path: Path, caplog: pytest.LogCaptureFixture, cli: Cli) -> None:
    truth, detections = _with_masks(2)
    boxless = [{k: v for k, v in d.items() if k != "bbox"} for d in detections]
    # given a box, pycocotools would take the box's size for the mask's; Detectron2 leaves it out, too
    expected = pycocotools(truth, boxless, "segm")
    result = score_detections(detections, truth)
    assert same_ap(result.named().values(), pycocotools(truth, detections))
    assert result.masks is not None
    assert list(result.masks) == [*AP_NAMES.values(), *AR_NAMES.values()]
    assert same_ap(result.masks.values(), percents(coco_evaluator(truth, boxless, "segm").stats))

    found, gt = _write(tmp_path, truth, boxless)
    of_masks = score_detections(found, gt)  # boxes around the masks, as pycocotools' loadRes makes them
    assert same_ap(of_masks.named().values(), pycocotools(truth, boxless))
    assert cli("detect", "score", found, "--gt", gt).stdout.splitlines()[2].startswith(f"masks: AP {expected[0]:.2f}, ")

    del truth["annotations"][0]["segmentation"]
    assert score_detections(detections, truth).masks is None
    assert "1 annotation of the truth has no segmentation: only boxes are scored" in caplog.text


def _counts(entry: Any) -> None:
    entry["segmentation"]["counts"] = "xx!!"


def _size(entry: Any) -> None:
    entry["segmentation"]["size"] = [10, 10]


def _no_size(entry: Any) -> None:
    entry["segmentation"]["size"] = ["a", 400]


def _text(entry: Any) -> None:
    entry["segmentation"] = "a mask"


@pytest.mark.parametrize(
    ("part", "spoil"), [("found", _counts), ("found", _size), ("found", _no_size), ("truth", _counts), ("truth", _text)]
)
def test_masks_that_are_none_are_refused_in_one_line(part: str, spoil: Callable[[Any], None]) -> None:
    truth, detections = _with_masks(2)
    spoil(detections[0] if part == "found" else truth["annotations"][0])
    with pytest.raises(UserError, match="a segmentation of the detections or of the truth cannot be read: "):
        score_detections(detections, truth)
    if part == "found":
        with pytest.raises(UserError, match="a segmentation of the detections or of the truth cannot be read: "):
            score_detections([{k: v for k, v in d.items() if k != "bbox"} for d in detections], truth)


def test_scoring_needs_no_torch() -> None:
    code = "import sys, scaleprior.detect.score; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
