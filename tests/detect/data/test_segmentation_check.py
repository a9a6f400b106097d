"""Masks of instances files: what is read, what is left out, and what is refused with one clear line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scaleprior.detect.data.coco import load_coco, load_dataset
from scaleprior.detect.data.problems import Problem
from scaleprior.detect.data.segmentation import Polygons, RunLengths
from scaleprior.detect.data.segmentation_check import MaskUse
from scaleprior.errors import UserError
from tests.detect.conftest import add_outlines, data_overrides, make_coco, tiny_config

RLE = {"counts": [0, 8, 64 * 64 - 8], "size": [64, 64]}
Change = Callable[[dict[str, Any]], None]


def _outlined(index: int, segmentation: Any, *, crowd: bool = False) -> Change:
    """A set with outlines, of which annotation ``index`` has another mask; ... takes it away."""

    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        data["annotations"][index]["segmentation"] = segmentation
        data["annotations"][index]["iscrowd"] = int(crowd)
        if segmentation is ...:
            del data["annotations"][index]["segmentation"]

    return change


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (
            ...,
            r"has 1 annotation without a segmentation, first: segmentation None in annotation 2; leave MODEL.MASK_",
        ),
        (None, "1 annotation without a segmentation"),
        ([], "1 annotation without a segmentation"),
        ([1, 2, 3, 4, 5, 6], r"neither a list of polygons \[x1, y1, x2, y2, ...\] nor RLE, first: .* in annotation 2"),
        ("a mask", "neither a list of polygons"),
        ({"counts": 3, "size": [64, 64]}, "neither a list of polygons"),
        ({"size": [64, 64]}, "neither a list of polygons"),
        ([[1, 2, 3, 4, 5, float("nan")]], "a polygon of something else than finite numbers below 1e9"),
        ([[1, 2, 3, 4, 5, "6"]], "a polygon of something else than finite numbers"),
        ([[1, 2, 3, 4, 5, 2e9]], "a polygon of something else than finite numbers"),
        ({"counts": [0, 8, 5], "size": [64, 64]}, "whose RLE is damaged: its runs do not fill an image of its size"),
        ({"counts": [8, -8, 64 * 64], "size": [64, 64]}, "whose RLE is damaged"),
        ({"counts": "a b", "size": [64, 64]}, "whose RLE is damaged"),
        ({"counts": "", "size": [64, 64]}, "whose RLE is damaged"),
        ({"counts": "\ud800", "size": [64, 64]}, "whose RLE is damaged"),  # as JSON may hold half a letter
        ({"counts": [64 * 64], "size": 64 * 64}, "whose RLE is damaged"),
        ({"counts": [32 * 128], "size": [32, 128]}, r"of another size than their image, first: .*\[32, 128\]"),
    ],
)
@pytest.mark.parametrize("use", ["polygon", "bitmask", "truth"])
def test_bad_masks_are_refused(tmp_path: Path, use: MaskUse, segmentation: Any, message: str) -> None:
    path, root = make_coco(tmp_path, change=_outlined(1, segmentation))
    with pytest.raises(UserError, match=message) as caught:
        load_coco(path, root, name="tiny", masks=use)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(load_coco(path, root, name="tiny").truth["annotations"]) == 9  # nobody asked for masks
    found: list[Problem] = []
    load_coco(path, root, name="tiny", masks=use, problems=found)
    assert [problem.count for problem in found if problem.severity == "error"] == [1]
    kept = load_coco(path, root, name="tiny", masks=use, drop_bad="annotations")
    assert len(kept.truth["annotations"]) == 8
    assert [(p.severity, p.count) for p in kept.problems if p.severity == "dropped"] == [("dropped", 1)]


def test_a_set_without_masks_says_how_many_objects_lack_one(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    cfg = tiny_config("FPN", data_overrides(path, root)).cfg
    assert load_dataset("tiny", cfg).records[0].masks is None
    with pytest.raises(UserError, match=r"has 9 annotations without a segmentation, .* leave MODEL.MASK_ON False"):
        load_coco(path, root, name="tiny", masks="polygon")


def test_run_lengths_need_bitmaps_in_training(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, change=_outlined(1, RLE))
    with pytest.raises(UserError, match=r"is RLE, while INPUT.MASK_FORMAT is .polygon., .* bitmask, which"):
        load_coco(path, root, name="tiny", masks="polygon")
    data = load_coco(path, root, name="tiny", masks="bitmask")
    masks = [mask for record in data.records for mask in record.masks or ()]
    assert [type(mask) for mask in masks[:3]] == [Polygons, RunLengths, Polygons]
    assert isinstance(masks[1], RunLengths)
    assert masks[1].array().sum() == 8
    assert "segmentation" not in data.truth["annotations"][1]
    truth = load_coco(path, root, name="tiny", masks="truth")
    assert truth.truth["annotations"][1]["segmentation"] == RLE  # type: ignore[typeddict-item]
    assert truth.records[0].masks is None


def test_crowds_have_run_lengths_that_training_does_not_look_at(tmp_path: Path) -> None:
    damaged = {"counts": [1], "size": [64, 64]}
    path, root = make_coco(tmp_path, change=_outlined(1, damaged, crowd=True))
    masks = [mask for r in load_coco(path, root, name="tiny", masks="polygon").records for mask in r.masks or ()]
    assert [mask is None for mask in masks[:3]] == [False, True, False]
    with pytest.raises(UserError, match="whose RLE is damaged"):
        load_coco(path, root, name="tiny", masks="truth")
    path, root = make_coco(tmp_path / "sound", change=_outlined(1, RLE, crowd=True))
    load_coco(path, root, name="tiny", masks="polygon")
    load_coco(path, root, name="tiny", masks="truth")


@pytest.mark.parametrize("use", ["polygon", "bitmask", "truth"])
def test_polygons_that_are_none_are_left_out_as_in_detectron2(tmp_path: Path, use: MaskUse) -> None:
    whole = [2, 2, 6, 2, 6, 4]

    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        data["annotations"][0]["segmentation"] = [[1, 1, 2, 2], whole, [1, 1, 2, 2, 3, 3, 4], []]
        data["annotations"][2]["segmentation"] = [[1, 1, 2, 2]]

    data = load_coco(*make_coco(tmp_path, change=change), name="tiny", masks=use)
    told = [(p.kind, p.severity, p.count, p.first) for p in data.problems]
    assert told[:2] == [
        ("polygon_short", "dropped", 4, "polygon [1, 1, 2, 2] in annotation 1"),
        ("segmentation_empty", "dropped", 1, "segmentation [[1, 1, 2, 2]] in annotation 3"),
    ]
    assert len(data.truth["annotations"]) == 8
    assert not data.complete
    if use == "truth":
        assert data.truth["annotations"][0]["segmentation"] == [whole]  # type: ignore[typeddict-item]
    else:
        masks = data.records[0].masks
        assert masks is not None
        assert isinstance(masks[0], Polygons)
        assert masks[0].flat() == [whole]


@pytest.mark.detectron2
def test_detectron2_leaves_out_the_same_objects(tmp_path: Path) -> None:
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets import load_coco_json

    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        data["annotations"][0]["segmentation"].append([1, 1, 2, 2])
        data["annotations"][2]["segmentation"] = [[1, 1, 2, 2], [1, 1, 2, 2, 3]]
        data["annotations"][3]["segmentation"] = RLE

    path, root = make_coco(tmp_path, change=change)
    theirs = [
        o["segmentation"] for r in load_coco_json(str(path), str(root), "masks_as_ours") for o in r["annotations"]
    ]
    MetadataCatalog.remove("masks_as_ours")
    ours = [mask for r in load_coco(path, root, name="tiny", masks="bitmask").records for mask in r.masks or ()]
    assert len(ours) == len(theirs)
    for our, their in zip(ours, theirs):
        if isinstance(our, Polygons):
            assert our.flat() == their
        else:
            assert isinstance(our, RunLengths)
            assert our.counts == their["counts"]
