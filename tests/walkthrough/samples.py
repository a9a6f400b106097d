"""Small collections in the form in which people have them: Open Images, a Kaggle table, class folders, Roboflow."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

__all__ = ["SAMPLES"]

_UPSIDE_DOWN = 3  # EXIF's orientation of a picture that was stored turned by half a circle
_ORIENTATION = 0x0112


def picture(path: Path, kind: int, number: int, *, size: tuple[int, int] = (48, 36), orientation: int = 1) -> None:
    """A shape that depends on the class, on noise that depends on the number."""
    generator = np.random.default_rng([kind, number])
    image = Image.fromarray(generator.integers(60, 120, (size[1], size[0], 3), dtype=np.uint8))
    draw = ImageDraw.Draw(image)
    colour = [(220, 60, 60), (60, 200, 90), (70, 90, 230), (220, 200, 60), (200, 90, 200)][kind % 5]
    box = (10, 6, size[0] - 10, size[1] - 6)
    (draw.ellipse if kind % 2 else draw.rectangle)(box, fill=colour)
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[_ORIENTATION] = orientation
    image.save(path, quality=90, exif=exif) if orientation > 1 else image.save(path, quality=90)


def _table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def open_images(folder: Path) -> None:
    """V7's tables of image labels: a row a label, ids without a suffix, labels that people found to be absent."""
    names = {"/m/0jbk": "Animal", "/m/01yrx": "Cat", "/m/0bt9lr": "Dog", "/m/0k4j": "Car", "/m/07yv9": "Vehicle"}
    leaves = ("/m/01yrx", "/m/0bt9lr", "/m/0k4j")
    rows = []
    for number in range(24):
        image, kind = f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}", number % 3
        picture(folder / "train" / f"{image}.jpg", kind, number)
        rows.append((image, "verification", leaves[kind], 1))
        rows.append((image, "verification", leaves[(kind + 1) % 3], 0))
        if number % 4 == 0:
            rows.append((image, "crowdsource-verification", "/m/07yv9" if kind == 2 else "/m/0jbk", 1))
    _table(folder / "train-annotations-human-imagelabels.csv", ("ImageID", "Source", "LabelName", "Confidence"), rows)
    _table(folder / "class-descriptions.csv", ("LabelName", "DisplayName"), list(names.items()))
    tree = {
        "LabelName": "/m/0bl9f",
        "Subcategory": [
            {"LabelName": "/m/0jbk", "Subcategory": [{"LabelName": "/m/01yrx"}, {"LabelName": "/m/0bt9lr"}]},
            {"LabelName": "/m/07yv9", "Subcategory": [{"LabelName": "/m/0k4j"}]},
        ],
    }
    (folder / "bbox_labels_600_hierarchy.json").write_text(json.dumps(tree))


def kaggle(folder: Path) -> None:
    """A competition's ``train.csv``: ids without a suffix, several labels in a cell, images in a folder beside it."""
    labels = ("scab", "frog_eye_leaf_spot", "scab frog_eye_leaf_spot", "rust", "healthy", "rust complex")
    rows = []
    for number in range(30):
        picture(folder / "train_images" / f"{0x8002CB + 7919 * number:x}.jpg", number % 6, number)
        rows.append((f"{0x8002CB + 7919 * number:x}", labels[number % 6]))
    _table(folder / "train.csv", ("image_id", "labels"), rows)
    _table(folder / "sample_submission.csv", ("image_id", "labels"), [("x", "healthy")])


def class_folders(folder: Path) -> None:
    """A photo collection as it lies on a disk: splits, a class on another volume, upside-down photos, side files."""
    for split, count in (("train", 8), ("val", 2)):
        for kind, name in enumerate(("cat", "dog")):
            for number in range(count):
                turned = _UPSIDE_DOWN if number == 1 else 1
                picture(folder / "photos" / split / name / f"IMG_{number:04}.JPG", kind, number, orientation=turned)
        for number in range(count):
            picture(folder / "volume2" / split / "horse" / f"{number}.png", 2, number)
        os.symlink(f"../../volume2/{split}/horse", folder / "photos" / split / "horse")
    (folder / "photos" / "train" / "cat" / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0 thumbnails")
    (folder / "photos" / "train" / "dog" / "notes.txt").write_text("the brown one is Rex")


def roboflow(folder: Path) -> None:
    """An export in the COCO format: a JSON in each split's folder, ids from 0, a class that only holds the others."""
    classes = ("cat", "dog")
    for split, count in (("train", 12), ("valid", 6)):
        images, annotations = [], []
        for number in range(count):
            name = f"{split[:2]}_{number:04}_jpg.rf.{number * 2654435761 % 2**32:08x}.jpg"
            picture(folder / split / name, number % 2, number, size=(64, 48))
            images.append({"id": number, "license": 1, "file_name": name, "height": 48, "width": 64})
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1 + number % 2, "bbox": [10, 6, 44, 36],
                 "area": 44 * 36, "segmentation": [], "iscrowd": 0}
            )  # fmt: skip
        if split == "train":  # what a slip of the mouse leaves
            annotations.append({**annotations[0], "id": count, "bbox": [3, 5, 0, 0], "area": 0})
        categories = [{"id": 0, "name": "pets", "supercategory": "none"}]
        categories += [{"id": k, "name": name, "supercategory": "pets"} for k, name in enumerate(classes, start=1)]
        content = {"info": {"version": "1"}, "licenses": [{"id": 1, "name": "CC BY 4.0"}], "categories": categories,
                   "images": images, "annotations": annotations}  # fmt: skip
        (folder / split / "_annotations.coco.json").write_text(json.dumps(content))


SAMPLES: dict[str, Callable[[Path], None]] = {
    "open-images": open_images,
    "kaggle": kaggle,
    "class-folders": class_folders,
    "roboflow": roboflow,
}
"""Makes each walk-through's files in a folder, which the walk-through's commands are then typed in."""
