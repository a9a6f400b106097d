"""What Detectron2's evaluators found, as our record: nothing that they did not measure."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from detectron2.data import MetadataCatalog

from scaleprior.ap_names import AP_NAMES
from scaleprior.d2.evaluation.augmented import SUFFIX, split_augmented
from scaleprior.d2.evaluation.coco import BoxNumbers, class_labels, classes_of
from scaleprior.detect.data.coco import load_truth
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import ClassAP, DetectionResult

__all__ = ["results_by_set", "to_result"]

logger = logging.getLogger(__name__)

_ANNOTATED = ("coco", "coco_panoptic_seg")  # kinds whose boxes are held against a COCO instances file
_Numbers = dict[str, float | None]


def results_by_set(found: Mapping[str, Any], names: Sequence[str]) -> dict[str, DetectionResult]:
    """What Detectron2's ``test`` returned, with what ``test_with_TTA`` did beside it, as a record of each set."""
    return {name: _with_augmented(*split_augmented(found, name, alone=len(names) == 1), name) for name in names}


def _with_augmented(plain: Mapping[str, Any], augmented: Mapping[str, Any], name: str) -> DetectionResult:
    result = to_result(plain, name)
    if not augmented:
        return result
    beside = to_result(augmented, name)
    named = {f"{task}{SUFFIX}": numbers for task, numbers in (beside.metrics or {}).items()}
    return replace(
        result,
        metrics={**(result.metrics or {}), **named},
        augmented=replace(beside, metrics=None) if beside.has_boxes else None,
    )


def to_result(found: Mapping[str, Any], dataset: str) -> DetectionResult:
    """Detectron2's result of one set as our record; a nan of Detectron2's, where there are no such objects, is None.

    Args:
        found: task ("bbox", "segm", "keypoints", "sem_seg", "panoptic_seg", ...) -> name of a number -> number.
    """
    metrics = {task: _numbers(numbers) for task, numbers in found.items() if isinstance(numbers, Mapping)}
    boxes = metrics.get("bbox")
    nothing = boxes is not None and all(value is None for value in boxes.values())
    if nothing and MetadataCatalog.get(dataset).get("evaluator_type") in _ANNOTATED:
        # Detectron2 evaluates nothing where nothing was detected; COCO's AP is 0 then.
        truth, _ = load_truth(MetadataCatalog.get(dataset).json_file, problems=[])
        return replace(coco_ap(truth, [], masks="segm" in metrics), metrics=metrics)
    masks = {name: value for name, value in metrics.get("segm", {}).items() if "-" not in name} or None
    if boxes is None or any(boxes.get(AP_NAMES[name]) is None for name in ("ap", "ap50", "ap75")):
        if boxes is not None:
            logger.warning("%s: Detectron2 found no box AP: %s", dataset, boxes)
        return replace(DetectionResult.without_boxes(metrics=metrics), masks=masks)
    whole: dict[str, Any] = {name: boxes.get(word) for name, word in AP_NAMES.items()}
    result = DetectionResult(**whole, per_class=_per_class(boxes, dataset), masks=masks, metrics=metrics)
    said = found["bbox"]
    return result if not isinstance(said, BoxNumbers) or said.measured is None else _joined(result, said.measured)


def _joined(result: DetectionResult, measured: DetectionResult) -> DetectionResult:
    """Detectron2's AP, with what it does not say: recall, sizes of a class, calibration."""
    per_class = {
        number: replace(measured.per_class[number], ap=own.ap) if number in measured.per_class else own
        for number, own in result.per_class.items()
    }
    masks = None if result.masks is None else {**(measured.masks or {}), **result.masks}
    return replace(
        result,
        **measured.recalls(),
        per_class=per_class,
        calibration=measured.calibration,
        masks=masks,
        masks_per_class=measured.masks_per_class,
        masks_calibration=measured.masks_calibration,
        detections=measured.detections,
    )


def _numbers(found: Mapping[str, Any]) -> _Numbers:
    # LVIS says -1, which Detectron2 makes -100, of what there is nothing of.
    return {name: None if math.isnan(value) or value < 0 else float(value) for name, value in found.items()}


def _per_class(boxes: Mapping[str, float | None], dataset: str) -> dict[CocoId, ClassAP]:
    """AP by class, where the evaluator says it; of a single class COCO's says nothing beside the whole."""
    classes = classes_of(dataset)
    labels = class_labels(classes)
    if len(classes) != 1 and not any(f"AP-{label}" in boxes for label in labels):
        return {}
    aps = [boxes["AP"]] if len(classes) == 1 else [boxes.get(f"AP-{label}") for label in labels]
    return {number: ClassAP(name, ap) for (number, name), ap in zip(classes.items(), aps)}
