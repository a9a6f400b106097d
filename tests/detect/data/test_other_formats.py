"""Files of other formats, and boxes of other units, are said to be that, in one line and before anything is trained."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaleprior.detect.data.box_units import other_unit
from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.coco import load_coco, load_truth
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


_INSTANCES = {"images": [{"id": 1}], "annotations": [{"id": 1}], "categories": [{"id": 1, "name": "a"}]}
_SEGMENTS = {"image_id": 1, "file_name": "1.png", "segments_info": []}

# What the file holds -> how the one line that refuses it goes on.
_OTHERS: dict[str, tuple[bytes, str]] = {
    "results": (b'[{"image_id": 1, "bbox": [1, 2, 3, 4]}]', "it is a list of objects with 'image_id', 'bbox'; give"),
    "bdd": (
        b'[{"name": "a.jpg", "labels": []}]',
        "it is a list of objects with 'name', 'labels'",
    ),
    "numbers": (b"[1, 2]", "it is a list; give"),
    "empty list": (b"[]", "it is a list; give"),
    "null": (b"null", "it is null; give"),
    "labelme": (b'{"shapes": [], "imagePath": "a.jpg"}', "it is an object with 'shapes', 'imagePath'; give a COCO"),
    "via": (
        json.dumps({f"{i}.jpg": 0 for i in range(9)}).encode(),
        "'0.jpg', '1.jpg', '2.jpg', '3.jpg', '4.jpg', ...;",
    ),
    "captions": (b'{"images": [], "annotations": []}', "has no list 'categories', it is an object with 'images'"),
    "panoptic": (
        json.dumps({**_INSTANCES, "annotations": [_SEGMENTS]}).encode(),
        "no annotation has a 'bbox', the first has 'image_id', 'file_name', 'segments_info'; give a COCO",
    ),
    "odgt": (
        b'{"ID": "a"}\n{"ID": "b"}\n',
        "is not JSON: line 2: Extra data; give one JSON value; are these JSON lines?",
    ),
    "deep": (b"[" * 100_000, "is nested too deeply to be read"),
    "gzip": (gzip.compress(json.dumps(_INSTANCES).encode()), "it is compressed: unpack it with gunzip"),
    "utf-16": (json.dumps(_INSTANCES).encode("utf-16"), "it is UTF-16: write it as UTF-8"),
}


@pytest.mark.parametrize("kind", _OTHERS)
def test_a_file_of_another_format_is_said_to_be_that(tmp_path: Path, kind: str) -> None:
    content, message = _OTHERS[kind]
    path = tmp_path / "a.json"
    path.write_bytes(content)
    for read in (lambda: load_coco(path, tmp_path, name="a"), lambda: load_truth(path)):
        with pytest.raises(UserError) as caught:
            read()
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_where_nothing_is_left_the_reason_is(tmp_path: Path) -> None:
    def as_lvis(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["coco_url"] = f"http://images.cocodataset.org/val2017/{image.pop('file_name')}"

    path, root = make_coco(tmp_path, 6, change=as_lvis)
    (finding,) = check_sets([SetFiles("train", "a", str(path), str(root))])[0].findings
    assert "nothing left that can be used: 6 images without an id, a file_name, or a height" in finding.what
    assert "as in LVIS, coco_url has the name: write its end as file_name" in finding.what


def test_ids_that_are_texts_in_one_place_only_are_said_to_be(tmp_path: Path) -> None:
    def texts(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["image_id"] = str(annotation["image_id"])

    path, root = make_coco(tmp_path, 6, change=texts)
    with pytest.raises(UserError, match=r"9 annotations of unknown images.*ids are compared as they are written"):
        load_coco(path, root, name="a")


def _as_shares(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["bbox"] = [value / 64 for value in annotation["bbox"]]


def _as_corners(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        annotation["bbox"] = [30, 30, 60, 62]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (_as_shares, "{} boxes in shares of their image, of which none reaches beyond its first pixel, first: bbox"),
        (_as_corners, "{} boxes that would fit into their images as corners, [x1, y1, x2, y2], and often reach out"),
    ],
)
def test_boxes_that_are_written_otherwise_are_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], what: str
) -> None:
    path, root = make_coco(tmp_path, 8, change=change)
    boxes = len(json.loads(path.read_text())["annotations"])
    with pytest.raises(UserError) as caught:
        load_coco(path, root, name="a")
    assert what.format(boxes) in str(caught.value)
    report, _ = check_sets([SetFiles("train", "a", str(path), str(root))])
    assert [finding.kind for finding in report.findings if finding.stops] == ["box_unit"]
    problems = load_truth(path)[1]  # as for pycocotools, which scores them: detections may be written the same way
    assert ("box_unit", "warning") in [(problem.kind, problem.severity) for problem in problems]


def test_what_tells_the_unit_of_boxes() -> None:
    rng = np.random.default_rng(0)
    sides = np.full((100, 2), 64.0)
    low = rng.uniform(0, 40, (100, 2))
    sound = np.hstack([low, rng.uniform(1, 64 - low)])
    assert other_unit(sound, sides) is None
    assert other_unit(sound[:0], sides[:0]) is None
    assert other_unit(np.hstack([low, low + 20]), sides) is not None
    few = other_unit(np.hstack([low, low + 20])[:9], sides[:9])
    assert few is None or not few.certain
    shares = other_unit(sound / 64, sides)
    assert shares is not None
    assert shares.certain
    assert other_unit(sound / 64, np.zeros((100, 2))) is None  # sides that nobody knows
    assert other_unit(np.tile([0.0, 0.0, 1.0, 1.0], (100, 1)), sides) is None  # one pixel, whole
    over = sound.copy()
    over[:, 2:] += 30  # boxes that are not clipped are none in corners: some have a width below their x
    assert other_unit(over, sides) is None


def test_boxes_that_no_image_has_are_no_boxes(tmp_path: Path) -> None:
    def huge(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [5, 5, 1e300, 1e300]

    with pytest.raises(UserError, match=r"1 annotation without a bbox of four finite numbers below 1e9, first"):
        load_coco(*make_coco(tmp_path, 6, change=huge), name="a")


@pytest.mark.parametrize(
    ("name", "there"),
    [
        ("images/v1/patch0/1.jpg", "patch0/1.jpg"),
        ("../../data/2.jpg", "2.jpg"),
        ("images\\\\2.jpg", "2.jpg"),
        ("1.jpg", "patch0/1.jpg"),
    ],
)
def test_an_image_in_another_folder_is_told(tmp_path: Path, name: str, there: str) -> None:
    def rename(data: dict[str, Any]) -> None:
        data["images"][0]["file_name"] = name

    path, root = make_coco(tmp_path, 6, change=rename)
    (root / "patch0").mkdir()
    (root / "patch0" / "1.jpg").write_bytes(b"")
    (root / "2.jpg").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        load_coco(path, root, name="a")
    assert f"there is {there!r} (names in other folders)" in str(caught.value)
