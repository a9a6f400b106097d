"""A detection set for FiftyOne: boxes by hand, and FiftyOne's own importer where it is installed."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect import export_detections, load_coco
from tests.detect.data.views.test_statistics import make


def samples(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "samples.json").read_text())["samples"]


def test_boxes_are_shares_of_the_image(tmp_path: Path) -> None:
    data = make(tmp_path / "in", names={5: "five", 7: "same", 9: "same"})
    export_detections(data, tmp_path / "out")
    first, second, third = samples(tmp_path / "out")
    assert first["filepath"] == str(tmp_path / "in" / "1.png")
    assert (first["tags"], first["image_id"], first["file_name"]) == (["mine"], 1, "1.png")
    assert (first["metadata"]["width"], first["metadata"]["height"]) == (120, 120)
    assert first["ground_truth"]["_cls"] == "Detections"
    assert first["ground_truth"]["detections"][2] == {
        "_cls": "Detection",
        "label": "same (9)",
        "bounding_box": [10 / 120, 10 / 120, 96 / 120, 95 / 120],
        "category_id": 9,
        "area": 9120.0,
        "size": "medium",
        "iscrowd": False,
    }
    assert [box["iscrowd"] for box in second["ground_truth"]["detections"]] == [False, False, True]
    assert third["ground_truth"] == {"_cls": "Detections", "detections": []}
    info = json.loads((tmp_path / "out" / "metadata.json").read_text())["info"]
    assert info["classes"] == {"ground_truth": ["five", "same (7)", "same (9)"]}


def test_members_of_a_tar_are_written_out(tmp_path: Path) -> None:
    make(tmp_path / "in")
    with tarfile.open(tmp_path / "t.tar", "w") as tar:
        for name in ("1.png", "2.jpg", "3.jpg"):
            tar.add(tmp_path / "in" / name, f"train/{name}")
    export_detections(load_coco(tmp_path / "in" / "set.json", tmp_path / "t.tar", name="mine"), tmp_path / "out")
    for sample in samples(tmp_path / "out"):
        assert sample["filepath"] == f"data/{sample['file_name']}"
        copied = tmp_path / "out" / sample["filepath"]
        assert copied.read_bytes() == (tmp_path / "in" / sample["file_name"]).read_bytes()


def test_the_command(cli: Any, tmp_path: Path) -> None:
    make(tmp_path / "in")
    run = cli("detect", "export", "in/set.json", "in", "out", "--copy")
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith("3 images of set in out\n")
    assert samples(tmp_path / "out")[0]["tags"] == ["set"]
    again = cli("detect", "export", "in/set.json", "in", "out")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr


def test_fiftyone_reads_what_was_written(tmp_path: Path) -> None:
    fo = pytest.importorskip("fiftyone")
    importers = pytest.importorskip("fiftyone.utils.data.importers")

    export_detections(make(tmp_path / "in"), tmp_path / "out", copy=True)
    found = importers._handle_legacy_formats(importers.FiftyOneDatasetImporter(str(tmp_path / "out")))
    found.setup()
    first, second, third = list(found)
    assert all(isinstance(box, fo.Detection) for box in first.ground_truth.detections)
    assert [box.label for box in first.ground_truth.detections] == ["five", "five", "nine"]
    assert second.ground_truth.detections[0].bounding_box == pytest.approx([0, 0, 0.8, 0.8])
    assert third.ground_truth.detections == []
    assert first.filepath == str(tmp_path / "out" / "data" / "1.png")
    assert (first.metadata.width, first.media_type) == (120, "image")
