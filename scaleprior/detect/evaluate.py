"""COCO AP and AR, in [0, 100], and the calibration of a set of detections; of boxes, and of masks alike.

Arrays of the evaluator: precision [T, R, K, A, M] and recall [T, K, A, M] of T thresholds of IoU (0.50, 0.55, ...), R
recalls, K classes, A areas (all, small, medium, large), M detections of a class in an image (1, 10, 100); -1 where
there is no object.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np

from scaleprior.ap_names import AP_NAMES, AR_NAMES
from scaleprior.detect.calibration import Calibration, calibration_of, judged
from scaleprior.detect.data.coco_format import CocoAnnotation, CocoCategory, CocoId, CocoImage, CocoTruth, Detection
from scaleprior.detect.metrics import ClassAP, DetectionResult
from scaleprior.errors import UserError
from scaleprior.wording import one_line

__all__ = ["coco_ap"]

_Entry = dict[str, Any]
_WithId = TypeVar("_WithId", CocoImage, CocoCategory)

_AREAS = ((0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Of small, medium and large objects in pixels, as in pycocotools."""

_SIZES = ("small", "medium", "large")
_LIMITS = (1, 10, 100)
_OF_A_CLASS = (*AP_NAMES, "ar100")


def coco_ap(truth: CocoTruth, detections: Sequence[Detection], *, masks: bool = False) -> DetectionResult:
    """COCO's measures of boxes by faster-coco-eval, whose numbers are pycocotools' own.

    They depend on no id: both evaluators take a match with the annotation of id 0 for none, so annotations are numbered
    from 1, whatever their ids. The order of images, categories and annotations means nothing, either, except where two
    detections have one score, or one detection overlaps two objects equally well: COCO goes by the order there.

    Args:
        truth: ``DetectionSet.truth``.
        masks: of masks, too: detections and truth have a ``segmentation`` then.

    Raises:
        UserError: there is no object at all to find, or a detection is of an image or category that is not there.
    """
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    if not objects:
        raise UserError("the evaluation set has no objects, so AP is undefined", hint="give a set with boxes")
    if detections:
        numbered = _numbered(truth, detections)
        boxes = _evaluate(*numbered, "bbox")
        of_masks = _evaluate(*numbered, "segm") if masks else None
    else:
        boxes = _nothing_found(truth, objects)
        of_masks = boxes if masks else None
    ap, ap50, ap75 = (boxes.figures[name] for name in ("ap", "ap50", "ap75"))
    if ap is None or ap50 is None or ap75 is None:
        raise UserError(
            "the evaluation set has no objects of an area that COCO counts (0 to 1e10), so AP is undefined",
            hint="repair the areas of its annotations",
        )
    classes = _by_id(truth["categories"])
    said: dict[str, Any] = {**boxes.figures, "ap": ap, "ap50": ap50, "ap75": ap75}
    if of_masks is not None:
        names = {**AP_NAMES, **AR_NAMES}
        said["masks"] = {word: of_masks.figures[name] for name, word in names.items()}
        said["masks_per_class"], said["masks_calibration"] = of_masks.by_class(classes), of_masks.calibration
    return DetectionResult(
        **said,
        per_class=boxes.by_class(classes),
        calibration=boxes.calibration,
        images=len(truth["images"]),
        detections=len(detections),
    )


@dataclass(frozen=True)
class _Measured:
    """Of boxes or of masks.

    Attributes:
        figures: of the whole set, by attribute of ``DetectionResult``.
        classes: the same of each class, in the order of their ids.
    """

    figures: Mapping[str, float | None]
    classes: Sequence[Mapping[str, float | None]]
    calibration: Calibration | None

    def by_class(self, categories: Sequence[CocoCategory]) -> dict[CocoId, ClassAP]:
        """By category id; ``categories`` are in the order of their ids."""
        return {
            category["id"]: ClassAP(category["name"], **{name: figures[name] for name in _OF_A_CLASS})
            for category, figures in zip(categories, self.classes)
        }


def _evaluate(truth: dict[str, list[_Entry]], detections: list[_Entry], kind: Literal["bbox", "segm"]) -> _Measured:
    """What there is to say of boxes, or of masks.

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
            f"a segmentation of the detections or of the truth cannot be read: {one_line(e, 120)}",
            hint="give RLE, in the truth also polygons, of the images' sizes, or detections without masks",
        ) from e
    evaluator.accumulate()
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    return _Measured(
        figures=_figures(precision, recall),
        classes=[_figures(precision[:, :, k : k + 1], recall[:, k : k + 1]) for k in range(precision.shape[2])],
        calibration=calibration_of(*judged(truth["annotations"], detections, evaluator.ious)),
    )


def _figures(precision: np.ndarray, recall: np.ndarray) -> dict[str, float | None]:
    """COCO's twelve numbers, by attribute."""
    parts = {
        "ap": precision[:, :, :, 0, -1],
        "ap50": precision[:1, :, :, 0, -1],
        "ap75": precision[5:6, :, :, 0, -1],
        **{f"ap_{size}": precision[:, :, :, area, -1] for area, size in enumerate(_SIZES, start=1)},
        **{f"ar{limit}": recall[:, :, 0, number] for number, limit in enumerate(_LIMITS)},
        **{f"ar_{size}": recall[:, :, area, -1] for area, size in enumerate(_SIZES, start=1)},
    }
    return {name: _percent(_mean(part)) for name, part in parts.items()}


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


def _nothing_found(truth: CocoTruth, objects: Sequence[CocoAnnotation]) -> _Measured:
    """Without any detection every AP and AR that exists is 0; the evaluators refuse an empty list."""

    def of(counted: Sequence[CocoAnnotation]) -> dict[str, float | None]:
        sizes = {size: any(low <= o["area"] <= high for o in counted) for size, (low, high) in zip(_SIZES, _AREAS)}
        there = {**dict.fromkeys((*AP_NAMES, *AR_NAMES), any(sizes.values()))}
        there |= {f"{kind}_{size}": present for size, present in sizes.items() for kind in ("ap", "ar")}
        return {name: 0.0 if present else None for name, present in there.items()}

    of_class = [[o for o in objects if o["category_id"] == category["id"]] for category in _by_id(truth["categories"])]
    return _Measured(of(objects), [of(counted) for counted in of_class], calibration_of(np.zeros(0), np.zeros(0)))
