"""What the publishers of ResNets state of files that can only be theirs.

Read in facebookresearch/detectron2 02b5c4e: MODEL_ZOO.md ("ImageNet Pretrained Models"), checkpoint/catalog.py,
config/defaults.py and the configs named below; in facebookresearch/Detectron: configs/04_2018_gn_baselines and
12_2017_baselines.
"""

from __future__ import annotations

from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec

__all__ = ["DETECTRON2_NORMS", "MSRA", "of_caffe2"]

_MEAN_BGR: Triple = (103.53, 116.28, 123.675)
_ONE: Triple = (1.0, 1.0, 1.0)
_EPS = 1e-5  # of Detectron2's norms, which load these weights

MSRA = KnownFacts(
    "published by Detectron2 for MSRA's Caffe2 weights", _MEAN_BGR, _ONE, "BGR", True, norm_eps=_EPS, kind="publisher"
)
"""Detectron2's defaults, which its configs for MSRA's weights keep: BGR, std folded into conv1, stride in the 1x1."""
_DETECTRON_GN = KnownFacts(
    "published by Detectron2 for Detectron's ResNets with GroupNorm (R-50-GN, R-101-GN)",
    *(_MEAN_BGR, _ONE, "BGR", False),
    norm_eps=_EPS,
    kind="publisher",
)
"""configs/Misc/mask_rcnn_R_50_FPN_3x_gn.yaml: only the stride differs from MSRA's."""
_DETECTRON_RESNEXT = KnownFacts(
    "published by Detectron2 for Detectron's ResNeXts with affine norms",
    *(_MEAN_BGR, _ONE, "BGR", False),
    norm_eps=_EPS,
    kind="publisher",
)
"""catalog.py: "MSRA models have STRIDE_IN_1X1=True. False otherwise", "all models here uses PIXEL_STD=[1,1,1]"; the
program Detectron divides by no std at all, so that whatever it loads has it in conv1."""
_DETECTRON2_RESNEXT = KnownFacts(
    "published by Detectron2 for FAIR/X-101-32x8d.pkl",
    *(_MEAN_BGR, (57.375, 57.12, 58.395), "BGR", False),
    norm_eps=_EPS,
    kind="publisher",
)
"""configs/COCO-Detection/faster_rcnn_X_101_32x8d_FPN_3x.yaml; unlike Detectron's copy it has running statistics."""

DETECTRON2_NORMS = KnownFacts("Detectron2's norms, whose eps no config changes", norm_eps=_EPS, kind="publisher")
"""Of tensors in Detectron2's names. An ``__author__`` beside them proves nothing of their pixels: the public converters
write "torchvision" or "MOCO" into whatever they are given."""


def of_caffe2(spec: ResNetSpec) -> KnownFacts | None:
    """What is published of a ResNet in Caffe2's names, by the kind of its norms and its widths."""
    plain = spec == ResNetSpec(depth=spec.depth, norm=spec.norm) and spec.bottleneck
    if spec.norm == "GN":
        return _DETECTRON_GN if plain and spec.depth in (50, 101) else None
    if plain:
        # Detectron2 published MSRA's again with their statistics; with affine norms all three are older.
        return MSRA if spec.norm == "FrozenBN" or spec.depth in (50, 101) else None
    if spec.norm == "FrozenBN" and spec.num_groups > 1:
        return _DETECTRON_RESNEXT
    return _DETECTRON2_RESNEXT if spec == _X101_32X8D else None


_X101_32X8D = ResNetSpec(depth=101, num_groups=32, width_per_group=8)
