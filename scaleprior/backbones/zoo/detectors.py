"""Detectors that torchvision publishes, from which a trunk can be cut out: the facts that their builders hold.

Read in pytorch/vision, torchvision/models/detection (faster_rcnn.py, mask_rcnn.py, keypoint_rcnn.py, retinanet.py): the
builders set the eps of all norms to 0 for exactly the weights COCO_V1 of the first versions, which were trained when
torchvision's FrozenBatchNorm2d had none; mean and standard deviation are ImageNet's, RGB.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from scaleprior.backbones.trunks.published import IMAGENET_MEAN, IMAGENET_STD, KnownFacts
from scaleprior.backbones.zoo.hashes import PrintedHash

__all__ = ["NORM_EPS", "torchvision_detectors"]

NORM_EPS: Mapping[str, float] = {
    "fasterrcnn_resnet50_fpn_coco-258fb6c6": 0.0,
    "maskrcnn_resnet50_fpn_coco-bf2d0c1e": 0.0,
    "keypointrcnn_resnet50_fpn_coco-fc266e95": 0.0,
    "keypointrcnn_resnet50_fpn_coco-9f466800": 1e-5,
    "retinanet_resnet50_fpn_coco-eeacb38b": 0.0,
    "fasterrcnn_resnet50_fpn_v2_coco-dd69338a": 1e-5,
    "maskrcnn_resnet50_fpn_v2_coco-73cbd019": 1e-5,
    "retinanet_resnet50_fpn_v2_coco-5905b1c5": 1e-5,
}
"""File -> what its norms add to the variance. The end of a name begins the file's SHA-256, as torch.hub wants it."""


def torchvision_detectors() -> Iterator[tuple[KnownFacts, PrintedHash]]:
    """What torchvision states of each, and the hash that tells the file."""
    for name, eps in NORM_EPS.items():
        facts = KnownFacts(
            f"published for torchvision's {name}.pth, which this is by its SHA-256",
            *(IMAGENET_MEAN, IMAGENET_STD, "RGB", False),
            source=f"https://download.pytorch.org/models/{name}.pth",
            name=name,
            norm_eps=eps,
            kind="publisher",
        )
        yield facts, PrintedHash("sha256", name.rpartition("-")[2])
