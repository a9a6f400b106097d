"""Detectron2's COCO evaluation where annotation ids mean nothing, and classes of one name are two classes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator

from scaleprior.detect.data.coco_format import CocoId

__all__ = ["Evaluator", "class_labels", "classes_of"]


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
