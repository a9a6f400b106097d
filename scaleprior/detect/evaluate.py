"""COCO AP, in [0, 100], of a set of detections."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from scaleprior.detect.data.coco_format import CocoAnnotation, CocoTruth, Detection
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError

__all__ = ["coco_ap"]

_AREAS = ((0.0, 32.0**2), (32.0**2, 96.0**2), (96.0**2, 1e10))
"""Of small, medium and large objects in pixels, as in pycocotools."""


def coco_ap(truth: CocoTruth, detections: Sequence[Detection]) -> DetectionResult:
    """COCO's box AP by faster-coco-eval, whose numbers are pycocotools' own.

    Args:
        truth: ``DetectionSet.truth``.

    Raises:
        UserError: there is no object at all to find.
    """
    objects = [a for a in truth["annotations"] if not a["iscrowd"]]
    if not objects:
        raise UserError("the evaluation set has no objects, so AP is undefined", hint="give a set with boxes")
    if not detections:
        return _nothing_found(truth, objects)
    from faster_coco_eval import COCO, COCOeval_faster

    # copies: both the truth and the detections are written to by the evaluator
    reference = COCO({**truth, "annotations": [dict(a) for a in truth["annotations"]]})
    found = reference.loadRes([dict(d) for d in detections])
    evaluator = COCOeval_faster(reference, found, iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    ap, ap50, ap75, small, medium, large = map(_percent, evaluator.stats[:6])
    if ap is None or ap50 is None or ap75 is None:
        raise UserError(
            "the evaluation set has no objects of an area that COCO counts (0 to 1e10), so AP is undefined",
            hint="repair the areas of its annotations",
        )
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area, max detections]
    per_class = {
        category["name"]: _percent(_mean(precision[:, :, number, 0, -1]))
        for number, category in enumerate(truth["categories"])
    }
    return DetectionResult(
        *(ap, ap50, ap75, small, medium, large),
        per_class=per_class,
        images=len(truth["images"]),
        detections=len(detections),
    )


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _percent(value: float) -> float | None:
    return None if value < 0 or np.isnan(value) else float(value) * 100


def _nothing_found(truth: CocoTruth, objects: Sequence[CocoAnnotation]) -> DetectionResult:
    """Without any detection every AP that exists is 0; the evaluators refuse an empty list."""
    small, medium, large = (0.0 if any(low <= o["area"] <= high for o in objects) else None for low, high in _AREAS)
    present = {o["category_id"] for o in objects}
    per_class = {c["name"]: 0.0 if c["id"] in present else None for c in truth["categories"]}
    return DetectionResult(
        *(0.0, 0.0, 0.0, small, medium, large), per_class=per_class, images=len(truth["images"]), detections=0
    )
