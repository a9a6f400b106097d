"""The loop that turns images into detections in COCO's results format."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.coco_format import Detection
from scaleprior.detect.data.loader import ImageStore
from scaleprior.detect.data.transforms import resized_shape
from scaleprior.detect.faster_rcnn.model import Detector
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections
from scaleprior.progress import ProgressFn

__all__ = ["predict"]

_BATCH_PIXELS = 8 * 512**2  # of a batch at evaluation; bounds memory
_BATCH_IMAGES = 8


def predict(
    model: Detector,
    data: DetectionSet,
    *,
    order: str,
    short: int,
    longest: int,
    cache_bytes: int = 0,
    strict: bool = False,
    progress: ProgressFn | None = None,
) -> list[Detection]:
    """Detections of every image of ``data``, in the order of its records.

    Args:
        order: "RGB" or "BGR".
        short, longest: limits of the resized image's sides (``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``).
        cache_bytes: how much of the decoded images to keep, for a later call.
        strict: refuse images that are out of order without harm to their pixels.
    """
    store = ImageStore(data, order=order, cache_bytes=cache_bytes, strict=strict)
    found: dict[int, list[Detection]] = {}
    was_training = model.training
    model.eval()
    try:
        for indices in _batches(data, short, longest):
            images = [store.load(index, short, longest, keep=True) for index in indices]
            for index, image, detections in zip(indices, images, model.detect(images)):
                found[index] = _to_coco(data, index, image.shape[1:], detections)
            if progress is not None:
                progress(len(found), len(data), {})
    finally:
        model.train(was_training)
        store.oddities.report()
    return [detection for index in range(len(data)) for detection in found[index]]


def _batches(data: DetectionSet, short: int, longest: int) -> Iterator[list[int]]:
    """Images of one shape together: no padding, so an image's features do not depend on its neighbours."""
    groups: dict[tuple[int, int], list[int]] = {}
    for index, record in enumerate(data.records):
        groups.setdefault(resized_shape(record.height, record.width, short, longest), []).append(index)
    for (height, width), indices in groups.items():
        size = max(1, min(_BATCH_IMAGES, _BATCH_PIXELS // (height * width)))
        yield from (indices[i : i + size] for i in range(0, len(indices), size))


def _to_coco(data: DetectionSet, index: int, shape: Sequence[int], detections: Detections) -> list[Detection]:
    record = data.records[index]
    height, width = shape
    scale = torch.tensor([record.width / width, record.height / height] * 2, device=detections.boxes.device)
    boxes = (detections.boxes * scale).cpu()
    limit = torch.tensor([record.width, record.height] * 2, dtype=boxes.dtype)
    boxes = torch.minimum(boxes.clamp(min=0), limit)
    boxes[:, 2:] -= boxes[:, :2]
    rows = zip(boxes.tolist(), detections.scores.tolist(), detections.classes.tolist())
    return [
        {"image_id": record.id, "category_id": data.category_ids[cls], "bbox": box, "score": score}
        for box, score, cls in rows
        if box[2] > 0 and box[3] > 0
    ]
