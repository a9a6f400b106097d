"""Detection sets in the COCO format, checked before anything is trained on them.

Boxes are float32 xyxy in pixels of the original image; classes are 0..C-1 in the order of the category ids.
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scaleprior.detect.data.coco_format import CocoAnnotation, CocoImage, CocoTruth
from scaleprior.detect.data.image_root import ImageRoot, open_root
from scaleprior.detect.data.names import BUILTIN_SETS, dataset_paths, own_sets, require_files
from scaleprior.errors import UserError
from scaleprior.files import is_number, read_json

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["DetectionSet", "ImageRecord", "dataset_paths", "load_coco", "load_dataset"]

logger = logging.getLogger(__name__)

_Unchecked = Mapping[str, Any]
"""An object of the file of which nothing is known yet."""


@dataclass(frozen=True)
class ImageRecord:
    """One image with its objects: boxes [G, 4], classes int64 [G], crowd bool [G]."""

    id: int
    file_name: str
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray


@dataclass(frozen=True)
class DetectionSet:
    """A checked set.

    Attributes:
        name: what the config calls it.
        records: in the order of the JSON.
        class_names, category_ids: of class 0, 1, ...; ids ascend.
        truth: the JSON with defaults filled in, as COCO's evaluation wants it.
        complete: the file itself is that: nothing had to be filled in or left out.
        root: reads the images.
        source: the JSON's path, for error messages.
    """

    name: str
    records: Sequence[ImageRecord]
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    truth: CocoTruth
    complete: bool
    root: ImageRoot
    source: str

    def __len__(self) -> int:
        return len(self.records)


def load_dataset(name: str, cfg: CfgNode) -> DetectionSet:
    """The set called ``name`` in the config, checked; see :func:`load_coco`."""
    annotations, root = dataset_paths(name, cfg)
    builtin = name in BUILTIN_SETS and name not in own_sets(cfg)
    if builtin:
        require_files(name, annotations, root)
    # COCO's own train2017 has two boxes without extent, which everybody drops; in a user's file they are a mistake
    return load_coco(annotations, root, name=name, drop_empty_boxes=builtin)


def load_coco(
    path: str | Path,
    root: str | Path,
    *,
    name: str,
    drop_empty_boxes: bool = False,
    segmentation: bool = False,
) -> DetectionSet:
    """Read and check a COCO instances file and that its images are there.

    Missing ``iscrowd``, ``area`` and annotation ids get 0, width times height, and consecutive numbers.

    Args:
        root: see ``image_root.open_root``.
        drop_empty_boxes: drop and log boxes without extent instead of refusing them.
        segmentation: ``truth`` carries on what annotations say of it, unchecked.

    Raises:
        UserError: anything that does not fit; names the file, how many there are, and the first of them.
    """
    path = Path(os.path.expanduser(os.path.expandvars(str(path))))
    data = read_json(path, what=f"annotations of {name}")
    for part in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise UserError(f"{path} has no list {part!r}", hint="give a COCO instances file")
        _refuse(path, f"{part} that are not objects", [str(e)[:40] for e in data[part] if not isinstance(e, dict)])
    categories = _categories(path, data["categories"])
    images = _images(path, data["images"])
    annotations = _annotations(path, data["annotations"], set(categories), images, drop_empty_boxes, segmentation)
    source = open_root(root)
    _refuse(path, f"images that are not at {root}", source.missing(i["file_name"] for i in images.values()))

    classes = {category: number for number, category in enumerate(categories)}
    objects: dict[int, list[CocoAnnotation]] = {image: [] for image in images}
    for annotation in annotations:
        objects[annotation["image_id"]].append(annotation)
    truth: CocoTruth = {
        "images": list(images.values()),
        "annotations": annotations,
        "categories": [{"id": category, "name": label} for category, label in categories.items()],
    }
    return DetectionSet(
        name=name,
        records=[_record(image, objects[image["id"]], classes) for image in images.values()],
        class_names=tuple(categories.values()),
        category_ids=tuple(categories),
        truth=truth,
        complete=len(annotations) == len(data["annotations"])
        and all(key in a for a in data["annotations"] for key in ("id", "area", "iscrowd")),
        root=source,
        source=str(path),
    )


def _refuse(path: Path, what: str, offenders: Sequence[str]) -> None:
    if offenders:
        raise UserError(f"{path} has {len(offenders)} {what}, first: {offenders[0]}", hint="repair the file")


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _categories(path: Path, entries: Sequence[_Unchecked]) -> dict[int, str]:
    """id -> name, ids ascending."""
    if not entries:
        raise UserError(f"{path} has no categories", hint="give a COCO instances file")
    bad = [str(e)[:80] for e in entries if not _is_id(e.get("id")) or not isinstance(e.get("name"), str)]
    _refuse(path, "categories without an integer id and a name", bad)
    _refuse(path, "category ids that occur twice", _twice(e["id"] for e in entries))
    return {e["id"]: e["name"] for e in sorted(entries, key=lambda e: e["id"])}


def _twice(ids: Any) -> list[str]:
    return [str(value) for value, times in Counter(ids).items() if times > 1]


def _images(path: Path, entries: Sequence[_Unchecked]) -> dict[int, CocoImage]:
    if not entries:
        raise UserError(f"{path} has no images", hint="give a COCO instances file")
    bad = [
        str(e)[:80]
        for e in entries
        if not _is_id(e.get("id"))
        or not isinstance(e.get("file_name"), str)
        or not all(_is_id(e.get(side)) and e[side] > 0 for side in ("height", "width"))
    ]
    _refuse(path, "images without an integer id, a file_name, or a height and width above 0", bad)
    _refuse(path, "image ids that occur twice", _twice(e["id"] for e in entries))
    return {
        e["id"]: {"id": e["id"], "file_name": e["file_name"], "height": e["height"], "width": e["width"]}
        for e in entries
    }


def _annotations(
    path: Path,
    entries: Sequence[_Unchecked],
    categories: set[int],
    images: Mapping[int, CocoImage],
    drop_empty_boxes: bool,
    segmentation: bool,
) -> list[CocoAnnotation]:
    """Checked annotations with everything filled in."""

    def named(entry: _Unchecked, key: str) -> str:
        return f"{key} {entry.get(key)!r} in annotation {entry.get('id')}"

    numbered = any("id" in e for e in entries)
    if numbered:
        _refuse(path, "annotations without an integer id", [str(e)[:80] for e in entries if not _is_id(e.get("id"))])
        _refuse(path, "annotation ids that occur twice", _twice(e["id"] for e in entries))
    bad = [named(e, "category_id") for e in entries if not _known(e.get("category_id"), categories)]
    _refuse(path, "annotations with unknown category ids", bad)
    bad = [named(e, "image_id") for e in entries if not _known(e.get("image_id"), images)]
    _refuse(path, "annotations of unknown images", bad)
    bad = [named(e, "bbox") for e in entries if not _is_box(e.get("bbox"))]
    _refuse(path, "annotations without a bbox of four finite numbers", bad)
    bad = [named(e, "iscrowd") for e in entries if e.get("iscrowd", 0) not in (0, 1)]
    _refuse(path, "annotations whose iscrowd is not 0 or 1", bad)
    bad = [named(e, "ignore") for e in entries if e.get("ignore", 0) != 0]
    _refuse(path, "annotations to ignore, which neither engine can; mark them as crowds", bad)
    bad = [named(e, "area") for e in entries if "area" in e and not is_number(e["area"])]
    _refuse(path, "annotations whose area is not a number", bad)
    empty = [named(e, "bbox") for e in entries if min(e["bbox"][2:]) <= 0]
    if empty and drop_empty_boxes:
        logger.warning("%s: dropped %d boxes of zero or negative size, first: %s", path, len(empty), empty[0])
        entries = [e for e in entries if min(e["bbox"][2:]) > 0]
    else:
        _refuse(path, "boxes of zero or negative size", empty)
    return [_filled_in(e, e["id"] if numbered else number, segmentation) for number, e in enumerate(entries, start=1)]


def _filled_in(entry: _Unchecked, number: int, segmentation: bool) -> CocoAnnotation:
    annotation: CocoAnnotation = {
        "id": number,
        "image_id": entry["image_id"],
        "category_id": entry["category_id"],
        "bbox": [float(v) for v in entry["bbox"]],
        "area": float(entry["area"] if "area" in entry else entry["bbox"][2] * entry["bbox"][3]),
        "iscrowd": int(entry.get("iscrowd", 0)),
    }
    if segmentation and "segmentation" in entry:
        annotation["segmentation"] = entry["segmentation"]
    return annotation


def _known(value: Any, ids: Any) -> bool:
    return _is_id(value) and value in ids


def _is_box(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 4 and all(map(is_number, value))


def _record(image: CocoImage, objects: Sequence[CocoAnnotation], classes: Mapping[int, int]) -> ImageRecord:
    boxes = np.array([o["bbox"] for o in objects], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return ImageRecord(
        id=image["id"],
        file_name=image["file_name"],
        height=image["height"],
        width=image["width"],
        boxes=boxes.astype(np.float32),
        classes=np.array([classes[o["category_id"]] for o in objects], dtype=np.int64),
        crowd=np.array([o["iscrowd"] == 1 for o in objects], dtype=bool),
    )
