"""Detectron2's COCO evaluation where annotation ids mean nothing, and classes of one name are two classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, cast

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from scaleprior.detect.data.coco_format import CocoId, CocoTruth
from scaleprior.detect.evaluate import coco_ap
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError

__all__ = ["BoxNumbers", "Evaluator", "class_labels", "classes_of"]


class BoxNumbers(dict[str, float]):
    """What Detectron2 says of boxes, and all that we measure of the same detections.

    A dict, so that Detectron2 prints, stores and compares it as any other of its results.

    Attributes:
        measured: by the definitions of the torchvision engine, of masks too where there are such; None where the truth
            has nothing to measure on.
    """

    measured: DetectionResult | None = None


class Evaluator(COCOEvaluator):
    """COCO's official evaluation, never the unofficial C++ one; of any set, whoever registered it.

    Two things that Detectron2's does otherwise: annotations are numbered from 1, because a match with the annotation of
    id 0 counts as none there, and of annotations with one id only the last is seen; and ``AP-NAME`` of a class whose
    name another has is called ``AP-NAME (ID)``, because the last would replace the others.

    Args:
        oks_sigmas: one for each keypoint, for the AP of keypoints; () = those of COCO's 17.
    """

    def __init__(self, dataset_name: str, output_dir: str | None, *, oks_sigmas: Sequence[float] = ()) -> None:
        super().__init__(dataset_name, output_dir=output_dir, use_fast_impl=False, kpt_oks_sigmas=list(oks_sigmas))
        self._name = dataset_name
        coco = self._coco_api
        for number, annotation in enumerate(coco.dataset.get("annotations", []), start=1):
            annotation["id"] = number
        coco.anns = {annotation["id"]: annotation for annotation in coco.dataset.get("annotations", [])}

    def _eval_predictions(self, predictions: Any, img_ids: Any = None) -> None:
        super()._eval_predictions(predictions, img_ids=img_ids)
        boxes = self._results.get("bbox")
        if boxes is None or img_ids is not None:
            return
        self._results["bbox"] = numbers = BoxNumbers(boxes)
        # Detectron2 has given them the categories' ids by now, in place
        found = [entry for of_image in predictions for entry in of_image["instances"]]
        numbers.measured = self._measured(found, masks="segm" in self._results)

    def _measured(self, found: list[dict[str, Any]], *, masks: bool) -> DetectionResult | None:
        truth = cast("CocoTruth", self._coco_api.dataset)
        kept = ("image_id", "category_id", "bbox", "score", *(("segmentation",) if masks else ()))
        detections: Any = [{key: each[key] for key in kept} for each in found]
        try:
            return coco_ap(truth, detections, masks=masks)
        except UserError:  # no objects: Detectron2 says nan of that
            return None

    def _derive_coco_results(
        self, coco_eval: Any, iou_type: str, class_names: Sequence[str] | None = None
    ) -> dict[str, float]:
        names = None if class_names is None else class_labels(classes_of(self._name))
        return super()._derive_coco_results(coco_eval, iou_type, names)


def classes_of(dataset: str) -> dict[CocoId, str]:
    """Category id -> name of a registered set, in the order of classes 0, 1, ...; the class where there are no ids."""
    metadata = MetadataCatalog.get(dataset)
    names = list(metadata.get("thing_classes") or [])
    ids = metadata.get("thing_dataset_id_to_contiguous_id") or {number: number for number in range(len(names))}
    return {category: names[number] for category, number in sorted(ids.items(), key=lambda item: item[1])}


def class_labels(classes: Mapping[CocoId, str]) -> list[str]:
    """Names, with the id where the name alone would be two classes."""
    times = Counter(classes.values())
    return [f"{name} ({number})" if times[name] > 1 else name for number, name in classes.items()]
