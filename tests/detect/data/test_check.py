"""The check of detection sets: everything that is wrong at once, from headers alone, and known the next time."""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from scaleprior.detect.data import headers
from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.headers import read_headers
from scaleprior.detect.data.image_root import open_root
from scaleprior.detect.data.segmentation_check import MaskUse
from tests.corpus.images.files import exif, noise, save
from tests.detect.conftest import add_outlines, make_coco


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


def files(role: str, place: tuple[Path, Path]) -> SetFiles:
    return SetFiles(role, role, str(place[0]), str(place[1]))


def kinds(*sets: SetFiles, **options: Any) -> dict[str, int]:
    report, _ = check_sets(sets, **options)
    return {finding.kind: finding.count for finding in report.findings}


def test_sound_sets_have_nothing_wrong_and_are_described(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "a", 6), make_coco(tmp_path / "b", 4, seed=1)
    report, classes = check_sets([files("train", train), files("val", val)], same_ids=True)
    assert (report.findings, report.ok, classes) == ([], True, 2)
    assert report.facts == {
        "train train": "6 images, 2 classes, 9 boxes; 6 image headers read, 0 known",
        "val val": "4 images, 2 classes, 6 boxes; 4 image headers read, 0 known",
    }


def test_a_set_has_its_statistics_also_the_next_time(tmp_path: Path) -> None:
    train = make_coco(tmp_path / "a", 6)
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(train[1] / "001.png", exif=exif)
    for _ in range(2):
        statistics = check_sets([files("train", train)])[0].to_dict()["statistics"]["train train"]
        assert statistics["sentences"][0] == "6 images with 9 boxes of 2 classes, 1.50 an image in the mean, 2 at most."
        assert sum(statistics["sizes"].values()) == statistics["boxes"] == 9
        assert {one["name"] for one in statistics["classes"]} == {"square", "block"}
        assert statistics["headers"] == {"formats": {"PNG": 6}, "turned": 1}


def test_everything_is_said_at_once(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "a", 6), make_coco(tmp_path / "b", 4, seed=1, change=_rename)
    root = train[1]
    (root / "000.png").unlink()
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "001.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(root / "002.png")
    (root / "003.png").write_text("no image")
    (root / "004.png").write_bytes((root / "004.png").read_bytes()[:-300])
    check_sets([files("train", train)])  # known or not, all of it is wrong
    report, _ = check_sets([files("train", train), files("val", val)])
    found = {finding.kind: finding for finding in report.findings}
    assert {kind: finding.count for kind, finding in found.items()} == {
        "image_missing": 1, "image_damaged": 2, "image_size": 2, "categories": 2,
    }  # fmt: skip
    assert found["image_size"].examples[0] == "001.png is 30x20, the annotations say 64x64 (width x height)"
    assert found["image_damaged"].examples[0].startswith("003.png: not an image of a known format")
    assert "truncated PNG" in found["image_damaged"].examples[1]
    assert found["categories"].examples == (f"'block' only in {train[0]}", f"'stone' only in {val[0]}")
    assert not report.ok
    with pytest.raises(ValueError, match=r"^4 things would stop this run, nothing was started\n- .* 1 image that is"):
        report.refuse()


def _rename(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "stone"


def _other_order(data: dict[str, Any]) -> None:
    data["categories"] = [{"id": 3, "name": "square"}, {"id": 7, "name": "block"}]


def _other_ids(data: dict[str, Any]) -> None:
    data["categories"][0]["id"] = 8
    for annotation in data["annotations"]:
        annotation["category_id"] = 3


def _no_boxes(data: dict[str, Any]) -> None:
    data["annotations"] = []


@pytest.mark.parametrize(
    ("change", "kind", "example"),
    [
        (_other_order, "category_order", "class 0 is 'block' and 'square'"),
        (_other_ids, "category_ids", "'square' is 7 and 8"),
        (_no_boxes, "nothing_to_find", None),
    ],
)
def test_the_second_set_has_to_fit_the_first(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], kind: str, example: str | None
) -> None:
    train, val = make_coco(tmp_path / "a"), make_coco(tmp_path / "b", seed=1, change=change)
    report, _ = check_sets([files("train", train), files("val", val)], same_ids=True)
    (finding,) = report.findings
    assert (finding.kind, finding.stops, *finding.examples) == (kind, True, *([example] if example else []))
    # Detectron2 numbers the classes of each set by itself, so there other ids are only worth knowing.
    report, _ = check_sets([files("train", train), files("val", val)])
    assert report.ok == (kind == "category_ids")


def test_a_set_without_a_box_cannot_be_trained_on(tmp_path: Path) -> None:
    assert kinds(files("train", make_coco(tmp_path / "a", change=_no_boxes))) == {"nothing_to_train": 1}


def test_a_set_whose_objects_are_all_refused_is_not_said_to_have_none(tmp_path: Path) -> None:
    set_ = files("train", make_coco(tmp_path / "a"))
    assert set(kinds(set_._replace(masks="polygon"))) == {"segmentation_missing"}


def test_a_broken_json_does_not_hide_the_other_set(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "a"), make_coco(tmp_path / "b", seed=1)
    train[0].write_text("{")
    (val[1] / "002.png").unlink()
    assert kinds(files("train", train), files("val", val)) == {"annotations": 1, "image_missing": 1}


def test_a_missing_image_is_told_with_what_is_there(tmp_path: Path) -> None:
    train = make_coco(tmp_path)
    (train[1] / "002.png").rename(train[1] / "002.PNG")
    report, _ = check_sets([files("train", train)])
    assert report.findings[0].examples == ("002.png (there is '002.PNG' (names in another case))",)


def test_shared_images_are_worth_knowing(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "a", 6), make_coco(tmp_path / "b", 4, seed=1)  # names are shared, bytes are not
    assert kinds(files("train", train), files("val", val)) == {}
    (val[1] / "001.png").write_bytes((train[1] / "001.png").read_bytes())
    report, _ = check_sets([files("train", train), files("val", val)])
    (finding,) = report.findings
    assert (finding.kind, finding.examples, finding.stops) == ("shared_images", ("001.png",), False)
    report.refuse()  # logs it
    other = train[0].with_name("other.json")
    other.write_bytes(train[0].read_bytes())
    assert kinds(files("train", train), files("val", (other, train[1]))) == {"shared_images": 6}
    assert kinds(files("train", train), files("val", train)) == {"shared_images": 1}


def test_what_has_not_changed_is_not_read_again(tmp_path: Path) -> None:
    _, root = make_coco(tmp_path / "a", 6)
    names = [f"{number:03d}.png" for number in range(6)]
    first, read = read_headers(open_root(root), names)
    assert (read, first["003.png"][1:]) == (6, ("PNG", 64, 64, "", False, 1, False))
    assert read_headers(open_root(root), names) == (first, 0)
    before = os.stat(root / "003.png")
    (root / "003.png").write_bytes(padded_png(40, 50, before.st_size))
    os.utime(root / "003.png", ns=(before.st_atime_ns, before.st_mtime_ns))  # as a copy that keeps times leaves it
    again, read = read_headers(open_root(root), names)
    assert (read, again["003.png"][1:4]) == (1, ("PNG", 40, 50))
    assert {name: h for name, h in again.items() if name != "003.png"} == {
        name: h for name, h in first.items() if name != "003.png"
    }


def padded_png(height: int, width: int, size: int) -> bytes:
    """A PNG padded to ``size`` bytes in front of its end."""
    out = io.BytesIO()
    Image.fromarray(np.zeros((height, width, 3), np.uint8)).save(out, "PNG")
    data = out.getvalue()
    filler = size - len(data) - 12
    assert filler >= 0
    return data[:-12] + filler.to_bytes(4, "big") + b"tEXt" + bytes(filler + 4) + data[-12:]


def test_a_damaged_cache_is_no_cache(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "a", 3)
    sets = [files("train", (path, root))]
    first, _ = check_sets(sets)
    for kept in (tmp_path / "home" / "checks").iterdir():
        kept.write_text('{"schema": 1, "columns": 3}')
    assert check_sets(sets)[0] == first
    for kept in (tmp_path / "home" / "checks").iterdir():
        kept.write_bytes(b"\xff\x00")
    assert check_sets(sets)[0] == first


def test_a_home_that_cannot_be_written_costs_the_cache_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "file"))
    assert kinds(files("train", make_coco(tmp_path / "a", 3))) == {}


def test_images_in_tars_are_known_by_their_tar(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "a", 4)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        tar.add(root, "deep")
    sets = [files("train", (path, tmp_path / "images.tar"))]
    report, _ = check_sets(sets)
    assert report.findings == []
    report, _ = check_sets(sets)
    assert report.facts["train train"].endswith("0 image headers read, 4 known")
    os.utime(tmp_path / "images.tar")
    report, _ = check_sets(sets)
    assert report.facts["train train"].endswith("4 image headers read, 0 known")


@pytest.mark.parametrize("waiting", [0.0, 1e9])
def test_one_thread_or_many_say_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, waiting: float) -> None:
    monkeypatch.setattr(headers, "_CHUNK", 2)
    monkeypatch.setattr(headers, "_WAITING", waiting)
    _, root = make_coco(tmp_path / "a", 7)
    (root / "005.png").unlink()
    names = [f"{number:03d}.png" for number in range(7)]
    told: list[tuple[int, int]] = []
    found, read = read_headers(open_root(root), names, progress=lambda done, total, _: told.append((done, total)))
    assert list(found) == sorted(names, key=lambda name: (name != "005.png", name))
    assert (read, found["005.png"].absent, told[-1]) == (6, True, (7, 7))


def large_jpeg(**options: Any) -> bytes:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 400, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "JPEG", quality=95, **options)
    assert len(out.getvalue()) > 2 * headers._HEAD
    return out.getvalue()


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (large_jpeg(), ""),
        (large_jpeg(icc_profile=bytes(200_000)), ""),  # its frame header lies behind what is read first
        (large_jpeg() + bytes(100), ""),  # bytes behind the end are harmless
        (large_jpeg()[:-5000], "truncated"),
        (large_jpeg()[:90_000], "truncated"),
    ],
    ids=["whole", "long header", "spare bytes", "cut off", "cut in half"],
)
def test_large_images_are_judged_by_head_and_tail(tmp_path: Path, data: bytes, problem: str) -> None:
    (tmp_path / "a.jpg").write_bytes(data)
    found, _ = read_headers(open_root(tmp_path), ["a.jpg"])
    assert problem in found["a.jpg"].problem
    assert bool(problem) == bool(found["a.jpg"].problem)
    if not problem:
        assert found["a.jpg"] == headers.Header(len(data), "JPEG", 300, 400)


@pytest.mark.parametrize("name", ["no\0name", "../a.jpg", "folder"])
def test_names_that_are_no_images(tmp_path: Path, name: str) -> None:
    (tmp_path / "images" / "folder").mkdir(parents=True)
    found, _ = read_headers(open_root(tmp_path / "images"), [name])
    assert found[name].absent == (name != "folder")
    assert ("cannot be read" in found[name].problem) == (name == "folder")


def test_the_json_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = make_coco(tmp_path / "a", 3)
    first, _ = check_sets([files("train", place)])
    with monkeypatch.context() as patch:
        patch.delattr("scaleprior.detect.data.check.read_instances")
        again, _ = check_sets([files("train", place)])
    assert again.facts["train train"].split(";")[0] == first.facts["train train"].split(";")[0]
    data = json.loads(place[0].read_text())
    data["images"][0]["width"] = 63
    place[0].write_text(json.dumps(data))
    assert kinds(files("train", place)) == {"image_size": 1}


def test_photographs_are_judged_as_exif_turns_them(tmp_path: Path) -> None:
    """What training would say of them, before it: upright sizes fit, the sizes of stored pixels are called that."""

    def change(data: dict[str, Any]) -> None:
        data["annotations"] = data["annotations"][:0]
        for image, (width, height) in zip(data["images"], ((20, 30), (30, 20), (40, 30))):
            image |= {"width": width, "height": height}

    place = make_coco(tmp_path / "a", 3, change=change)
    for name in ("000.png", "001.png", "002.png"):
        (place[1] / name).write_bytes(save(noise(20, 30), "PNG", exif=exif(6)))
    for _ in range(2):  # read, and known
        report, _ = check_sets([files("val", place)])
        found = {finding.kind: finding for finding in report.findings}
        assert set(found) == {"image_size", "image_turned", "nothing_to_find"}
        said = "is 20x30 upright (its EXIF orientation is 6), the annotations say"
        assert found["image_turned"].examples == (f"001.png {said} 30x20 (width x height)",)
        assert found["image_size"].examples == (f"002.png {said} 40x30 (width x height)",)
        assert "exiftool" in str(found["image_turned"].hint)


def test_images_that_detectron2_would_misread_are_found(tmp_path: Path) -> None:
    def rename(data: dict[str, Any]) -> None:
        for number, suffix in ((1, "tif"), (2, "tif"), (3, "tif")):
            data["images"][number]["file_name"] = f"{number:03d}.{suffix}"

    train = make_coco(tmp_path / "a", 6, change=rename)
    grey = Image.fromarray(np.full((64, 64), 60_000, np.uint16))
    grey.save(train[1] / "000.png")
    grey.save(train[1] / "001.tif")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(train[1] / "002.tif", tiffinfo={274: 3})
    Image.fromarray(np.zeros((64, 64), np.float32)).save(train[1] / "003.tif")
    for _ in range(2):  # from the files, then from what was kept
        assert kinds(files("train", train)) == {"image_damaged": 1}  # of 32 bits, which no engine can take
        found = kinds(files("train", train), detectron2=True)
        assert found == {"image_damaged": 1, "image_deep": 2, "image_turned_twice": 1}


@pytest.mark.parametrize("use", ["polygon", "truth"])
def test_masks_are_looked_at_where_the_config_needs_them(tmp_path: Path, use: MaskUse) -> None:
    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        data["annotations"][0]["segmentation"] = [1, 2, 3, 4, 5, 6]
        data["annotations"][1]["segmentation"] = {"counts": [9], "size": [64, 64]}
        del data["annotations"][2]["segmentation"]
        data["annotations"][3]["segmentation"].append([1, 2])

    masked = files("train", make_coco(tmp_path, change=change))
    assert check_sets([masked])[0].ok
    report, _ = check_sets([masked._replace(masks=use)])
    assert not report.ok
    assert [(f.kind, f.count, f.stops) for f in report.findings] == [
        ("segmentation_missing", 1, True),
        ("segmentation", 1, True),
        ("segmentation_rle", 1, True),
        ("polygon_short", 1, False),
    ]
    assert check_sets([masked])[0].ok  # what is kept of a set is kept for each use
