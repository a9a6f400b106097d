"""COCO files: what is read, what is filled in, and what is refused with one clear line."""

from __future__ import annotations

import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaleprior.detect.data.coco import dataset_paths, load_coco, load_dataset
from scaleprior.detect.data.coco_format import Detection
from scaleprior.detect.data.image_root import open_root
from scaleprior.detect.data.loader import usable
from scaleprior.detect.data.names import names_of_files
from scaleprior.detect.evaluate import coco_ap
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco, tiny_config, write_val2014
from tests.detect.test_evaluate import pycocotools, same_ap


def test_ids_are_remapped_in_ascending_order(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    data = load_coco(path, root, name="tiny")
    assert data.category_ids == (3, 7)
    assert data.class_names == ("block", "square")
    raw = json.loads(path.read_text())["annotations"]
    first = [a for a in raw if a["image_id"] == data.records[0].id]
    assert data.records[0].classes.tolist() == [{3: 0, 7: 1}[a["category_id"]] for a in first]
    x, y, w, h = first[0]["bbox"]
    assert data.records[0].boxes[0].tolist() == [x, y, x + w, y + h]


def test_missing_iscrowd_area_and_ids_are_filled_in(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            for key in ("iscrowd", "area", "id"):
                del annotation[key]

    data = load_coco(*make_coco(tmp_path, change=change), name="tiny")
    annotations = data.truth["annotations"]
    assert [a["id"] for a in annotations] == list(range(1, len(annotations) + 1))
    assert all(a["iscrowd"] == 0 and a["area"] == a["bbox"][2] * a["bbox"][3] for a in annotations)


def _set(part: str, index: int, key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        data[part][index][key] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_set("annotations", 1, "category_id", 99), "1 annotation with unknown category ids, first: category_id 99"),
        (_set("annotations", 0, "category_id", [3]), "unknown category ids"),
        (_set("annotations", 0, "image_id", 5), "1 annotation of unknown images, first: image_id 5 in annotation 1"),
        (_set("annotations", 0, "bbox", [1, 2, 0, 5]), "1 box of zero or negative size, first: bbox"),
        (_set("annotations", 0, "bbox", [1, 2, 5, -5]), "zero or negative size"),
        (_set("annotations", 0, "bbox", [1, 2, 5]), "without a bbox of four finite numbers"),
        (_set("annotations", 0, "bbox", [1, 2, 5, float("nan")]), "without a bbox of four finite numbers"),
        (_set("annotations", 0, "iscrowd", 2), "iscrowd is not 0 or 1"),
        (_set("annotations", 0, "area", "big"), "area is not a number"),
        (_set("annotations", 0, "ignore", 1), "1 annotation to ignore, .*first: ignore 1 in annotation 1"),
        (_set("annotations", 0, "image_id", 100.5), "1 annotation of unknown images, first: image_id 100.5"),
        (_set("annotations", 0, "image_id", "100"), "1 annotation of unknown images, first: image_id '100'"),
        (
            _set("annotations", 0, "bbox", []),
            r"without a bbox of four finite numbers below 1e9, first: bbox \[\] in annotation 1",
        ),
        (_set("annotations", 0, "bbox", None), "without a bbox of four finite numbers below 1e9, first: bbox None"),
        (_set("annotations", 0, "bbox", [0, 0, 0, 0]), "1 box of zero or negative size.*drop_bad='annotations'"),
        (_set("images", 0, "id", 101), "image id that occurs twice, for different images, first: 101"),
        (_set("images", 0, "id", "a"), "1 image whose id is a text, and others whose id is a number, first: 'a'"),
        (_set("images", 0, "id", True), "image without an id, a file_name, or a height and width above 0"),
        (_set("images", 0, "height", 10**30), "image without an id, a file_name, or a height and width above 0"),
        (_set("images", 0, "file_name", ""), "image without an id, a file_name, or a height and width above 0"),
        (_set("images", 0, "width", 0), "height and width above 0"),
        (_set("images", 0, "file_name", "gone.png"), "1 image that is not at .*first: gone.png"),
        (_set("categories", 0, "id", 3), "category id that occurs twice, with different names, first: 3"),
        (_set("categories", 0, "name", None), "category without an id and a name"),
        (lambda data: data.pop("annotations"), "no list 'annotations'"),
        (lambda data: data["images"].append(7), "1 image that is no JSON object"),
        (lambda data: data["images"].clear(), "has no images"),
        (lambda data: data["categories"].clear(), "has no categories"),
    ],
)
def test_bad_files_are_refused(tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str) -> None:
    path, root = make_coco(tmp_path, change=change)
    with pytest.raises(UserError, match=message) as caught:
        load_coco(path, root, name="tiny")
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_and_broken_json(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="annotations of tiny not found"):
        load_coco(tmp_path / "no.json", tmp_path, name="tiny")
    (tmp_path / "bad.json").write_text('{"images": [}')
    with pytest.raises(UserError, match="is not JSON: line 1"):
        load_coco(tmp_path / "bad.json", tmp_path, name="tiny")


def test_cocos_own_sets_lose_their_empty_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, root = make_coco(tmp_path / "source", change=_set("annotations", 0, "bbox", [1, 2, 3, 0]))
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    path.rename(tmp_path / "coco" / "annotations" / "instances_val2017.json")
    root.rename(tmp_path / "coco" / "val2017")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = load_dataset("coco_2017_val", tiny_config("FPN").cfg)
    assert [1, 2, 3, 0] not in [a["bbox"] for a in data.truth["annotations"]]
    assert [(p.kind, p.severity, p.count) for p in data.problems] == [("box_size", "dropped", 1)]


def test_cocos_minival2014_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its ids are said to be floats, and those of crowds repeated: Detectron2 makes an exception for it by name."""

    def change(data: dict[str, Any]) -> None:
        for number, annotation in enumerate(data["annotations"][:3]):
            crowd = {**annotation, "id": 9.0e11, "iscrowd": 1, "bbox": [40, 40 + number, 20, 20]}
            data["annotations"].append(crowd)
        for annotation in data["annotations"]:
            annotation.update({key: float(annotation[key]) for key in ("id", "image_id", "category_id")})

    path, root = make_coco(tmp_path / "source", change=change)
    (tmp_path / "coco" / "annotations").mkdir(parents=True)
    path = path.rename(tmp_path / "coco" / "annotations" / "instances_minival2014.json")
    root.rename(tmp_path / "coco" / "val2014")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    data = load_dataset("coco_2014_minival", tiny_config("FPN").cfg)
    assert sum(int(r.crowd.sum()) for r in data.records) == 3
    assert [(p.kind, p.count) for p in data.problems] == [("annotation_id_repeated", 3)]
    detections: list[Detection] = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 1 - i / 100}
        for i, a in enumerate(data.truth["annotations"][1:])
    ]
    raw = json.loads(path.read_text())
    raw["annotations"] = [{**a, "id": number} for number, a in enumerate(raw["annotations"], start=1)]
    result = coco_ap(data.truth, detections)
    assert 0 < result.ap < 100
    assert same_ap(result.named().values(), pycocotools(raw, detections))


def test_a_missing_coco_names_the_variable_and_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = tiny_config("FPN").cfg
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    with pytest.raises(
        UserError, match=r"no annotations at datasets/coco/annotations/instances_val2017\.json; .*not set"
    ):
        load_dataset("coco_2017_val", cfg)
    write_val2014(tmp_path)
    (tmp_path / "coco" / "val2014").rename(tmp_path / "elsewhere")
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    with pytest.raises(UserError, match=r"coco_2014_val: no images at .*val2014; set DETECTRON2_DATASETS .*it is /"):
        load_dataset("coco_2014_val", cfg)


def test_segmentations_are_carried_on_and_what_is_complete_is_known(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "a", change=_set("annotations", 0, "segmentation", [[1, 1, 5, 1, 5, 5]]))
    assert "segmentation" not in load_coco(path, root, name="tiny").truth["annotations"][0]
    data = load_coco(path, root, name="tiny", segmentation=True)
    assert data.truth["annotations"][0]["segmentation"] == [[1, 1, 5, 1, 5, 5]]
    assert "segmentation" not in data.truth["annotations"][1]
    assert data.complete

    def without_area(raw: dict[str, Any]) -> None:
        del raw["annotations"][2]["area"]

    assert not load_coco(*make_coco(tmp_path / "b", change=without_area), name="tiny").complete
    empty = make_coco(tmp_path / "c", change=_set("annotations", 0, "bbox", [1, 2, 3, 0]))
    assert not load_coco(*empty, name="tiny", drop_empty_boxes=True).complete


@pytest.fixture
def val2014(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The ``annotations`` folder of a small COCO 2014, and an empty cache."""
    write_val2014(tmp_path)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    return tmp_path / "coco" / "annotations"


def test_val2014_is_split_by_the_users_list(val2014: Path, caplog: pytest.LogCaptureFixture) -> None:
    whole = json.loads((val2014 / "instances_val2014.json").read_text())
    (val2014 / "minival_8k_ids.txt").write_text("104\n101\n")
    cfg = tiny_config("FPN").cfg
    minival = load_dataset("coco_2014_minival_8k", cfg)
    others = load_dataset("coco_2014_valminusminival_8k", cfg)
    assert [r.id for r in minival.records] == [101, 104]
    assert [r.id for r in others.records] == [100, 102, 103, 105]
    written = [json.loads(Path(data.source).read_text()) for data in (minival, others)]
    for part in ("images", "annotations"):
        found = [e for w in written for e in w[part]]
        assert sorted(found, key=lambda e: e["id"]) == sorted(whole[part], key=lambda e: e["id"])
    assert {a["image_id"] for a in written[0]["annotations"]} == {101, 104}
    assert written[0]["info"] == {"year": 2014}
    assert "lists 2 images, the paper's minival* has 8000" in caplog.text


def test_another_list_is_another_file_whatever_its_form(val2014: Path, tmp_path: Path) -> None:
    sources = {}
    for name, text in (("a.txt", "101 104"), ("b.json", "[104.0, 101]"), ("c.txt", "101,\n105\n")):
        (tmp_path / name).write_text(text)
        cfg = tiny_config("FPN", ["SCALEPRIOR.MINIVAL_IDS", str(tmp_path / name)]).cfg
        sources[name] = dataset_paths("coco_2014_minival_8k", cfg)[0]
    assert sources["a.txt"] == sources["b.json"] != sources["c.txt"]
    annotations = val2014 / "instances_val2014.json"
    annotations.write_text(annotations.read_text() + "\n")
    assert dataset_paths("coco_2014_minival_8k", cfg)[0] != sources["c.txt"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("101\n999\n998\n", "lists 2 images that are not in .*instances_val2014.json, first: 998"),
        ("101\n104\n101\n", "has 1 image id that occurs twice, first: 101"),
        ("101\ncat.jpg\n", "has 1 entry that is no image id, first: 'cat.jpg'"),
        ("[101, 1.5, null]", "has 2 entries that are no image id, first: '1.5'"),
        ("[101,", "list of image ids .* is not JSON"),
        (" \n", "is empty"),
        ("[]", "is empty"),
        ("100 101 102 103 104 105", "lists every image of"),
        (None, r"there is none at .*minival_8k_ids\.txt; .*SCALEPRIOR\.MINIVAL_IDS.*mscoco_minival_ids\.txt"),
    ],
)
def test_lists_that_do_not_fit_are_refused(val2014: Path, text: str | None, message: str) -> None:
    if text is not None:
        (val2014 / "minival_8k_ids.txt").write_text(text)
    for name in ("coco_2014_valminusminival_8k", "coco_2014_minival_8k"):
        with pytest.raises(UserError, match=message) as caught:
            load_dataset(name, tiny_config("FPN").cfg)
        assert "\n" not in str(caught.value)
        if message.startswith("lists every"):
            break  # all images to evaluate on is unusual, but a set


def test_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/d")
    cfg = tiny_config("FPN", ["SCALEPRIOR.DATASETS", "[['mine', 'a.json', 'b']]"]).cfg
    assert dataset_paths("coco_2014_train", cfg) == (
        "/d/coco/annotations/instances_train2014.json",
        "/d/coco/train2014",
    )
    assert dataset_paths("mine", cfg) == ("a.json", "b")
    with pytest.raises(UserError, match="no data set is called 'yours'; known are mine, coco_2014_train"):
        dataset_paths("yours", cfg)
    with pytest.raises(UserError, match="has the entry 'mine'"):
        dataset_paths("mine", tiny_config("FPN", ["SCALEPRIOR.DATASETS", "['mine', 'a.json', 'b']"]).cfg)


def test_images_from_tars(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    for number in range(2):
        with tarfile.open(tmp_path / f"train-{number}.tar", "w") as tar:
            for file in sorted(root.iterdir())[number::2]:
                tar.add(file, arcname=f"train/{file.name}")
    data = load_coco(path, tmp_path / "train-*.tar", name="tiny")
    assert data.root.read("003.png") == data.root.read("train/003.png") == (root / "003.png").read_bytes()
    with pytest.raises(UserError, match=r"3 images that are not at .*train-0\.tar, first: 001\.png"):
        load_coco(path, tmp_path / "train-0.tar", name="tiny")
    with pytest.raises(UserError, match="no images at"):
        open_root(tmp_path / "none-*.tar")


def test_a_bare_name_in_two_folders_is_ambiguous(tmp_path: Path) -> None:
    file = tmp_path / "1.jpg"
    file.write_bytes(b"x")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        tar.add(file, arcname="train/1.jpg")
        tar.add(file, arcname="val/1.jpg")
    with pytest.raises(UserError, match=r"'1\.jpg' is both train/1\.jpg and val/1\.jpg"):
        open_root(tmp_path / "a.tar").read("1.jpg")


def test_real_coco_with_crowds_and_empty_images(shared_data: Path) -> None:
    folder = shared_data / "tiny_coco"
    data = load_coco(folder / "annotations/instances_train2017.json", folder / "train2017", name="tiny_coco")
    assert len(data) == 50
    assert len(data.class_names) == 80
    assert sum(int(r.crowd.sum()) for r in data.records) == 5
    empty = [r.id for r in data.records if not len(r.boxes)]
    assert empty == [262284]
    assert len(usable(data, filter_empty=False)) == 50
    with_boxes = [data.records[i].id for i in usable(data, filter_empty=True)]
    assert sorted({r.id for r in data.records} - set(with_boxes)) == [
        r.id for r in data.records if r.crowd.all()
    ]  # "all" of nothing is true


def test_real_mosaics_in_tars(shared_data: Path) -> None:
    folder = shared_data / "mosaic_detection"
    data = load_coco(folder / "instances_train.json", folder / "train-*.tar", name="mosaic")
    assert (len(data), len(data.class_names)) == (1200, 20)
    boxes = np.concatenate([r.boxes for r in data.records])
    assert len(boxes) == 7849
    assert boxes.min() >= 0
    assert boxes.max() <= 256


@pytest.mark.parametrize(
    ("name", "near"), [("IMAGES/1.JPG", ""), ("1.JPG", "; there is '1.jpg' (names in another case)")]
)
def test_a_missing_image_names_the_one_that_is_there(tmp_path: Path, name: str, near: str) -> None:
    path, root = make_coco(tmp_path)
    data = json.loads(path.read_text())
    first = data["images"][0]
    (Path(root) / first["file_name"]).rename(Path(root) / "1.jpg")
    first["file_name"] = name
    path.write_text(json.dumps(data))
    with pytest.raises(UserError, match=re.escape(f"image that is not at {root}, first: {name}{near}")):
        load_coco(path, root, name="tiny")


def test_files_of_one_stem_are_told_apart_by_their_folders() -> None:
    named = {
        ("a/train.json", "a/val.json"): ["train", "val"],
        ("train/_annotations.coco.json", "valid/_annotations.coco.json"): [
            "train/_annotations.coco", "valid/_annotations.coco",
        ],
        ("x/train/b/i.json", "x/valid/b/i.json", "x/b/j.json"): ["train/b/i", "valid/b/i", "x/b/j"],
        ("a.json", "./a.json"): ["a", "a"],
        (): [],
    }  # fmt: skip
    for files, names in named.items():
        assert names_of_files(files) == names
