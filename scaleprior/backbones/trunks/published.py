"""Facts about weights: who states them, what publishers state of theirs, and sets of usual values for the rest.

Spelling proves nothing: torchvision's names are written by whoever trains its ResNets, on pixels of any kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from scaleprior.errors import UserError
from scaleprior.wording import shown

__all__ = [
    "CARD_FACTS", "CLIP_STATISTICS", "FACT_KINDS", "IMAGENET_MEAN", "IMAGENET_STD", "USUAL", "FactKind",
    "KnownFacts", "Origin", "Triple", "UnsaidNormsError", "Usual",
]  # fmt: skip

Triple = tuple[float, float, float]  # on the 0-255 scale, in the order of channel_order
FactKind = Literal["user", "file", "publisher", "assumed"]
FACT_KINDS: tuple[FactKind, ...] = get_args(FactKind)
"""Who may say a fact, best first: an option; what travels with the weights; their publisher, where it is proven that
they are his; nobody, so that somebody's usual value was taken on the user's word."""
CARD_FACTS = ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1", "norm", "norm_eps")
"""The facts whose origin a card tells."""


class UnsaidNormsError(UserError):
    """Neither names nor statistics tell the kind of a trunk's norms; somebody has to say it."""


@dataclass(frozen=True)
class Origin:
    """Where a fact comes from.

    Attributes:
        kind: who says it.
        where: the place, in words.
    """

    kind: FactKind
    where: str

    def to_dict(self) -> dict[str, str]:
        """JSON-ready, as a card has it."""
        return {"from": self.kind, "where": self.where}

    @classmethod
    def from_dict(cls, value: Any) -> Origin:
        """Raises UserError: not what :meth:`to_dict` gives."""
        if (
            not isinstance(value, Mapping)
            or set(value) != {"from", "where"}
            or not isinstance(value["from"], str)
            or value["from"] not in FACT_KINDS
            or not isinstance(value["where"], str)
        ):
            raise UserError(
                f"the origin of a fact is {shown(value)}",
                hint=f'write {{"from": ..., "where": ...}} with from one of {", ".join(FACT_KINDS)}',
            )
        return cls(value["from"], value["where"])

    def __str__(self) -> str:
        return f"{self.kind}: {self.where}"


@dataclass(frozen=True)
class KnownFacts:
    """Facts from one place; None = it does not say.

    Attributes:
        origin: the place, in words for the report.
        kind: who says it.
        architecture: timm's name of the network, to be held against the tensors.
        norm: kind of norms that have no running statistics: "GN" or "FrozenBN".
        norm_eps: what the norms add to the variance.
        images, labels, corpus: what they learned from.
    """

    origin: str
    pixel_mean: Triple | None = None
    pixel_std: Triple | None = None
    channel_order: str | None = None
    stride_in_1x1: bool | None = None
    input_size: int | None = None
    licence: str | None = None
    source: str | None = None
    name: str | None = None
    architecture: str | None = None
    norm: str | None = None
    norm_eps: float | None = None
    images: int | None = None
    labels: int | None = None
    corpus: str | None = None
    kind: FactKind = "file"


@dataclass(frozen=True)
class Usual:
    """A set of values that many weights have, to be assumed on the user's word.

    Attributes:
        facts: the values.
        who: whose weights have them.
    """

    facts: KnownFacts
    who: str

    @property
    def words(self) -> str:
        """The values, for a person to choose by."""
        facts = self.facts
        mean, std = (" ".join(f"{value:g}" for value in triple or ()) for triple in (facts.pixel_mean, facts.pixel_std))
        place = "1x1" if facts.stride_in_1x1 else "3x3"
        return f"mean {mean}, std {std}, {facts.channel_order}, stride in the {place}, eps {facts.norm_eps:g}"


IMAGENET_MEAN: Triple = (123.675, 116.28, 103.53)
IMAGENET_STD: Triple = (58.395, 57.12, 57.375)
"""Of ImageNet's training images, RGB: torchvision's transforms, and timm's IMAGENET_DEFAULT_MEAN and _STD."""
CLIP_STATISTICS: tuple[Triple, Triple] = (
    (122.7709383, 116.7460125, 104.09373615),
    (68.5005327, 66.6321579, 70.32316305),
)
"""Mean and std of OpenAI's ``clip.load``, RGB; timm's OPENAI_CLIP_MEAN and _STD."""


def _usual(name: str, mean: Triple, std: Triple, order: str, stride_in_1x1: bool, who: str) -> Usual:
    words = f"usual values of {name}, which nobody stated for these weights"
    return Usual(KnownFacts(words, mean, std, order, stride_in_1x1, norm_eps=1e-5, kind="assumed"), who)


_HALF: Triple = (127.5, 127.5, 127.5)
USUAL: Mapping[str, Usual] = {
    "torchvision": _usual(
        "torchvision", IMAGENET_MEAN, IMAGENET_STD, "RGB", False,
        "torchvision, timm's default, MoCo and most that train torchvision's ResNets on ImageNet",
    ),
    "msra": _usual(
        "msra", (103.53, 116.28, 123.675), (1.0, 1.0, 1.0), "BGR", True,
        "MSRA's and Detectron's Caffe2 ResNets, OpenMMLab's caffe style",
    ),
    "half": _usual(
        "half", _HALF, _HALF, "RGB", False, "pixels in -1..1: BiT, timm's `inception` statistics",
    ),
    "unit": _usual(
        "unit", (0.0, 0.0, 0.0), (255.0, 255.0, 255.0), "RGB", False,
        "pixels in 0..1 (ToTensor alone): MIIL's ImageNet-21K-P, many scripts of one's own",
    ),
    "clip": _usual("clip", *CLIP_STATISTICS, "RGB", False, "OpenAI's CLIP, and OpenCLIP by default"),
}  # fmt: skip
"""Sets of usual values by name. Confirmed in: torchvision's transforms and timm's data/constants.py as installed;
facebookresearch/moco main_moco.py (SwAV is no such case: its std of red is 0.228); open-mmlab/mmdetection
configs/faster_rcnn/faster-rcnn_r50-caffe_fpn_1x_coco.py; Detectron2's MODEL_ZOO.md; google-research/big_transfer;
Alibaba-MIIL/ImageNet21K src_files/data_loading/data_loader.py; mlfoundations/open_clip constants.py.

eps is 1e-5 in all: PyTorch's default, and what Detectron2's FrozenBN adds to MSRA's. Other values are rare and are
given: TensorFlow's networks have 1e-3."""
