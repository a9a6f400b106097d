"""What is to be found in a batch of images, padded to one number of objects: moved and compared at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scaleprior.detect.data.segmentation import Segmentation

__all__ = ["Truth"]


@dataclass(frozen=True)
class Truth:
    """The objects of N images; an image with fewer than G has empty places behind its own.

    Attributes:
        boxes: float32 [N, G, 4], xyxy in pixels of the resized image; 0 in empty places.
        classes: int64 [N, G], in 0..C-1; 0 in empty places.
        present: bool [N, G], whether there is an object at that place.
        masks: G_i of each image, which stay with the host; None where the detector learns boxes alone.
    """

    boxes: Tensor
    classes: Tensor
    present: Tensor
    masks: list[list[Segmentation]] | None = None

    @classmethod
    def padded(
        cls,
        boxes: Sequence[Tensor],
        classes: Sequence[Tensor],
        masks: list[list[Segmentation]] | None = None,
        *,
        multiple: int = 1,
    ) -> Truth:
        """From one float32 [G_i, 4], one int64 [G_i] and G_i masks for each image.

        Args:
            multiple: G is one of this, and no smaller.
        """
        counts = torch.tensor([len(each) for each in boxes])
        most = -(-max(int(counts.max()), 1) // multiple) * multiple
        present = torch.arange(most) < counts[:, None]
        all_boxes = torch.zeros(len(boxes), most, 4)
        all_classes = torch.zeros(len(boxes), most, dtype=torch.int64)
        all_boxes[present] = torch.cat(list(boxes))
        all_classes[present] = torch.cat(list(classes))
        return cls(all_boxes, all_classes, present, masks)

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device) -> Truth:
        """On ``device``; from pinned memory nobody waits for the copy."""
        if self.boxes.device == device:
            return self
        boxes, classes, present = (
            tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.classes, self.present)
        )
        return replace(self, boxes=boxes, classes=classes, present=present)

    def pin_memory(self) -> Truth:
        """In pinned memory of the host."""
        return replace(
            self,
            boxes=self.boxes.pin_memory(),
            classes=self.classes.pin_memory(),
            present=self.present.pin_memory(),
        )

    def lists(self) -> tuple[list[Tensor], list[Tensor]]:
        """Boxes [G_i, 4] and classes [G_i] of each image."""
        return (
            [boxes[present] for boxes, present in zip(self.boxes, self.present)],
            [classes[present] for classes, present in zip(self.classes, self.present)],
        )
