"""A detection set in another tool's format: FiftyOne's, to look through it with its boxes."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scaleprior._version import __version__
from scaleprior.corpus.views.export import check_format, export_names
from scaleprior.corpus.views.fiftyone_folder import (
    FiftyOneFolder,
    detections,
    fiftyone_folder,
    file_metadata,
    image_metadata,
)
from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.coco_format import CocoAnnotation, CocoId, CocoImage
from scaleprior.detect.data.views.statistics import AREAS
from scaleprior.progress import ProgressFn, watched

__all__ = ["export_detections"]


def export_detections(
    data: DetectionSet,
    out: str | Path,
    *,
    format: str = "fiftyone",
    copy: bool = False,
    overwrite: bool = False,
    progress: ProgressFn | bool | None = False,
) -> Path:
    """Write a folder that another tool opens, with the boxes of each image.

    Each sample has ``ground_truth``, boxes with ``category_id``, ``area``, ``size`` (COCO's small, medium, large) and
    ``iscrowd``; ``image_id``, ``file_name``, and the set's name as its tag.

    Args:
        out: the new folder; complete or not at all.
        format: ``fiftyone``, which ``fo.Dataset.from_dir(out, fo.types.FiftyOneDataset)`` imports.
        copy: also copy images that are plain files; otherwise they are named by their full paths. Images inside tars
            are written into the folder in any case.
        overwrite: replace an earlier export.
        progress: True for a bar on the terminal; or a function that is called with (images done, in all, {}).

    Returns:
        ``out``.

    Raises:
        UserError: ``out`` exists, an image is gone, or an unknown format.
        FailureError: disk full.
    """
    check_format(format)
    names = dict(zip(data.category_ids, export_names(data.category_ids, data.class_names)))
    objects: dict[CocoId, list[CocoAnnotation]] = {image["id"]: [] for image in data.truth["images"]}
    for annotation in data.truth["annotations"]:
        objects[annotation["image_id"]].append(annotation)
    info = {
        "classes": {"ground_truth": list(names.values())},
        "description": f"{data.name}: {len(data)} images of {data.source}, by ScalePrior {__version__}",
    }
    with (
        watched(progress, "exporting", unit="images") as report,
        fiftyone_folder(out, name=data.name, info=info, overwrite=overwrite) as folder,
    ):
        for done, image in enumerate(data.truth["images"], start=1):
            folder.add(_sample(data, folder, image, objects[image["id"]], names, copy))
            if report is not None and (done % 64 == 0 or done == len(data)):
                report(done, len(data), {})
    return Path(out)


def _sample(
    data: DetectionSet,
    folder: FiftyOneFolder,
    image: CocoImage,
    objects: Sequence[CocoAnnotation],
    names: dict[CocoId, str],
    copy: bool,
) -> dict[str, Any]:
    name = image["file_name"]
    place = data.root.place(name)
    if place is not None and place.size is None and not copy:
        filepath, metadata = os.path.abspath(place.path), file_metadata(place.path)
    else:
        encoded = data.root.read(name)
        filepath, metadata = folder.keep(name, encoded), image_metadata(encoded, len(encoded))
    return {
        "filepath": filepath,
        "tags": [data.name],
        "metadata": metadata,
        "ground_truth": detections([_box(each, image, names) for each in objects]),
        "image_id": image["id"],
        "file_name": name,
    }


def _box(annotation: CocoAnnotation, image: CocoImage, names: dict[CocoId, str]) -> dict[str, Any]:
    left, top, width, height = annotation["bbox"]
    area = annotation["area"]
    return {
        "label": names[annotation["category_id"]],
        "bounding_box": [
            left / image["width"], top / image["height"], width / image["width"], height / image["height"],
        ],
        "category_id": annotation["category_id"],
        "area": area,
        "size": next(size for size, (low, high) in AREAS.items() if low <= area < high),
        "iscrowd": annotation["iscrowd"] == 1,
    }  # fmt: skip
