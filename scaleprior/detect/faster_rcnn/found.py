"""Detections as columns: on their way from the device, gathered from several processes, and as rows of COCO's format.

N images of one shape in a batch, D detections of all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scaleprior.detect.data.coco import DetectionSet
from scaleprior.detect.data.coco_format import Detection
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections
from scaleprior.detect.faster_rcnn.paste import paste_masks

__all__ = ["Found", "Leaving"]


@dataclass(frozen=True)
class Found:
    """Detections of some images of a set.

    Attributes:
        images: int64 [D], number of the image among the set's records.
        boxes: float32 [D, 4], [x, y, width, height] in pixels of the original image; no side is 0.
        scores: float32 [D]. classes: int64 [D].
        masks: texts [D], run lengths of each one's pixels in the original image; None of a detector without masks.
    """

    images: np.ndarray
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None = None

    @classmethod
    def joined(cls, parts: Sequence[Found]) -> Found:
        """All of them, in the order of the records, and within an image as they were."""
        parts = [part for part in parts if len(part.images)]  # an empty one does not know whether there are masks
        if not parts:
            return cls(
                np.zeros(0, np.int64), np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
            )
        order = np.argsort(np.concatenate([part.images for part in parts]), kind="stable")
        columns = {name: [getattr(part, name) for part in parts] for name in cls.__dataclass_fields__}
        there = {name: column for name, column in columns.items() if column[0] is not None}
        return cls(**{name: np.concatenate(column)[order] for name, column in there.items()})

    def rows(self, data: DetectionSet) -> list[Detection]:
        """In COCO's results format."""
        ids = [record.id for record in data.records]
        columns = (self.images.tolist(), self.classes.tolist(), self.boxes.tolist(), self.scores.tolist())
        rows: list[Detection] = [
            {"image_id": ids[image], "category_id": data.category_ids[cls], "bbox": box, "score": score}
            for image, cls, box, score in zip(*columns)
        ]
        if self.masks is not None:
            for row, image, counts in zip(rows, columns[0], self.masks.tolist()):
                record = data.records[image]
                row["segmentation"] = {"size": [record.height, record.width], "counts": counts}
        return rows


class Leaving:
    """Detections of a batch on their way to the host: as three tensors, whatever the number of images.

    Made where the network ran, before the next batch is handed to the device; a copy that was asked for later would
    wait for that.

    Args:
        indices: numbers of the images among the set's records.
        detections: of each, in pixels of the resized image.
        shape: (height, width) of the resized images.
    """

    def __init__(self, indices: Sequence[int], detections: Sequence[Detections], shape: tuple[int, int]) -> None:
        self._images = np.repeat(np.asarray(indices, dtype=np.int64), [len(d.scores) for d in detections])
        self._shape = shape
        columns = (torch.cat([getattr(d, name) for d in detections]) for name in ("boxes", "scores", "classes"))
        self._columns = [_to_host(column) for column in columns]
        # masks stay where they are: what becomes of them there is smaller than they are
        masks = [d.masks for d in detections if d.masks is not None]
        self._masks = torch.cat(masks) if len(masks) == len(detections) else None
        self._arrived = torch.cuda.Event() if detections[0].boxes.is_cuda else None
        if self._arrived is not None:
            self._arrived.record()

    def found(self, data: DetectionSet) -> Found:
        """Them in the original images' pixels, without those that have no extent there. Waits for the device."""
        if self._arrived is not None:
            self._arrived.synchronize()
        boxes, scores, classes = (column.numpy() for column in self._columns)
        height, width = self._shape
        records = [data.records[image] for image in self._images.tolist()]
        sides = np.array([[r.width, r.height] * 2 for r in records], dtype=np.float64).reshape(-1, 4)
        scale = (sides / np.array([width, height] * 2)).astype(np.float32)
        boxes = np.minimum((boxes * scale).clip(min=0), sides.astype(np.float32))
        there = np.all(boxes[:, 2:] > boxes[:, :2], axis=1)
        masks = None if self._masks is None else self._pasted(self._masks, boxes, there, data)[there]
        boxes[:, 2:] -= boxes[:, :2]
        # copies, because the buffers that the device writes to are used again
        return Found(self._images[there], boxes[there], scores[there], classes[there], masks)

    def _pasted(self, masks: Tensor, boxes: np.ndarray, there: np.ndarray, data: DetectionSet) -> np.ndarray:
        """Run lengths of those that are ``there``, in boxes xyxy of the original images; texts [D]."""
        texts = np.full(len(boxes), "", dtype=object)
        for image in np.unique(self._images[there]).tolist():
            rows = np.flatnonzero((self._images == image) & there)
            own = masks[torch.from_numpy(rows).to(masks.device)]
            corners = torch.from_numpy(boxes[rows]).to(masks.device)
            texts[rows] = paste_masks(own, corners, data.records[image].height, data.records[image].width)
        return texts


def _to_host(column: Tensor) -> Tensor:
    if not column.is_cuda:
        return column
    return torch.empty(column.shape, dtype=column.dtype, pin_memory=True).copy_(column, non_blocking=True)
