"""Masks and keypoints of the user's own sets: kept, completed, and missed before a model is trained on them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import create_keypoint_hflip_indices

from scaleprior.d2 import Trainer, register_coco
from scaleprior.d2.data.datasets import check_annotated
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import plan_training
from scaleprior.errors import UserError
from tests.d2.conftest import backbone_file, tiny
from tests.d2.evaluation.conftest import with_keypoints, with_polygons
from tests.detect.conftest import data_overrides, make_coco

KEYPOINTS = [
    *("MODEL.KEYPOINT_ON", "True", "TEST.KEYPOINT_OKS_SIGMAS", "[0.1, 0.1, 0.1]"),
    *("MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS", "(8,)"),
]


def test_a_keypoint_rcnn_trains_and_is_evaluated(tmp_path: Path) -> None:
    """Three keypoints, one object without, on a file without annotation ids: all in the completed copy, and an AP."""

    def change(data: dict[str, Any]) -> None:
        with_keypoints(data)
        for each in data["annotations"]:
            del each["id"], each["num_keypoints"]
        del data["annotations"][0]["keypoints"]

    path, root = make_coco(tmp_path / "data", images=8, change=change)
    backbone_file(tmp_path / "w.safetensors")
    # hardly trained: what it detects is noise, and there is some of it
    words = [*data_overrides(path, root), *KEYPOINTS, "SOLVER.MAX_ITER", "2", "SOLVER.BASE_LR", "1e-6"]
    loaded, engine = tiny("FPN", words), Detectron2Engine()
    model = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    metadata = MetadataCatalog.get("tiny")
    completed = json.loads(Path(metadata.json_file).read_text())
    first, second = completed["annotations"][:2]
    assert (first["keypoints"], first["num_keypoints"]) == ([0] * 9, 0)
    assert second["keypoints"] == json.loads(path.read_text())["annotations"][1]["keypoints"]
    assert second["num_keypoints"] == 3
    assert completed["categories"][0]["skeleton"] == [[1, 3], [2, 3]]
    assert create_keypoint_hflip_indices("tiny") == [1, 0, 2]
    (result,) = engine.evaluate(loaded, model, tmp_path / "run").values()
    assert result.metrics is not None
    assert set(result.metrics["keypoints"]) >= {"AP", "AP50", "AP75", "APm", "APl"}
    assert result.has_boxes
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "keypoint_head" in log


def test_other_fields_of_an_annotation_pass(tmp_path: Path) -> None:
    path, root = make_coco(
        tmp_path / "data",
        change=lambda data: [each.update(attributes={"wet": True}, id=0, ignore=None) for each in data["annotations"]],
    )
    register_coco("other_fields", path, root)
    (annotation, *_) = json.loads(Path(MetadataCatalog.get("other_fields").json_file).read_text())["annotations"]
    assert annotation["attributes"] == {"wet": True}
    assert "ignore" not in annotation  # Detectron2 takes null for something to ignore
    DatasetCatalog.get("other_fields")


def lacking(index: int, key: str) -> Callable[[dict[str, Any]], None]:
    def change(data: dict[str, Any]) -> None:
        with_keypoints(data)
        with_polygons(data)
        if key == "names":
            for category in data["categories"]:
                del category["keypoints"]
        elif key == "partner":
            for category in data["categories"]:
                category["keypoints"][0] = "LeftEar"
        elif key == "short":
            data["annotations"][index]["keypoints"].pop()
        else:
            del data["annotations"][index][key]

    return change


@pytest.mark.parametrize(
    ("change", "words", "said"),
    [
        (
            lacking(2, "segmentation"),
            ["MODEL.MASK_ON", "True"],
            "has 1 annotation without a segmentation, the first is nu",
        ),
        (lacking(0, "names"), KEYPOINTS, "has 0 lists of keypoints in its categories, where one is needed"),
        (
            lacking(2, "short"),
            KEYPOINTS,
            "1 annotation whose keypoints are not 3 triples of x, y and 0, 1 or 2, the fir",
        ),
        (lacking(0, "partner"), KEYPOINTS, "has the keypoint 'LeftEar' and no 'RightEar', which a flip makes of it"),
        (with_keypoints, KEYPOINTS[:2], "TEST.KEYPOINT_OKS_SIGMAS are those of 17 keypoints, and the model has 3"),
        (
            with_keypoints,
            [*KEYPOINTS, "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", "17"],
            "NUM_KEYPOINTS is 17, and data set tiny has 3; use MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS 3",
        ),
    ],
)
def test_what_a_model_would_miss(change: Any, words: list[str], said: str, tmp_path: Path) -> None:
    """Refused where the model asks for it; a detector of boxes takes the same file."""
    path, root = make_coco(tmp_path / "data", change=change)
    backbone_file(tmp_path / "w.safetensors")
    with pytest.raises(UserError) as e:
        plan_training(tiny("FPN", [*data_overrides(path, root), *words]), tmp_path / "w.safetensors", tmp_path / "run")
    assert said in str(e.value)
    plan_training(tiny("FPN", data_overrides(path, root)), tmp_path / "w.safetensors", tmp_path / "run")


def test_a_trainer_by_hand_is_told_too(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data")
    register_coco("boxes_only", path, root)
    words = ["DATASETS.TRAIN", "('boxes_only',)", "DATASETS.TEST", "()", "MODEL.MASK_ON", "True"]
    with pytest.raises(
        UserError, match=r"MODEL\.MASK_ON is True, and data set boxes_only has 9 annotations without a segm"
    ):
        Trainer(tiny("FPN", words).cfg)


def test_sets_of_others_are_asked_for_names_of_keypoints() -> None:
    DatasetCatalog.register("theirs", list)
    MetadataCatalog.get("theirs").thing_classes = ["person"]
    words = ["DATASETS.TRAIN", "('theirs',)", "MODEL.KEYPOINT_ON", "True"]
    with pytest.raises(UserError, match="the metadata of data set theirs name no keypoints"):
        check_annotated(tiny("FPN", words).cfg, training=True)
    check_annotated(tiny("FPN", words).cfg, training=False)
    words = ["DATASETS.TRAIN", "('keypoints_coco_2017_train',)", "DATASETS.TEST", "('keypoints_coco_2017_val',)"]
    check_annotated(tiny("FPN", [*words, "MODEL.KEYPOINT_ON", "True"]).cfg, training=True)
