"""LVIS and panoptic sets, where the packages that Detectron2 evaluates them with are installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.data.datasets.lvis import get_lvis_instances_meta, register_lvis_instances

from scaleprior.d2.evaluation.places import check_lvis
from scaleprior.errors import UserError
from tests.d2.evaluation.conftest import with_polygons
from tests.d2.evaluation.test_kinds import train_and_evaluate
from tests.detect.conftest import make_coco

UNTRAINED = ["SOLVER.BASE_LR", "1e-6"]  # detects noise, and some of it


def test_lvis_has_aps_by_frequency(tmp_path: Path) -> None:
    pytest.importorskip("lvis", reason="lvis is not installed")
    try:
        check_lvis()
    except UserError as e:
        pytest.skip(str(e))

    def change(data: dict[str, Any]) -> None:
        with_polygons(data)
        for category, frequency in zip(data["categories"], "rc"):
            category["frequency"] = frequency
        for image in data["images"]:
            image.update(neg_category_ids=[3, 7], not_exhaustive_category_ids=[])
            image["coco_url"] = f"http://host/images/{image['file_name']}"  # LVIS has no other name

    path, root = make_coco(tmp_path / "data", images=8, change=change)
    name = "lvis_v1_tiny"  # whose classes are LVIS' own, as Detectron2 reads the name
    register_lvis_instances(name, get_lvis_instances_meta(name), str(path), f"{root.parent}/")
    result, written = train_and_evaluate(name, tmp_path, *UNTRAINED)
    assert {"AP", "AP50", "AP75", "APs", "APm", "APl", "APr", "APc", "APf"} == set(written["metrics"]["bbox"])
    assert written["metrics"]["bbox"]["APf"] is None  # LVIS says -1 of a frequency that no class has
    assert written["AP"] == written["metrics"]["bbox"]["AP"]
    assert result.per_class == {}


def test_panoptic_has_pixels_instances_and_pq(tmp_path: Path) -> None:
    pytest.importorskip("panopticapi", reason="panopticapi is not installed")
    path, root = make_coco(tmp_path / "data", images=4, change=with_polygons)
    data = json.loads(path.read_text())
    masks, stuff = tmp_path / "panoptic", tmp_path / "stuff"
    masks.mkdir()
    stuff.mkdir()
    truth: dict[str, Any] = {"images": data["images"], "annotations": []}
    truth["categories"] = [{**c, "isthing": 1} for c in data["categories"]] + [{"id": 9, "name": "floor", "isthing": 0}]
    for image in data["images"]:
        mask = np.full((image["height"], image["width"]), 200, np.uint8)
        segments = [{"id": 200, "category_id": 9, "iscrowd": 0}]
        for number, each in enumerate((a for a in data["annotations"] if a["image_id"] == image["id"]), start=1):
            x, y, w, h = each["bbox"]
            mask[y : y + h, x : x + w] = number
            segments.append({"id": number, "category_id": each["category_id"], "iscrowd": 0})
        for segment in segments:
            segment["area"] = int((mask == segment["id"]).sum())
        # red is the lowest byte of an id
        cv2.imwrite(str(masks / image["file_name"]), np.dstack([np.zeros_like(mask), np.zeros_like(mask), mask]))
        cv2.imwrite(str(stuff / image["file_name"]), (mask == 200).astype(np.uint8))
        segments = [segment for segment in segments if segment["area"]]
        truth["annotations"].append(
            {"image_id": image["id"], "file_name": image["file_name"], "segments_info": segments}
        )
    (tmp_path / "panoptic.json").write_text(json.dumps(truth))
    name = "panoptic"
    DatasetCatalog.register(  # as Detectron2's "separated" sets, which look for images called .jpg
        name,
        lambda: [
            {**record, "sem_seg_file_name": str(stuff / Path(record["file_name"]).name)}
            for record in load_coco_json(str(path), str(root), name)
        ],
    )
    MetadataCatalog.get(name).set(
        evaluator_type="coco_panoptic_seg",
        json_file=str(path),
        image_root=str(root),
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(masks),
        sem_seg_root=str(stuff),
        ignore_label=255,
        thing_classes=["block", "square"],
        stuff_classes=["things", "floor"],
        thing_dataset_id_to_contiguous_id={3: 0, 7: 1},
        stuff_dataset_id_to_contiguous_id={0: 0, 9: 1},
    )
    words = [
        "MODEL.META_ARCHITECTURE",
        "PanopticFPN",
        "MODEL.MASK_ON",
        "True",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "0",
    ]
    words += ["MODEL.PANOPTIC_FPN.COMBINE.STUFF_AREA_LIMIT", "1", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
    result, written = train_and_evaluate(name, tmp_path, *words, *UNTRAINED)
    assert set(written["metrics"]) == {"sem_seg", "bbox", "segm", "panoptic_seg"}
    assert {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"} <= set(written["metrics"]["panoptic_seg"])
    assert result.has_boxes
