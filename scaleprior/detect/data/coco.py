"""Detection sets in the COCO format, checked before anything is trained on them.

Boxes are float32 xyxy in pixels of the original image; classes are 0..C-1 in the order of the category ids.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from scaleprior.detect.data.coco_check import CheckedCoco, check_coco
from scaleprior.detect.data.coco_format import MOST_BYTES, CocoAnnotation, CocoCategory, CocoId, CocoImage, CocoTruth
from scaleprior.detect.data.image_root import ImageRoot, open_root
from scaleprior.detect.data.names import BUILTIN_SETS, dataset_paths, own_sets, require_files
from scaleprior.detect.data.problems import DropBad, Findings, Problem
from scaleprior.detect.data.segmentation import Polygons, RunLengths, read_mask
from scaleprior.detect.data.segmentation_check import MaskUse
from scaleprior.errors import UserError
from scaleprior.parsing import read_json
from scaleprior.wording import counted, in_short, shown

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = [
    "DetectionSet", "ImageRecord", "dataset_paths", "load_coco", "load_dataset", "load_truth", "mask_use",
    "read_instances", "truth_of",
]  # fmt: skip


@dataclass(frozen=True)
class ImageRecord:
    """One image with its objects: boxes [G, 4], classes int64 [G], crowd bool [G].

    Attributes:
        masks: of each object, None of a crowd; None where nobody asked for masks.
    """

    id: CocoId
    file_name: str
    height: int
    width: int
    boxes: np.ndarray
    classes: np.ndarray
    crowd: np.ndarray
    masks: tuple[Polygons | RunLengths | None, ...] | None = None


@dataclass(frozen=True)
class DetectionSet:
    """A checked set.

    Attributes:
        name: what the config calls it.
        records: in the order of the JSON.
        class_names, category_ids: of class 0, 1, ...; ids ascend.
        truth: the JSON with defaults filled in and annotations numbered from 1, as COCO's evaluation wants it.
        complete: the file itself will do: nothing had to be filled in, left out or numbered anew.
        root: reads the images.
        source: the JSON's path, for error messages.
        problems: what was left out of the file, and what is odd about it.
    """

    name: str
    records: Sequence[ImageRecord]
    class_names: tuple[str, ...]
    category_ids: tuple[CocoId, ...]
    truth: CocoTruth
    complete: bool
    root: ImageRoot
    source: str
    problems: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.records)


def load_dataset(name: str, cfg: CfgNode, *, evaluated: bool = False) -> DetectionSet:
    """The set called ``name`` in the config, checked, with masks where it asks for them; see :func:`load_coco`.

    Args:
        evaluated: it is there to measure AP by, not to train on.
    """
    annotations, root = dataset_paths(name, cfg)
    builtin = name in BUILTIN_SETS and name not in own_sets(cfg)
    if builtin:
        require_files(name, annotations, root)
    # COCO's own train2017 has two boxes without extent, which everybody drops; in a user's file they are a mistake
    drop_bad = cfg.SCALEPRIOR.DROP_BAD
    masks = mask_use(cfg, evaluated=evaluated)
    return load_coco(annotations, root, name=name, drop_empty_boxes=builtin, drop_bad=drop_bad, masks=masks)


def mask_use(cfg: CfgNode, *, evaluated: bool) -> MaskUse | None:
    """What a run of ``cfg`` needs the masks of a set for; None without ``MODEL.MASK_ON``."""
    if not cfg.MODEL.get("MASK_ON", False):
        return None
    return "truth" if evaluated else cfg.INPUT.get("MASK_FORMAT", "polygon")


def load_coco(
    path: str | Path,
    root: str | Path,
    *,
    name: str,
    drop_empty_boxes: bool = False,
    segmentation: bool = False,
    keep_all: bool = False,
    drop_bad: DropBad = "none",
    masks: MaskUse | None = None,
    problems: list[Problem] | None = None,
) -> DetectionSet:
    """Read and check a COCO instances file and that its images are there.

    What pycocotools reads is read: ids may be texts or floats without fraction. Missing ``iscrowd`` and ``area``, and
    those that are null, get 0, and width times height. Annotations are numbered anew, from 1.

    Args:
        root: see ``image_root.open_root``.
        drop_empty_boxes: leave out boxes without extent instead of refusing them.
        segmentation: ``truth`` carries on what annotations say of it, unchecked.
        keep_all: so it does with all else that annotations and categories say (keypoints, attributes).
        drop_bad: leave out the annotations that would be refused, and boxes that lie outside their image, or the
            images of such annotations with all that is in them. ``problems`` of the set list them.
        masks: check the segmentations, and keep them for what they are for: "polygon" or "bitmask"
            (``INPUT.MASK_FORMAT``) to train on, in the records; "truth" to measure AP by, in ``truth``. Polygons of
            fewer than three points, and objects without another, are left out, as Detectron2 does.
        problems: a list that all kinds of problems are appended to, instead of an error at the first; what cannot be
            used is then left out of the set. Only a file that cannot be read at all, or a missing ``root``, is raised.

    Raises:
        UserError: anything that does not fit; names the file, how many there are, and the first of them.
    """
    path = Path(os.path.expanduser(os.path.expandvars(str(path))))
    findings = Findings(str(path), into=problems)
    checked = check_coco(
        read_instances(path, name),
        findings,
        drop_bad=drop_bad,
        drop_empty_boxes=drop_empty_boxes,
        segmentation=segmentation,
        keep_all=keep_all,
        masks=masks,
    )
    source = open_root(root)
    missing = set(source.missing(image["file_name"] for image in checked.images.values()))
    gone = [image for image in checked.images.values() if image["file_name"] in missing]
    findings.add(
        "error",
        "image_missing",
        f"images that are not at {root}",
        [(_named(image["file_name"], source, first=image is gone[0]), {"part": "images", **image}) for image in gone],
    )
    images = [image for image in checked.images.values() if image["file_name"] not in missing]
    classes = {category: number for number, category in enumerate(checked.categories)}
    truth = truth_of(checked, images)
    objects: dict[CocoId, list[CocoAnnotation]] = {image["id"]: [] for image in images}
    for annotation in truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    trained = masks in ("polygon", "bitmask")
    records = [_record(image, objects[image["id"]], classes, masks=trained) for image in images]
    if trained and not (segmentation or keep_all):
        for annotation in truth["annotations"]:  # numbers as Python has them take ten times their room
            annotation.pop("segmentation", None)
    return DetectionSet(
        name=name,
        records=records,
        class_names=tuple(checked.categories.values()),
        category_ids=tuple(checked.categories),
        truth=truth,
        complete=checked.as_is and not _has_mark(path),
        root=source,
        source=str(path),
        problems=tuple(findings.problems),
    )


def _has_mark(path: Path) -> bool:
    """Whether UTF-8's byte-order mark stands before the JSON, which pycocotools does not read."""
    with path.open("rb") as file:
        return file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8


def load_truth(
    path: str | Path, *, drop_bad: DropBad = "none", problems: list[Problem] | None = None
) -> tuple[CocoTruth, tuple[Problem, ...]]:
    """The truth of an instances file, with segmentations, whose images need not be there; and what is odd about it.

    Raises:
        UserError: as :func:`load_coco`; names and sides of the images may be missing here.
    """
    path = Path(os.path.expanduser(os.path.expandvars(str(path))))
    findings = Findings(str(path), into=problems)
    checked = check_coco(
        read_instances(path, "the truth"), findings, drop_bad=drop_bad, segmentation=True, for_images=False
    )
    return truth_of(checked, list(checked.images.values())), tuple(findings.problems)


def truth_of(checked: CheckedCoco, images: list[CocoImage]) -> CocoTruth:
    """Those of ``images`` only."""
    kept = {image["id"] for image in images}
    return {
        "images": images,
        "annotations": [a for a in checked.annotations if a["image_id"] in kept],
        "categories": [
            cast(CocoCategory, {**checked.described.get(category, {}), "id": category, "name": label})
            for category, label in checked.categories.items()
        ],
    }


def read_instances(path: Path, name: str) -> dict[str, Any]:
    """The content of an instances file, of which it is known that it has three lists of objects.

    Raises:
        UserError: it cannot be read, or has them not.
    """
    data = read_json(path, what=f"annotations of {name}", limit=MOST_BYTES)
    for part in ("images", "annotations", "categories"):
        if not isinstance(data, dict) or not isinstance(data.get(part), list):
            raise UserError(f"{path} has no list {part!r}, it is {_outline(data)}", hint="give a COCO instances file")
        odd = [shown(e, 40) for e in data[part] if not isinstance(e, dict)]
        if odd:
            what = counted(len(odd), f"{part} that are no JSON object")
            raise UserError(f"{path} has {what}, first: {odd[0]}", hint="repair the file")
    objects = data["annotations"]
    if objects and not any("bbox" in each for each in objects):  # panoptic, captions
        raise UserError(
            f"{path}: no annotation has a 'bbox', the first has {_keys(objects[0])}", hint="give a COCO instances file"
        )
    return data


def _outline(data: Any) -> str:
    """What JSON that is no instances file is, in a few words."""
    if isinstance(data, dict):
        return f"an object with {_keys(data)}"
    if isinstance(data, list):
        first = data[0] if data and isinstance(data[0], dict) else None
        return "a list" if first is None else f"a list of objects with {_keys(first)}"
    return json.dumps(data)[:40]


def _keys(entry: Mapping[str, Any]) -> str:
    return ", ".join([shown(key, 40) for key in list(entry)[:5]] + ["..."] * (len(entry) > 5)) or "no keys"


def _named(name: str, root: ImageRoot, *, first: bool) -> str:
    """A missing image; the first, which messages show, with what is there instead."""
    near = root.near(name) if first else ""
    return f"{in_short(name)}; {near}" if near else in_short(name)


def _record(
    image: CocoImage, objects: Sequence[CocoAnnotation], classes: Mapping[CocoId, int], *, masks: bool
) -> ImageRecord:
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
        masks=tuple(None if o["iscrowd"] else read_mask(o.get("segmentation")) for o in objects) if masks else None,
    )
