"""The families of parameter names: how to recognise each, and how each maps to canonical names.

A mapping gives for every foreign name its canonical one, or the reason why it is left out: "classifier", "counter",
"optimiser", "zero bias" (in front of a norm), "detector" (heads, pyramid), "projection" (CLIP's attention pool and
text tower). None = unexpected.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from scaleprior.backbones.names import to_detectron2
from scaleprior.errors import UserError

__all__ = ["LAYOUTS", "Dropped", "Layout", "recognise"]


@dataclass(frozen=True)
class Dropped:
    """A tensor that is left out on purpose."""

    reason: str


@dataclass(frozen=True)
class Layout:
    """One family of names.

    Attributes:
        name: for reports.
        family: "resnet" (canonical names are Detectron2's), "bit" or "clip" (they are timm's).
        signature: what a file of this family has: regular expressions that must each match some name.
        rename: foreign name -> canonical name, ``Dropped``, or None for a stranger.
        hwio: convolutions are stored [H, W, in, out] and standardised (BiT's own files).
    """

    name: str
    family: Literal["resnet", "bit", "clip"]
    signature: tuple[str, ...]
    rename: Callable[[str], str | Dropped | None]
    hwio: bool = False

    def fits(self, names: Collection[str]) -> bool:
        """Whether these names are of this family."""
        return all(any(re.match(pattern, name) for name in names) for pattern in self.signature)


_COUNTER, _CLASSIFIER = Dropped("counter"), Dropped("classifier")
_DETECTOR, _OPTIMISER, _PROJECTION = Dropped("detector"), Dropped("optimiser"), Dropped("projection")
_TENSORS = "weight|bias|running_mean|running_var"
_D2 = re.compile(
    rf"(?P<prefix>(?:model\.)?(?:backbone\.(?:bottom_up\.)?|roi_heads\.))?"
    rf"(?P<name>(?:stem\.conv1|res[2-5]\.\d+\.(?:conv[123]|shortcut))(?:\.norm)?\.(?:{_TENSORS}))"
)
_CAFFE2 = re.compile(
    r"(?:(?P<stem>conv1)|res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2a|2b|2c))"
    r"(?P<norm>_bn|_gn)?_(?P<tensor>w|b|s|rm|riv|running_mean|running_var|gamma|beta)"
)
_CAFFE2_TENSORS = {
    "w": "weight", "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias", "rm": "running_mean",
    "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_HEADS = re.compile(
    r"(?:model\.)?(?:backbone\.(?:fpn_|top_block|simfp)|proposal_generator\.|roi_heads\.|sem_seg_head\.|head\.|"
    r"anchor_generator|pixel_(?:mean|std)|mask_head|teacher\.)"
)


def _detectron2(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return _COUNTER
    if match := _D2.fullmatch(name):
        # Only res5 lives in the heads (C4); any other trunk name there would be a head's own.
        in_heads = (match["prefix"] or "").endswith("roi_heads.")
        return match["name"] if not in_heads or match["name"].startswith("res5.") else _DETECTOR
    if re.match(r"(?:backbone\.(?:bottom_up\.)?)?(?:stem\.fc|linear)\.", name):
        return _CLASSIFIER
    return _DETECTOR if _HEADS.match(name) else None


def _caffe2(name: str) -> str | Dropped | None:
    if name.endswith("_momentum"):
        return _OPTIMISER
    if re.match(r"(?:fc1000|pred)_[wb]$", name):
        return _CLASSIFIER
    # MSRA's files call the stem's norm "res_conv1_bn_s".
    if match := _CAFFE2.fullmatch(name.removeprefix("res_")):
        if match["norm"] is None and match["tensor"] != "w":
            return Dropped("zero bias") if name == "conv1_b" else None  # in front of a norm, and checked to be 0
        part = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3", None: "conv1"}[match["branch"]]
        where = "stem" if match["stem"] else f"res{match['stage']}.{match['block']}"
        return f"{where}.{part}{'.norm' if match['norm'] else ''}.{_CAFFE2_TENSORS[match['tensor']]}"
    heads = r"fpn_|conv_rpn|rpn_|fc[67]_|cls_score|bbox_pred|head_conv|mask_|conv_fcn|_\[mask\]|kps_|retnet_|conv5_mask"
    return _DETECTOR if re.match(heads, name) or name in ("lr", "weight_order") else None


def _torchvision(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return _COUNTER
    if re.match(r"(?:fc|head\.fc|classifier)\.", name):
        return _CLASSIFIER
    try:
        return next(iter(to_detectron2({name: 0})), None)
    except UserError:
        return None


def _hugging_face(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return _COUNTER
    if name.startswith("classifier."):
        return _CLASSIFIER
    pattern = (
        r"(?:resnet\.)?(?:(?P<stem>embedder\.embedder)|encoder\.stages\.(?P<stage>[0-3])\.layers\.(?P<block>\d+)\."
        rf"(?:layer\.(?P<part>[012])|(?P<short>shortcut)))\.(?P<kind>convolution|normalization)\.(?P<tensor>{_TENSORS})"
    )
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    part = "conv1" if match["stem"] else "shortcut" if match["short"] else f"conv{int(match['part']) + 1}"
    where = "stem" if match["stem"] else f"res{int(match['stage']) + 2}.{match['block']}"
    return f"{where}.{part}{'.norm' if match['kind'] == 'normalization' else ''}.{match['tensor']}"


def _bit(name: str) -> str | Dropped | None:
    name = name.removeprefix("resnet/")
    if name.startswith("head/"):
        return _CLASSIFIER
    tensor = {"gamma": "weight", "beta": "bias"}
    if name == "root_block/standardized_conv2d/kernel":
        return "stem.conv.weight"
    if match := re.fullmatch(r"group_norm/(gamma|beta)", name):
        return f"norm.{tensor[match[1]]}"
    pattern = r"block([1-4])/unit(\d\d)/([abc])/(?:(proj/)?standardized_conv2d/kernel|group_norm/(gamma|beta))"
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    where, number = f"stages.{int(match[1]) - 1}.blocks.{int(match[2]) - 1}", "abc".index(match[3]) + 1
    if match[5]:
        return f"{where}.norm{number}.{tensor[match[5]]}"
    return f"{where}.downsample.conv.weight" if match[4] else f"{where}.conv{number}.weight"


def _timm_bit(name: str) -> str | Dropped | None:
    if name.startswith("head."):
        return _CLASSIFIER
    pattern = r"stem\.conv\.weight|norm\.(?:weight|bias)|stages\.[0-3]\.blocks\.\d+\.(?:downsample\.conv\.weight|"
    return name if re.fullmatch(pattern + r"conv[123]\.weight|norm[123]\.(?:weight|bias))", name) else None


def _timm_clip(name: str) -> str | Dropped | None:
    name = name.removeprefix("visual.trunk.")
    if name.endswith("num_batches_tracked"):
        return _COUNTER
    if name.startswith("head."):
        return _PROJECTION
    part = r"stem\.conv[123]|stages\.[0-3]\.\d+\.(?:conv1_1x1|conv2_kxk|conv3_1x1|shortcut\.conv)"
    if re.fullmatch(rf"(?:{part})\.(?:conv\.weight|bn\.(?:{_TENSORS}))", name):
        return name
    return _text_tower(name)


def _openai_clip(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return _COUNTER
    bare = name.removeprefix("visual.")
    if bare.startswith("attnpool."):
        return _PROJECTION
    if match := re.fullmatch(rf"(conv|bn)([123])\.({_TENSORS})", bare):
        return f"stem.conv{match[2]}.{match[1]}.{match[3]}"
    if match := re.fullmatch(rf"layer([1-4])\.(\d+)\.(conv|bn)([123])\.({_TENSORS})", bare):
        part = ("conv1_1x1", "conv2_kxk", "conv3_1x1")[int(match[4]) - 1]
        return f"stages.{int(match[1]) - 1}.{match[2]}.{part}.{match[3]}.{match[5]}"
    # "-1" is the average pooling, which has no tensors
    if match := re.fullmatch(rf"layer([1-4])\.(\d+)\.downsample\.([01])\.({_TENSORS})", bare):
        kind = ("conv", "bn")[int(match[3])]
        return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.conv.{kind}.{match[4]}"
    return _text_tower(name)


def _text_tower(name: str) -> Dropped | None:
    towers = r"(?:text\.|transformer\.|token_embedding|positional_embedding|ln_final|text_projection|logit_)"
    extras = ("input_resolution", "context_length", "vocab_size")
    return _PROJECTION if re.match(towers, name) or name in extras else None


LAYOUTS: tuple[Layout, ...] = (
    # The order matters where names overlap: CLIP's original names contain torchvision's.
    Layout("clip (OpenAI names)", "clip", (r"(visual\.)?conv3\.weight$", r"(visual\.)?layer1\.0\.conv1"), _openai_clip),
    Layout("clip (timm names)", "clip", (r"(visual\.trunk\.)?stages\.0\.0\.conv1_1x1\.conv\.weight",), _timm_clip),
    Layout("bit (its own names)", "bit", (r"(resnet/)?root_block/standardized_conv2d/kernel",), _bit, hwio=True),
    Layout("bit (timm names)", "bit", (r"stem\.conv\.weight$", r"stages\.0\.blocks\.0\.conv1\.weight"), _timm_bit),
    Layout("torchvision/timm", "resnet", (r"layer\d\.\d+\.conv1\.weight", r"conv1\.weight|bn1\.weight"), _torchvision),
    Layout("hugging face", "resnet", (r"(resnet\.)?encoder\.stages\.\d\.layers\.0\.layer\.0\.conv",), _hugging_face),
    Layout("caffe2", "resnet", (r"conv1_w$", r"res\d_\d+_branch2a_w$"), _caffe2),
    Layout(
        "detectron2",
        "resnet",
        (r"(model\.)?(backbone\.(bottom_up\.)?|roi_heads\.)?(stem\.conv1|res\d\.\d+\.conv1)\.weight$",),
        _detectron2,
    ),
)
"""The layouts of names that are understood, in the order in which they are tried."""


def recognise(names: Collection[str], where: str) -> Layout:
    """The family of these names.

    Raises:
        UserError: none; says what was found.
    """
    if any(re.match(r"conv1\.0\.weight$", name) for name in names):
        raise UserError(
            f"{where} is a ResNet with a deep stem (timm's c, d, s or t variants), which Detectron2's stem cannot hold",
            hint="take the plain variant of that ResNet",
        )
    for layout in LAYOUTS:
        if layout.fits(names):
            return layout
    first = ", ".join(sorted(names)[:4])
    raise UserError(
        f"{where}: {len(names)} tensors, none of a known family (first: {first or 'none'})",
        hint="known: " + ", ".join(layout.name for layout in LAYOUTS),
    )
