"""Small sets of every kind that Detectron2 evaluates, made of the squares of ``make_coco``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from tests.detect.conftest import make_coco

VOC_OBJECT = """<object><name>{name}</name><pose>Unspecified</pose><truncated>0</truncated><difficult>0</difficult>
<bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax></bndbox></object>"""
VOC_IMAGE = "<annotation><size><width>64</width><height>64</height><depth>3</depth></size>{}</annotation>"
CLASSES = ("block", "square")


def make_voc(folder: Path, images: int = 6, *, split: str = "trainval") -> Path:
    """A VOC tree below ``folder``; its classes are :data:`CLASSES`."""
    path, root = make_coco(folder / "coco", images=images)
    data = json.loads(path.read_text())
    names = {category["id"]: category["name"] for category in data["categories"]}
    for part in ("ImageSets/Main", "Annotations", "JPEGImages"):
        (folder / part).mkdir(parents=True)
    for image in data["images"]:
        stem = Path(image["file_name"]).stem
        objects = ""
        for each in data["annotations"]:
            if each["image_id"] == image["id"]:
                x, y, w, h = each["bbox"]
                objects += VOC_OBJECT.format(x + 1, y + 1, x + w, y + h, name=names[each["category_id"]])
        (folder / "Annotations" / f"{stem}.xml").write_text(VOC_IMAGE.format(objects))
        pixels = cv2.imread(str(root / image["file_name"]))
        cv2.imwrite(str(folder / "JPEGImages" / f"{stem}.jpg"), pixels)
    stems = [Path(image["file_name"]).stem for image in data["images"]]
    (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(stems) + "\n")
    return folder


def register_voc(name: str, folder: Path, *, split: str = "trainval") -> str:
    from detectron2.data import MetadataCatalog
    from detectron2.data.datasets import register_pascal_voc

    register_pascal_voc(name, str(folder), split, 2012, CLASSES)
    MetadataCatalog.get(name).evaluator_type = "pascal_voc"
    return name


def register_sem_seg(name: str, folder: Path, *, images: int = 6) -> str:
    """Images and masks of their classes: 0 = nothing, 1 = block, 2 = square."""
    from detectron2.data import DatasetCatalog, MetadataCatalog
    from detectron2.data.datasets import load_sem_seg

    path, root = make_coco(folder, images=images)
    data = json.loads(path.read_text())
    masks = folder / "masks"
    masks.mkdir()
    for image in data["images"]:
        mask = np.zeros((image["height"], image["width"]), np.uint8)
        for each in data["annotations"]:
            if each["image_id"] == image["id"]:
                x, y, w, h = each["bbox"]
                mask[y : y + h, x : x + w] = 1 if each["category_id"] == 3 else 2
        cv2.imwrite(str(masks / image["file_name"]), mask)
    DatasetCatalog.register(name, lambda: load_sem_seg(str(masks), str(root), gt_ext="png", image_ext="png"))
    MetadataCatalog.get(name).set(
        stuff_classes=["nothing", *CLASSES],
        image_root=str(root),
        sem_seg_root=str(masks),
        evaluator_type="sem_seg",
        ignore_label=255,
    )
    return name


def with_keypoints(data: dict[str, Any]) -> None:
    """Three points in every box: its corners, called left and right, and its middle."""
    for category in data["categories"]:
        category["keypoints"] = ["left_corner", "right_corner", "middle"]
        category["skeleton"] = [[1, 3], [2, 3]]
    for each in data["annotations"]:
        x, y, w, h = each["bbox"]
        each["keypoints"] = [x, y, 2, x + w - 1, y + h - 1, 2, x + w // 2, y + h // 2, 2]
        each["num_keypoints"] = 3


def with_polygons(data: dict[str, Any]) -> None:
    for each in data["annotations"]:
        x, y, w, h = each["bbox"]
        each["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


Change = Callable[[dict[str, Any]], None]
