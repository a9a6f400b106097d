"""Sets, detections and images that nobody made to be read: bounded work, and one line that names the file."""

from __future__ import annotations

import io
import json
import os
import random
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scaleprior.detect.data.check import SetFiles, check_sets
from scaleprior.detect.data.coco import load_coco, load_truth
from scaleprior.detect.data.image_root import IMAGE_BYTES, FolderRoot, open_root
from scaleprior.detect.data.minival import read_image_ids
from scaleprior.detect.data.problems import Problem
from scaleprior.detect.data.segmentation_check import is_drawable
from scaleprior.detect.score import score_detections
from scaleprior.errors import UserError
from tests.detect.conftest import add_outlines, make_coco

Change = Callable[[dict[str, Any]], None]
DEEP = "[" * 900 + "]" * 900


def image_of(data: dict[str, Any]) -> dict[str, Any]:
    return data["images"][0]


def first(data: dict[str, Any]) -> dict[str, Any]:
    return data["annotations"][0]


def one_line(error: UserError) -> str:
    assert str(error).isprintable()
    assert len(str(error)) < 1000
    return str(error)


_WRONG: list[tuple[Change, str]] = [
    (lambda data: image_of(data).update(file_name="../images/000.png"), "it does not lie below"),
    (lambda data: image_of(data).update(file_name="/etc/passwd"), "it does not lie below"),
    (lambda data: image_of(data).update(file_name="x" * 5000 + "/a"), "images* that"),
    (lambda data: image_of(data).update(file_name="a/" * 50_000 + "b"), "images* that"),
    (lambda data: image_of(data).update(file_name="\x1b]0;title\x07.png"), "image that is not at"),
    (lambda data: image_of(data).update(height=10**9, width=10**9), "without an id, a file_name, or a height"),
    (lambda data: image_of(data).update(height=10**400), "without an id, a file_name, or a height"),
    (lambda data: image_of(data).update(id={"a": DEEP}), "without an id"),
    (lambda data: first(data).update(area=10**400), "whose area is not a number"),
    (lambda data: first(data).update(bbox=json.loads(DEEP)), "without a bbox"),
    (lambda data: first(data).update(bbox=[10**400] * 4), "without a bbox"),
    (lambda data: first(data).update(id=json.loads(DEEP), bbox="x"), "without a bbox"),
    (lambda data: first(data).update(iscrowd=json.loads(DEEP)), "iscrowd"),
    (lambda data: first(data).update(image_id=json.loads(DEEP)), "unknown images"),
    (lambda data: data.update(images=[json.loads(DEEP)] * 2), "no JSON object"),
    (lambda data: data["categories"][0].update(name=json.loads(DEEP)), "without an id and a name"),
    (lambda data: data["categories"][0].update(id="x" * 100_000), "whose id is a text"),
]


@pytest.mark.parametrize(("change", "words"), _WRONG)
def test_wrong_values_of_any_depth_and_length(tmp_path: Path, change: Change, words: str) -> None:
    path, root = make_coco(tmp_path, 2, change=change)
    with pytest.raises(UserError, match=words) as caught:
        load_coco(path, root, name="a")
    assert str(path) in one_line(caught.value)
    problems: list[Problem] = []
    if "JSON" not in words:
        load_coco(path, root, name="a", problems=problems)
    for problem in problems:
        json.dumps(list(problem.places), allow_nan=False)
        assert len(str(problem)) < 1000


def test_digits_and_depth_are_those_of_the_gate(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, 2)
    good = path.read_text()
    for text, words in {
        good.replace('"area": ', '"area": ' + "9" * 5000, 1): "cannot be read: Exceeds the limit",
        good.replace('"iscrowd": 0', '"iscrowd": ' + "[" * 100_000, 1): "nested too deeply",
        good[:-40]: "is not JSON: line 1",
        good.replace("{", "{\0", 1): "null character at byte 1",
    }.items():
        path.write_text(text)
        with pytest.raises(UserError, match=words) as caught:
            load_coco(path, root, name="a")
        assert str(path) in one_line(caught.value)


def test_files_larger_than_a_config_are_read_and_sparse_ones_cost_nothing(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, 2, change=lambda data: data.update(info="x" * (65 << 20)))
    assert len(load_coco(path, root, name="a")) == 2
    for size, words in ((4 << 30, "null character"), (1 << 40, "at most 8 GiB are read")):
        with open(path, "wb") as file:
            file.write(b'{"images": [')
            file.truncate(size)
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=words):
                load_truth(path)
            assert tracemalloc.get_traced_memory()[1] < 8 << 20
        finally:
            tracemalloc.stop()


def test_a_full_name_below_the_folder_is_that_file_and_any_other_leads_out(tmp_path: Path) -> None:
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "x").write_bytes(b"in")
    (tmp_path / "out").write_bytes(b"out")
    (tmp_path / "in2").write_bytes(b"out")
    root = open_root(tmp_path / "in")
    for name in ("a/x", "./a//x", f"{tmp_path}/in/a/x", f"{tmp_path}/in//a/x"):
        assert root.read(name) == b"in"
        assert root.missing([name]) == []
    full = [f"{tmp_path}/out", f"{tmp_path}/in2", f"{tmp_path}/in/../out", "/"]
    for name in ("../out", "a/../../out", "..\\out", *full):
        assert root.missing([name]) == [name]
        with pytest.raises(UserError, match="image "):
            root.read(name)
    assert "does not lie below" in root.near("../out")
    assert open_root("/").read(f"{tmp_path}/out") == b"out"


def test_only_regular_files_are_images(tmp_path: Path) -> None:
    path, folder = make_coco(tmp_path, 3)
    for name, make in {
        "000.png": os.mkfifo,
        "001.png": lambda name: os.symlink("/dev/zero", name),
        "002.png": lambda name: os.symlink("002.png", name),
    }.items():
        (folder / name).unlink()
        make(folder / name)
    root = open_root(folder)
    names = ["000.png", "001.png", "002.png"]
    assert root.missing(names) == names
    assert root.near("000.png") == "it is no regular file"
    for name in names:
        with pytest.raises(UserError, match=r"is a pipe|is a device|Too many levels"):
            root.read(name)
    with pytest.raises(UserError, match=r"has 3 images that are not at .*000\.png; it is no regular file"):
        load_coco(path, folder, name="a")
    findings = check_sets([SetFiles("train", "a", str(path), str(folder))])[0].findings
    assert {finding.kind for finding in findings} == {"image_damaged", "image_missing"}


def test_an_image_of_gigabytes_is_not_read(tmp_path: Path) -> None:
    path, folder = make_coco(tmp_path, 1)
    with open(folder / "000.png", "wb") as file:
        file.truncate(IMAGE_BYTES + 1)
    member = tarfile.TarInfo("a.png")
    member.size = IMAGE_BYTES + 1
    with open(tmp_path / "a.tar", "wb") as file:
        file.write(member.tobuf(tarfile.GNU_FORMAT))
        file.truncate((2 << 30) + 10_240)
    tracemalloc.start()
    try:
        for root, name in ((open_root(folder), "000.png"), (open_root(tmp_path / "a.tar"), "a.png")):
            with pytest.raises(UserError, match="has 1 GiB, at most 1 GiB are read"):
                root.read(name)
        findings = check_sets([SetFiles("train", "a", str(path), str(folder))])[0].findings
        assert "at most 1 GiB are read" in findings[0].examples[0]
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_a_sparse_member_of_a_tar_is_left_out(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("a.png")
        member.size, member.pax_headers = 10, {**sparse, "GNU.sparse.name": "a.png"}
        tar.addfile(member, io.BytesIO(b"0\n".ljust(10)))
    root = open_root(tmp_path / "a.tar")
    assert root.missing(["a.png"]) == ["a.png"]
    assert root.near("a.png") == "sparse files, devices and pipes in tars"


def test_a_folder_is_listed_once_however_it_is_spelled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").touch()
    root = open_root(tmp_path)
    assert isinstance(root, FolderRoot)
    listed, scandir = [], os.scandir
    monkeypatch.setattr(os, "scandir", lambda folder: listed.append(folder) or scandir(folder))
    assert root.missing("./" * spelled + "a" for spelled in range(1000)) == []
    assert len(listed) == 1


@pytest.mark.parametrize(
    ("mask", "fits"),
    [
        ([[0, 0, 9, 0, 9, 9]], True),
        ([[0, 0, 65_535, 0, 9, 9]], True),
        ([[0, 0, 65_536, 0, 9, 9]], False),
        ([[0, 0, 9e8, 0, 9e8, 9e8]], False),
        ([[0, 0, 60_000, 60_000] * 9], False),
        ([[0, 0, 60_000, 60_000]] * 8, True),
        ([[0, 0, 60_000, 60_000]] * 9, False),
        ([[0.5, 0.5] * 600_000], True),
        ([[], [1]], True),
        ({"size": [2, 3], "counts": [1, 5]}, True),
        ({"size": [2, 3], "counts": [1, 6]}, False),
        ({"size": [10**9, 10**9], "counts": [10**18]}, False),
        ({"size": [2, 3], "counts": "oooooooooooo"}, False),
        ({"size": [2, 3]}, False),
        ({"size": 3, "counts": ""}, False),
        ({}, False),
        (None, True),
        ([["a"]], True),
    ],
)
def test_masks_that_the_evaluator_can_be_given(mask: Any, fits: bool) -> None:
    assert is_drawable(mask) is fits


@pytest.mark.parametrize("use", ["polygon", "bitmask", "truth"])
def test_an_outline_without_end_is_refused_before_it_is_drawn(tmp_path: Path, use: Any) -> None:
    """Its steps would take 36 GiB."""

    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        first(data)["segmentation"] = [[0, 0, 9e8, 0, 9e8, 9e8]]

    path, root = make_coco(tmp_path, 2, change=change)
    with pytest.raises(UserError, match=r"has 1 annotation with an edge of more than 65,535 pixels, or an outline of"):
        load_coco(path, root, name="a", masks=use)
    found = load_coco(path, root, name="a", masks=use, drop_bad="annotations")
    assert [problem.kind for problem in found.problems if problem.severity == "dropped"] == ["segmentation_outline"]


def test_short_polygons_by_the_thousand_are_counted(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        first(data)["segmentation"] += [[1, 2]] * 20_000

    path, root = make_coco(tmp_path, 2, change=change)
    found = load_coco(path, root, name="a", masks="polygon").problems
    assert [(problem.kind, problem.count) for problem in found] == [("polygon_short", 20_000)]


_DETECTION = {"image_id": 100, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ([{**_DETECTION, "bbox": [1, 2, 1e308, 1e308]}], "whose bbox is not"),
        ([{**_DETECTION, "bbox": [1, 2, 10**400, 3]}], "whose bbox is not"),
        ([{**_DETECTION, "image_id": "x" * 1_000_000}], "of images that the truth has not"),
        ([{**_DETECTION, "score": 10**400}], "whose score is not a number"),
        (json.dumps([_DETECTION]).replace("100", DEEP), "of images that the truth has not"),
        (json.dumps([_DETECTION]).replace("0.5", "9" * 5000), "cannot be read: Exceeds the limit"),
        ("[" * 100_000, "nested too deeply"),
        ("{}", "is not a list"),
        ([{**_DETECTION, "segmentation": {"size": [10**9, 10**9], "counts": "0" + "o" * 40}}], "damaged RLE"),
        ([{**_DETECTION, "segmentation": {"size": [64, 64], "counts": "o" * 40}}], "damaged RLE"),
        ([{**_DETECTION, "segmentation": {"size": [[64], 64], "counts": "0"}}], "damaged RLE"),
    ],
)
def test_detections_that_are_none(tmp_path: Path, text: Any, words: str) -> None:
    truth, _ = make_coco(tmp_path, 2, change=add_outlines)
    path = tmp_path / "found.json"
    path.write_text(text if isinstance(text, str) else json.dumps(text))
    with pytest.raises(UserError, match=words) as caught:
        score_detections(path, truth)
    assert str(path) in one_line(caught.value)


@pytest.mark.parametrize(
    ("content", "words"),
    [("1 " + "9" * 5000, "no image id"), ("[1, " + DEEP + "]", "no image id"), ("[1", "is not JSON"), ("1\0", "null")],
)
def test_lists_of_ids_that_are_none(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "ids.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_image_ids(path)
    assert str(path) in one_line(caught.value)


@pytest.mark.slow
def test_sets_of_random_values_are_read_or_refused(tmp_path: Path) -> None:
    """300 mutations of a set and of detections, seeded: values of other types anywhere."""
    draw = random.Random(17)
    path, root = make_coco(tmp_path, 2, change=add_outlines)
    good, found = path.read_text(), tmp_path / "found.json"
    rle = {"size": [64, 64], "counts": "0P2l1"}
    detections = json.dumps([{**_DETECTION, "segmentation": rle}, {**_DETECTION, "segmentation": [[1, 2, 3, 4, 5, 6]]}])
    values = [None, True, -1, 0, 1e308, float("nan"), 10**30, "", "a", "\0", "100", [], {}, [[]], [1, 2, 3, 4], rle]
    values = [json.dumps(value) for value in [*values, [[9e8] * 6]]]

    def mutated(text: str) -> str:
        data = json.loads(text)
        for _ in range(draw.randrange(1, 4)):
            places = [(data, key) for key in (data if isinstance(data, dict) else range(len(data)))]
            for holder, key in places:
                if isinstance(value := holder[key], (dict, list)):
                    places += [(value, inner) for inner in (value if isinstance(value, dict) else range(len(value)))]
            holder, key = draw.choice(places)
            holder[key] = json.loads(draw.choice(values))
        return json.dumps(data)

    for _ in range(300):
        path.write_text(mutated(good) if draw.random() < 0.7 else good)
        found.write_text(mutated(detections) if draw.random() < 0.7 else detections)
        for read in (
            lambda: load_coco(path, root, name="a", masks=draw.choice(["polygon", "bitmask", "truth", None])),
            lambda: load_coco(path, root, name="a", keep_all=True, problems=[]),
            lambda: score_detections(found, path, out=tmp_path / "out"),
        ):
            try:
                read()
            except UserError as e:
                one_line(e)


@pytest.mark.slow
def test_run_lengths_of_random_text_are_read_or_refused() -> None:
    """20,000 strings, seeded; what passes fills its image."""
    from faster_coco_eval.core import mask as mask_api

    draw = random.Random(17)
    good = mask_api.encode(np.asfortranarray(np.eye(9, dtype=np.uint8)))["counts"]
    for _ in range(20_000):
        counts = bytearray(good)
        for _ in range(draw.randrange(4)):
            at = draw.randrange(len(counts))
            counts[at : at + draw.randrange(2)] = bytes([draw.randrange(40, 120)])
        mask = {"size": [9, 9], "counts": counts.decode()}
        if is_drawable(mask):
            assert mask_api.decode(mask).shape == (9, 9)
