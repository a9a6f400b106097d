"""Which pixels of a box are the object's: Mask R-CNN's head on the pooled maps of objects, and its loss.

Shapes: M objects of all images, C classes, P side of the pooled square, 2P of a mask. He et al., arXiv 1703.06870,
Sec. 3, with the layers, names and initialisation of Detectron2's ``MaskRCNNConvUpsampleHead``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from scaleprior.detect.data.masks import mask_targets
from scaleprior.detect.data.segmentation import Segmentation
from scaleprior.detect.faster_rcnn.parts.backbone import norm_layer

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["MaskHead", "Objects", "mask_loss"]


@dataclass(frozen=True)
class Objects:
    """The regions that show an object, whose masks are learnt.

    Attributes:
        rows: int64 [M], their places among the regions that they were chosen from.
        boxes: float32 [M, 4]. images: int64 [M]. classes: int64 [M].
        masks: the true mask of each.
        on_host: the boxes once more, on the CPU, where masks are drawn.
    """

    rows: Tensor
    boxes: Tensor
    images: Tensor
    classes: Tensor
    masks: list[Segmentation]
    on_host: Tensor

    @classmethod
    def among(
        cls,
        kind: Tensor,
        boxes: Tensor,
        images: Tensor,
        classes: Tensor,
        matched: Tensor,
        masks: Sequence[Sequence[Segmentation]],
    ) -> Objects:
        """Of R regions those with ``kind`` 1.

        A device is waited for: how many there are gives tensors their shape, and the host draws their masks.

        Args:
            kind: int8 [R]. boxes: [R, 4]. images, classes: int64 [R].
            matched: int64 [R], which of its image's objects a region shows.
            masks: of the objects of each image.
        """
        rows = torch.nonzero(kind == 1).squeeze(1)
        places = torch.stack([images[rows], matched[rows]], dim=1).tolist()
        chosen = boxes[rows]
        found = [masks[image][place] for image, place in places]
        return cls(rows, chosen, images[rows], classes[rows], found, chosen.cpu())

    def targets(self, side: int) -> Tensor:
        """What is to be found in each box: bool [M, side, side], on the device of the boxes."""
        return mask_targets(self.masks, self.on_host, side).to(self.boxes.device, non_blocking=True)


class MaskHead(nn.Module):
    """3x3 convolutions, a transposed one that doubles the side, each with ReLU, and a 1x1 convolution to the masks.

    Args:
        channels: of the pooled maps.
        classes: C; 1 = one mask for all classes.
        convs: how many 3x3 convolutions.
        width: channels of every layer but the last.
        norm: makes a norm layer of the 3x3 convolutions from its width; None = none (they then have a bias).
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        *,
        convs: int,
        width: int,
        norm: Callable[[int], nn.Module] | None = None,
    ) -> None:
        super().__init__()
        self._layers: list[nn.Module] = []
        filled: list[nn.Conv2d | nn.ConvTranspose2d] = []
        for number in range(1, convs + 1):
            conv = nn.Conv2d(channels, width, 3, padding=1, bias=norm is None)
            filled.append(conv)
            layer = conv if norm is None else nn.Sequential(conv, norm(width))
            self.add_module(f"mask_fcn{number}", layer)
            self._layers.append(layer)
            channels = width
        self.deconv: nn.ConvTranspose2d = nn.ConvTranspose2d(channels, width, 2, stride=2)
        self.predictor: nn.Conv2d = nn.Conv2d(width, classes, 1)
        for layer in (*filled, self.deconv):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        nn.init.normal_(self.predictor.weight, std=0.001)
        for layer in (*filled, self.deconv, self.predictor):
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    @classmethod
    def from_config(cls, cfg: CfgNode, channels: int) -> MaskHead:
        """Read ``MODEL.ROI_MASK_HEAD``; ``MODEL.ROI_HEADS.NUM_CLASSES`` has to be final.

        Args:
            channels: of the pooled maps.
        """
        head = cfg.MODEL.ROI_MASK_HEAD
        return cls(
            channels,
            1 if head.CLS_AGNOSTIC_MASK else cfg.MODEL.ROI_HEADS.NUM_CLASSES,
            convs=head.NUM_CONV,
            width=head.CONV_DIM,
            norm=norm_layer(head.NORM, "MODEL.ROI_MASK_HEAD.NORM"),
        )

    def forward(self, pooled: Tensor, classes: Tensor) -> Tensor:
        """Logits float32 [M, 2P, 2P] of each object's mask; above 0 means the object's.

        Of the masks of all classes, which Detectron2 computes first, only the one that is asked for is computed:
        everything else of a class is the predictor's row. That spares C - 1 of C maps, and their gradients.

        Args:
            pooled: [M, channels, P, P].
            classes: int64 [M] in 0..C-1, the true ones in training, else the detected ones.
        """
        x = pooled
        for layer in self._layers:
            x = F.relu(layer(x))
        x = F.relu(self.deconv(x))
        one_for_all = self.predictor.out_channels == 1
        row = torch.zeros_like(classes) if one_for_all else classes
        assert self.predictor.bias is not None
        # [M, 4 P^2, width] @ [M, width, 1]: the maps lie in memory with their channels last
        rows = self.predictor.weight.permute(0, 2, 3, 1)[row].flatten(1)  # the gradient has the weight's strides, too
        logits = x.permute(0, 2, 3, 1).flatten(1, 2) @ rows[:, :, None]
        return logits.view(len(x), *x.shape[2:]).float() + self.predictor.bias[row].float()[:, None, None]


def mask_loss(logits: Tensor, targets: Tensor, count: Tensor | float | None = None) -> Tensor:
    """Mean binary cross-entropy over all pixels of all masks, as Detectron2's ``mask_rcnn_loss``.

    Without any object it is 0 that keeps the graph, so that every parameter has a gradient in every process.

    Args:
        logits: float32 [M, 2P, 2P].
        targets: bool or 0 and 1, [M, 2P, 2P].
        count: masks to take the mean over, by default M, or 1 where there is none.
    """
    total = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype), reduction="sum")
    return total / ((max(len(logits), 1) if count is None else count) * logits.shape[1] * logits.shape[2])
