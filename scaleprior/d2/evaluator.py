"""Detectron2's COCO evaluation where annotation ids mean nothing, and classes of one name are two classes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from scaleprior.detect.data.coco import load_truth
from scaleprior.detect.data.coco_format import CocoId
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import DetectionResult

__all__ = ["Evaluator", "to_result"]


class Evaluator(COCOEvaluator):
    """COCO's official evaluation, never the unofficial C++ one; of any set, whoever registered it.

    Two things that Detectron2's does otherwise: annotations are numbered from 1, because a match with the annotation of
    id 0 counts as none there, and of annotations with one id only the last is seen; and ``AP-NAME`` of a class whose
    name another has is called ``AP-NAME (ID)``, because the last would replace the others.
    """

    def __init__(self, dataset_name: str, output_dir: str | None) -> None:
        super().__init__(dataset_name, output_dir=output_dir, use_fast_impl=False)
        self._name = dataset_name
        coco = self._coco_api
        for number, annotation in enumerate(coco.dataset.get("annotations", []), start=1):
            annotation["id"] = number
        coco.anns = {annotation["id"]: annotation for annotation in coco.dataset.get("annotations", [])}

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        names = None if class_names is None else _labels(_classes(self._name))
        return super()._derive_coco_results(coco_eval, iou_type, names)


def to_result(found: Mapping[str, Any], dataset: str) -> DetectionResult:
    """Detectron2's result of one set as our record; a nan of Detectron2's, where there are no such objects, is None."""
    boxes = found.get("bbox", {})
    if all(math.isnan(value) for value in boxes.values()):
        # Detectron2 evaluates nothing where nothing was detected; COCO's AP is 0 then.
        truth, _ = load_truth(MetadataCatalog.get(dataset).json_file, problems=[])
        return coco_ap(truth, [])
    clean = {key: None if math.isnan(value) else float(value) for key, value in boxes.items()}
    classes = _classes(dataset)
    # Of a single class Detectron2 says nothing beside the whole.
    aps = [clean["AP"]] if len(classes) == 1 else [clean.get(f"AP-{label}") for label in _labels(classes)]
    per_class = {str(number): {"name": name, "ap": ap} for (number, name), ap in zip(classes.items(), aps)}
    words: dict[str, Any] = {**clean, "per_class": per_class}
    if "segm" in found:
        words["segm"] = {k: None if math.isnan(v) else float(v) for k, v in found["segm"].items() if "-" not in k}
    return DetectionResult.from_dict(words, where=f"Detectron2's evaluation of {dataset}")


def _classes(dataset: str) -> dict[CocoId, str]:
    """Category id -> name of a registered set, in the order of classes 0, 1, ...; the class where there are no ids."""
    metadata = MetadataCatalog.get(dataset)
    names = list(metadata.get("thing_classes") or [])
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {number: number for number in range(len(names))}
    return {category: names[number] for category, number in sorted(ids.items(), key=lambda item: item[1])}


def _labels(classes: Mapping[CocoId, str]) -> list[str]:
    """Names, with the id where the name alone would be two classes."""
    times = Counter(classes.values())
    return [f"{name} ({number})" if times[name] > 1 else name for number, name in classes.items()]
