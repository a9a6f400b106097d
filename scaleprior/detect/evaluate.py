"""COCO AP, in [0, 100], of a set of detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from scaleprior.ap_names import AP_NAMES
from scaleprior.detect.data.coco_format import CocoAnnotation, CocoCategory, CocoImage, CocoTruth, Detection
from scaleprior.detect.metrics import ClassAP, DetectionResult
from scaleprior.errors import UserError

__all__ = ["coco_ap"]

_Entry = dict[str, Any]
_WithId = TypeVar("_WithId", CocoImage, CocoCategory)

_AREAS = ((0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Of small, medium and large objects in pixels, as in pycocotools."""


def coco_ap(truth: CocoTruth, detections: Sequence[Detection], *, masks: bool = False) -> DetectionResult:
    """COCO's box AP by faster-coco-eval, whose numbers are pycocotools' own.

    It depends on no id: both evaluators take a match with the annotation of id 0 for none, so annotations are numbered
    from 1, whatever their ids. The order of images, categories and annotations means nothing, either, except where two
    detections have one score, or one detection overlaps two objects equally well: COCO goes by the order there.

    Args:
        truth: ``DetectionSet.truth``.
        masks: the AP of masks, too: detections and truth have a ``segmentation`` then.

    Raises:
        UserError: there is no object at all to find, or a detection is of an image or category that is not there.
    """
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    if not objects:
        raise UserError("the evaluation set has no objects, so AP is undefined", hint="give a set with boxes")
    if not detections:
        return _nothing_found(truth, objects)
    numbered = _numbered(truth, detections)
    stats, precision = _evaluate(*numbered, "bbox")
    ap, ap50, ap75, small, medium, large = stats
    if ap is None or ap50 is None or ap75 is None:
        raise UserError(
            "the evaluation set has no objects of an area that COCO counts (0 to 1e10), so AP is undefined",
            hint="repair the areas of its annotations",
        )
    per_class = {
        category["id"]: ClassAP(category["name"], _percent(_mean(precision[:, :, number, 0, -1])))
        for number, category in enumerate(_by_id(truth["categories"]))
    }
    return DetectionResult(
        *(ap, ap50, ap75, small, medium, large),
        per_class=per_class,
        masks=dict(zip(AP_NAMES.values(), _evaluate(*numbered, "segm")[0])) if masks else None,
        images=len(truth["images"]),
        detections=len(detections),
    )


def _evaluate(
    truth: dict[str, list[_Entry]], detections: list[_Entry], kind: Literal["bbox", "segm"]
) -> tuple[list[float | None], np.ndarray]:
    """The six numbers, and precision over [IoU, recall, class, area, max detections].

    Raises:
        UserError: detections have masks, and one of them or of the truth's is none, or not of its image's size.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    # Copies, because the evaluator writes to both. It takes the box's size for the mask's where there is a box, which
    # masks are therefore evaluated without, as in Detectron2.
    reference = COCO({part: [dict(entry) for entry in entries] for part, entries in truth.items()})
    try:
        found = reference.loadRes([{k: v for k, v in d.items() if kind == "bbox" or k != "bbox"} for d in detections])
        evaluator = COCOeval_faster(reference, found, iouType=kind)
        evaluator.evaluate()
    except Exception as e:  # what the evaluator makes of masks that are none: a dozen kinds
        if "segmentation" not in detections[0]:
            raise
        raise UserError(
            f"a segmentation of the detections or of the truth cannot be read: {' '.join(str(e).split())[:120]}",
            hint="give RLE, in the truth also polygons, of the images' sizes, or detections without masks",
        ) from e
    evaluator.accumulate()
    evaluator.summarize()
    return [_percent(value) for value in evaluator.stats[:6]], evaluator.eval["precision"]


def _numbered(truth: CocoTruth, detections: Sequence[Detection]) -> tuple[dict[str, list[_Entry]], list[_Entry]]:
    """Truth and detections under ids from 1, in the order of the old: the evaluator takes none that is a text."""
    images = {image["id"]: number for number, image in enumerate(_by_id(truth["images"]), start=1)}
    categories = {category["id"]: number for number, category in enumerate(_by_id(truth["categories"]), start=1)}

    def renamed(entry: Mapping[str, Any], **values: Any) -> _Entry:
        ids = {"image_id": images[entry["image_id"]], "category_id": categories[entry["category_id"]]}
        return {**entry, **ids, **values}

    try:
        return {
            "images": [{**image, "id": images[image["id"]]} for image in truth["images"]],
            "annotations": [renamed(a, id=number) for number, a in enumerate(truth["annotations"], start=1)],
            "categories": [{**category, "id": categories[category["id"]]} for category in truth["categories"]],
        }, [renamed(d) for d in detections]
    except KeyError as e:
        raise UserError(
            f"a detection or an annotation is of the image or category {e.args[0]!r}, which is not in the set",
            hint="give detections of this set",
        ) from e


def _by_id(entries: Sequence[_WithId]) -> list[_WithId]:
    return sorted(entries, key=lambda entry: entry["id"])


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _percent(value: float) -> float | None:
    return None if value < 0 or np.isnan(value) else float(value) * 100


def _nothing_found(truth: CocoTruth, objects: Sequence[CocoAnnotation]) -> DetectionResult:
    """Without any detection every AP that exists is 0; the evaluators refuse an empty list."""
    small, medium, large = (0.0 if any(low <= o["area"] <= high for o in objects) else None for low, high in _AREAS)
    present = {o["category_id"] for o in objects}
    per_class = {c["id"]: ClassAP(c["name"], 0.0 if c["id"] in present else None) for c in _by_id(truth["categories"])}
    return DetectionResult(
        *(0.0, 0.0, 0.0, small, medium, large), per_class=per_class, images=len(truth["images"]), detections=0
    )
