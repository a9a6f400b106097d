"""What a detection set holds, against counts made by hand and by a loop; and its page."""

from __future__ import annotations

import base64
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scaleprior.corpus import hash64
from scaleprior.detect import DetectionSet, detection_statistics, load_coco, write_detection_page
from scaleprior.errors import UserError
from tests.corpus.views.test_page import HOSTILE, Elements

# (image, category, bbox, area, crowd): 3 images, of which the last has no box
BOXES: list[tuple[int, int, list[float], float, int]] = [
    (1, 5, [0, 0, 32, 31], 992, 0),  # small: below 1024
    (1, 5, [0, 0, 32, 32], 1024, 0),  # medium: from 1024 on
    (1, 9, [10, 10, 96, 95], 9120, 0),  # medium: below 9216
    (2, 9, [0, 0, 96, 96], 9216, 0),  # large: from 9216 on
    (2, 9, [-5, 0, 20, 10], 40, 0),  # small by its area; beyond the left edge by 5
    (2, 7, [0, 0, 90, 90], 8100, 1),  # a crowd counts nowhere else
]


def make(folder: Path, *, names: dict[int, str] | None = None) -> DetectionSet:
    """Three images of 120 x 120 with BOXES; one PNG, two JPEGs."""
    names = names or {5: "five", 7: "seven", 9: "nine"}
    folder.mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    for number in (1, 2, 3):
        name = f"{number}.{'png' if number == 1 else 'jpg'}"
        Image.new("RGB", (120, 120), (60 * number, 80, 90)).save(folder / name)
        images.append({"id": number, "file_name": name, "width": 120, "height": 120})
    annotations = [
        {"id": k, "image_id": image, "category_id": category, "bbox": box, "area": area, "iscrowd": crowd}
        for k, (image, category, box, area, crowd) in enumerate(BOXES, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in names.items()]
    (folder / "set.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": categories})
    )
    return load_coco(folder / "set.json", folder, name="mine")


def test_counts_by_hand(tmp_path: Path) -> None:
    stats = detection_statistics(make(tmp_path))
    assert (stats.images, stats.boxes, stats.crowds, stats.empty, stats.outside) == (3, 5, 1, 1, 1)
    assert stats.by_size == {"small": 2, "medium": 2, "large": 1}
    assert stats.per_image.tolist() == [1, 0, 1, 1]
    nine, five, seven = (vars(one) for one in stats.classes)
    assert nine == {
        "id": 9, "name": "nine", "images": 2, "boxes": 3, "small": 1, "medium": 1, "large": 1, "crowds": 0,
    }  # fmt: skip
    assert (five["boxes"], five["images"], five["small"], five["medium"]) == (2, 1, 1, 1)
    assert (seven["boxes"], seven["images"], seven["crowds"]) == (0, 0, 1)
    assert stats.headers is not None
    assert stats.headers.formats == {"JPEG": 2, "PNG": 1}
    assert stats.to_dict()["aspect_ratio"] == pytest.approx({"min": 1, "median": 96 / 95, "max": 2})


def test_sentences(tmp_path: Path) -> None:
    said = detection_statistics(make(tmp_path)).sentences()
    assert said[0] == "3 images with 5 boxes of 2 classes, 1.67 an image in the mean, 3 at most."
    assert said[1] == "By COCO's sizes, 40.0 % small, 40.0 % medium, 20.0 % large."
    for sentence in (
        "Boxes a class: 2 (five) to 3 (nine).",
        "Without a box: 1 class (seven).",
        "Without a box: 1 image (33.3 %).",
        "Crowds, which are in no figure of boxes: 1 annotation.",
        "Beyond their image by more than a pixel: 1 box.",
    ):
        assert sentence in said


def test_a_sample_is_the_first_in_the_hash_order_of_the_names(tmp_path: Path) -> None:
    data = make(tmp_path)
    names = ["1.png", "2.jpg", "3.jpg"]
    first = min(zip(hash64(names).tolist(), names))[1]
    headers = detection_statistics(data, sample=1).headers
    assert headers is not None
    assert headers.formats == {"PNG" if first.endswith("png") else "JPEG": 1}
    assert headers.describe() == "a random sample of 1 of 3 images"
    assert detection_statistics(data, sample=0).headers is None
    with pytest.raises(UserError, match="sample is -2"):
        detection_statistics(data, sample=-2)


def test_images_that_exif_turns_are_counted(tmp_path: Path) -> None:
    data = make(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (120, 60)).save(tmp_path / "2.jpg", exif=exif)
    headers = detection_statistics(data).headers
    assert headers is not None
    assert headers.turned == 1
    assert sorted(headers.sizes.tolist()) == [[60, 120], [120, 120], [120, 120]]
    assert "turned by EXIF when they are read: 1." in write_detection_page(tmp_path / "p.html", data).read_text()


def test_mosaic_has_the_sizes_that_its_readme_says(shared_data: Path) -> None:
    folder = shared_data / "mosaic_detection"
    stats = detection_statistics(load_coco(folder / "instances_val.json", folder / "val-000.tar", name="m"), sample=0)
    assert (stats.images, stats.boxes) == (400, 2568)
    assert list(stats.by_size.values()) == [248, 2242, 78]
    truth = json.loads((folder / "instances_val.json").read_text())
    boxes = Counter(a["category_id"] for a in truth["annotations"])
    images = Counter(c for _, c in {(a["image_id"], a["category_id"]) for a in truth["annotations"]})
    assert {one.id: (one.boxes, one.images) for one in stats.classes} == {c: (boxes[c], images[c]) for c in boxes}


def test_the_page_is_one_file_that_shows_boxes_where_they_are(tmp_path: Path) -> None:
    data = make(tmp_path)
    page = write_detection_page(tmp_path / "page.html", data).read_text(encoding="utf-8")
    for tag, attributes in Elements(page).found:
        for name in ("src", "href"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
    strip = page.split("<bdi>five</bdi>")[1].split("</section>")[0]
    drawn = [Elements(rect).found[0][1] for rect in re.findall(r"<rect .*?>", strip)]
    boxes = [(r["class"], r["x"], r["y"], r["width"], r["height"]) for r in drawn]
    assert (
        boxes
        == [  # the class' boxes on top, the smaller above the larger
            ("", "10.0", "10.0", "96.0", "95.0"),
            ("own", "0.0", "0.0", "32.0", "31.0"),
            ("own", "0.0", "0.0", "32.0", "32.0"),
        ][::1]
        or boxes
    )
    shown = Image.open(io.BytesIO(base64.b64decode(re.findall(r'base64,(.*?)"', strip)[0])))
    assert shown.size == (120, 120)
    assert "seven" not in page.split("Samples with boxes")[1].split("<h2>")[0].replace("<title>seven", "")


def test_names_are_text_whatever_they_hold(tmp_path: Path) -> None:
    data = make(tmp_path, names=dict(zip((5, 7, 9), (HOSTILE[0], HOSTILE[1], HOSTILE[4]))))
    parsed = Elements(write_detection_page(tmp_path / "p.html", data).read_text(encoding="utf-8"))
    assert [attributes.get("type") for tag, attributes in parsed.found if tag == "script"] == ["application/json", None]
    assert sorted(row[0] for row in json.loads(parsed.scripts[0])) == sorted([HOSTILE[0], HOSTILE[1], HOSTILE[4]])


def test_classes_show_images_that_others_did_not(tmp_path: Path) -> None:
    """Two classes in the same eight images, four shown of each: all eight are."""
    images, annotations = [], []
    for k in range(8):
        Image.new("RGB", (20, 20)).save(tmp_path / f"{k}.png")
        images.append({"id": k, "file_name": f"{k}.png", "width": 20, "height": 20})
        annotations += [{"image_id": k, "category_id": c, "bbox": [1, 1, 5, 5]} for c in (1, 2)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (tmp_path / "set.json").write_text(json.dumps(content))
    data = load_coco(tmp_path / "set.json", tmp_path, name="m")
    page = write_detection_page(tmp_path / "p.html", data).read_text()
    assert len(set(re.findall(r'aria-label="(\d\.png)"', page))) == 8


def test_a_set_without_any_box_has_a_page(tmp_path: Path) -> None:
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    content = {
        "images": [{"id": 1, "file_name": "1.png", "width": 20, "height": 20}],
        "annotations": [],
        "categories": [{"id": 1, "name": "a"}],
    }
    (tmp_path / "set.json").write_text(json.dumps(content))
    data = load_coco(tmp_path / "set.json", tmp_path, name="m")
    stats = detection_statistics(data)
    assert stats.to_dict()["aspect_ratio"] == {}
    page = write_detection_page(tmp_path / "p.html", data, stats).read_text()
    assert "1 image with 0 boxes of 0 classes" in page
    assert "All images are 20 pixels wide and 20 high." in page


def test_a_notebook_shows_the_classes(tmp_path: Path) -> None:
    shown = detection_statistics(make(tmp_path))._repr_html_()
    assert shown.index("nine") < shown.index("<td><bdi>five")
    assert "<style" not in shown


def test_boxes_by_side_and_shape_fall_into_their_bins() -> None:
    from scaleprior.detect.data.views.page import _ratio_chart, _side_chart

    sides = _side_chart(np.array([31.9, 32, 95.9, 96, 5000]))
    heights = dict(re.findall(r"<title>(\d+): (\d+)</title>", sides))
    assert {side: heights[side] for side in ("16", "32", "64", "96", "1024")} == {
        "16": "1", "32": "1", "64": "1", "96": "1", "1024": "1",
    }  # fmt: skip
    shapes = dict(re.findall(r"<title>(\d:\d): (\d+)</title>", _ratio_chart(np.array([0.01, 0.9, 1.2, 1.3, 2, 100]))))
    assert {ratio: n for ratio, n in shapes.items() if n != "0"} == {
        "1:4": "1",
        "1:1": "2",
        "3:2": "1",
        "2:1": "1",
        "4:1": "1",
    }
