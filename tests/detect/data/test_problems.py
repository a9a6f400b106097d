"""Detection sets as people have them: read as they are meant, left out when asked to, or all told at once."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaleprior.detect.data.coco import load_coco
from scaleprior.detect.data.problems import Problem
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco

Change = Callable[[dict[str, Any]], None]


def _annotation(index: int, **values: Any) -> Change:
    return lambda data: data["annotations"][index].update(values)


BAD: dict[str, Change] = {
    "category_unknown": _annotation(0, category_id=99),
    "image_unknown": _annotation(0, image_id=5),
    "box": _annotation(0, bbox=[]),
    "iscrowd": _annotation(0, iscrowd=2),
    "ignore": _annotation(0, ignore=1),
    "area": _annotation(0, area="big"),
    "box_size": _annotation(0, bbox=[0, 0, 0, 0]),
    "box_outside": _annotation(0, bbox=[64, 0, 5, 5]),
}


@pytest.mark.parametrize("kind", BAD)
def test_annotations_that_cannot_be_used_are_left_out_when_asked_to(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = make_coco(tmp_path, change=BAD[kind])
    whole = len(json.loads(path.read_text())["annotations"])
    if kind == "box_outside":  # pycocotools and Detectron2 read it, so it is a warning
        assert [p.severity for p in load_coco(path, root, name="tiny").problems] == ["warning"]
    else:
        with pytest.raises(UserError, match=r"first: .* in annotation 1; .*leave them out by drop_bad='annotations'"):
            load_coco(path, root, name="tiny")
    data = load_coco(path, root, name="tiny", drop_bad="annotations")
    assert sum(len(r.boxes) for r in data.records) == len(data.truth["annotations"]) == whole - 1
    assert len(data) == 6
    assert not data.complete
    (problem,) = data.problems
    assert (problem.kind, problem.severity, problem.count) == (kind, "dropped", 1)
    assert problem.places[0]["part"] == "annotations"
    assert (problem.places[0]["index"], problem.places[0]["id"]) == (0, 1)
    assert "1 " in caplog.text
    assert "left out, first:" in caplog.text

    data = load_coco(path, root, name="tiny", drop_bad="images")
    if kind == "image_unknown":
        assert len(data) == 6
        return
    assert [r.id for r in data.records] == [101, 102, 103, 104, 105]
    assert all(a["image_id"] != 100 for a in data.truth["annotations"])
    assert [(p.kind, p.severity, p.count) for p in data.problems] == [
        (kind, "dropped", 1),
        ("image_of_bad", "dropped", 1),
    ]
    assert data.problems[1].places[0]["file_name"] == "000.png"


def test_all_kinds_are_told_at_once(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for index, kind in enumerate(BAD):
            copy = dict(data["annotations"][0])
            data["annotations"].append(copy)
            BAD[kind]({"annotations": [copy]})
            copy["id"] = 100 + index
        data["images"][3]["file_name"] = "gone.png"
        data["images"][4]["width"] = 0
        data["categories"].append({"id": 9, "name": "block"})

    path, root = make_coco(tmp_path, change=change)
    found: list[Problem] = []
    data = load_coco(path, root, name="tiny", problems=found)
    assert {p.kind: (p.severity, p.count) for p in found} == {
        **dict.fromkeys(BAD, ("error", 1)),
        "box_outside": ("warning", 1),
        "images_entry": ("error", 1),
        "image_missing": ("error", 1),
        "category_name_repeated": ("warning", 2),
        "category_unused": ("note", 1),
    }
    assert all(str(path) in str(p) and "\n" not in str(p) for p in found)
    json.dumps([dict(place) for p in found for place in p.places])
    # what is left is sound: a preflight goes on with it
    assert [r.id for r in data.records] == [100, 101, 102, 105]
    assert {a["image_id"] for a in data.truth["annotations"]} <= {100, 101, 102, 105}
    (tmp_path / "results.json").write_text("[]")
    with pytest.raises(UserError, match="has no list 'images'"):
        load_coco(tmp_path / "results.json", root, name="tiny", problems=found)


def test_null_is_absent(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation.update(ignore=None, iscrowd=None, area=None, id=None)

    plain = load_coco(*make_coco(tmp_path / "a"), name="tiny")
    data = load_coco(*make_coco(tmp_path / "b", change=change), name="tiny")
    assert data.truth == plain.truth
    assert (plain.complete, data.complete) == (True, False)


def test_whole_floats_are_whole_numbers_and_texts_are_ids(tmp_path: Path) -> None:
    def floats(data: dict[str, Any]) -> None:
        for part, keys in (
            ("images", ("id", "height", "width")),
            ("annotations", ("id", "image_id", "category_id", "iscrowd")),
            ("categories", ("id",)),
        ):
            for entry in data[part]:
                entry.update({key: float(entry[key]) for key in keys})
        data["annotations"][1]["ignore"] = 0.0

    def texts(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["id"] = f"im/{image['id']}"
        for category in data["categories"]:
            category["id"] = f"c{category['id']}"
        for annotation in data["annotations"]:
            annotation.update(image_id=f"im/{annotation['image_id']}", category_id=f"c{annotation['category_id']}")

    plain = load_coco(*make_coco(tmp_path / "a"), name="tiny")
    data = load_coco(*make_coco(tmp_path / "b", change=floats), name="tiny")
    assert data.truth == plain.truth
    assert not data.complete
    assert all(type(r.id) is type(r.width) is int for r in data.records)
    named = load_coco(*make_coco(tmp_path / "c", change=texts), name="tiny")
    assert named.complete
    assert [r.id for r in named.records] == [f"im/{100 + i}" for i in range(6)]
    assert (named.category_ids, named.class_names) == (("c3", "c7"), ("block", "square"))
    for ours, theirs in zip(named.records, plain.records, strict=True):
        np.testing.assert_array_equal(ours.classes, theirs.classes)


@pytest.mark.parametrize(
    ("change", "kind", "count"),
    [
        (lambda d: [a.update(id=99) for a in d["annotations"][:3]], "annotation_id_repeated", 3),
        (lambda d: d["annotations"].append({**d["annotations"][0], "id": 77}), "annotation_repeated", 1),
        (_annotation(0, area=-1), "area_range", 1),
        (_annotation(0, bbox=[60, 0, 6, 5]), "box_beyond", 1),
        (_annotation(0, bbox=[-2, 0, 6, 5]), "box_beyond", 1),
        (lambda d: d["images"].append(dict(d["images"][0])), "image_repeated", 1),
        (lambda d: d["images"][0].update(file_name="001.png"), "file_name_repeated", 2),
        (lambda d: d["categories"].append(dict(d["categories"][0])), "category_repeated", 1),
        (lambda d: d["categories"][0].update(name="block"), "category_name_repeated", 2),
    ],
)
def test_what_is_odd_is_told_with_a_number_and_used(
    tmp_path: Path, change: Change, kind: str, count: int, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = make_coco(tmp_path, change=change)
    data = load_coco(path, root, name="tiny")
    assert [(p.kind, p.severity, p.count) for p in data.problems] == [(kind, "warning", count)]
    assert caplog.text.count("WARNING") == 1
    assert f" has {count} " in caplog.text
    assert len(data.truth["annotations"]) == len(json.loads(path.read_text())["annotations"])
    assert [a["id"] for a in data.truth["annotations"]] == list(range(1, len(data.truth["annotations"]) + 1))
    # repeated ids would be one object to an evaluator, repeated categories two classes to Detectron2
    assert data.complete == (kind not in ("annotation_id_repeated", "image_repeated", "category_repeated"))


def test_numbers_that_no_float_holds_are_none(tmp_path: Path) -> None:
    for key, value in (("bbox", [1, 2, 10**400, 3]), ("area", 10**400)):
        path, root = make_coco(tmp_path / key, change=_annotation(0, **{key: value}))
        with pytest.raises(UserError, match=f"first: {key} .*10000"):
            load_coco(path, root, name="tiny")


def test_a_byte_order_mark_is_no_part_of_the_json(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    plain = load_coco(path, root, name="tiny")
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes())
    data = load_coco(path, root, name="tiny")
    assert data.truth == plain.truth
    assert not data.complete  # pycocotools, and with it Detectron2, refuses the file


def test_nothing_but_images_is_a_set(tmp_path: Path) -> None:
    """Of pictures without objects; training and evaluation say what they miss."""
    data = load_coco(*make_coco(tmp_path, change=lambda d: d["annotations"].clear()), name="tiny")
    assert (len(data), data.truth["annotations"]) == (6, [])
    assert [p.kind for p in data.problems] == ["category_unused"]


def test_a_box_up_to_a_pixel_over_the_edge_is_rounding(tmp_path: Path) -> None:
    assert not load_coco(*make_coco(tmp_path, change=_annotation(0, bbox=[-0.5, -1, 65.5, 66])), name="tiny").problems


def test_a_supercategory_that_is_a_category_is_noted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Roboflow's exports begin with one of id 0."""
    data = load_coco(*make_coco(tmp_path, change=lambda d: d["categories"].append({"id": 0, "name": "all"})), name="t")
    assert data.category_ids == (0, 3, 7)
    assert [(p.kind, p.severity, p.first) for p in data.problems] == [("category_unused", "note", "'all' of id 0")]
    assert not caplog.text


def test_an_annotation_id_0_makes_a_file_incomplete(tmp_path: Path) -> None:
    """Evaluators mark "no match" by 0, so Detectron2 must not get the file as it is."""
    assert not load_coco(*make_coco(tmp_path, change=_annotation(0, id=0)), name="tiny").complete
