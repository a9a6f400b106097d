"""COCO AP of a set of detections.

A detection is a dict as in COCO's results format: image_id, category_id, bbox [x, y, width, height] in pixels of the
original image, score in [0, 1]. AP is in [0, 100].
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from scaleprior.ap_names import AP_NAMES
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError

__all__ = ["coco_ap"]

_AREAS = {
    "ap_small": (0.0, 32.0**2), "ap_medium": (32.0**2, 96.0**2), "ap_large": (96.0**2, 1e10),
}  # fmt: skip
"""Pixels, as in pycocotools."""


def coco_ap(truth: Mapping[str, Any], detections: Sequence[Mapping[str, Any]]) -> DetectionResult:
    """COCO's box AP by faster-coco-eval, whose numbers are pycocotools' own.

    Args:
        truth: COCO instances with iscrowd, area and ids (``DetectionSet.truth``).

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
    numbers: dict[str, Any] = {name: _percent(value) for name, value in zip(AP_NAMES, evaluator.stats)}
    precision = evaluator.eval["precision"]  # [IoU, recall, class, area, max detections]
    per_class = {
        category["name"]: _percent(_mean(precision[:, :, number, 0, -1]))
        for number, category in enumerate(truth["categories"])
    }
    return DetectionResult(**numbers, per_class=per_class, images=len(truth["images"]), detections=len(detections))


def _mean(precision: np.ndarray) -> float:
    valid = precision[precision > -1]
    return float(valid.mean()) if valid.size else -1.0


def _percent(value: float) -> float | None:
    return None if value < 0 or np.isnan(value) else float(value) * 100


def _nothing_found(truth: Mapping[str, Any], objects: Sequence[Mapping[str, Any]]) -> DetectionResult:
    """Without any detection every AP that exists is 0; the evaluators refuse an empty list."""
    sizes: dict[str, Any] = {
        name: 0.0 if any(low <= o["area"] <= high for o in objects) else None for name, (low, high) in _AREAS.items()
    }
    present = {o["category_id"] for o in objects}
    per_class = {c["name"]: 0.0 if c["id"] in present else None for c in truth["categories"]}
    numbers = {"ap": 0.0, "ap50": 0.0, "ap75": 0.0, **sizes}
    return DetectionResult(**numbers, per_class=per_class, images=len(truth["images"]), detections=0)
