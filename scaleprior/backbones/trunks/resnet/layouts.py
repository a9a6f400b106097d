"""How publishers name a ResNet's tensors, each mapped to Detectron2's names, which are the canonical ones."""

from __future__ import annotations

import re

from scaleprior.backbones.trunks.layout import CLASSIFIER, COUNTER, DETECTOR, OPTIMISER, TENSORS, Dropped, Layout
from scaleprior.backbones.trunks.resnet.names import to_detectron2
from scaleprior.errors import UserError

__all__ = ["LAYOUTS"]

_D2 = re.compile(
    rf"(?P<prefix>(?:model\.)?(?:backbone\.(?:bottom_up\.)?|roi_heads\.))?"
    rf"(?P<name>(?:stem\.conv1|res[2-5]\.\d+\.(?:conv[123]|shortcut))(?:\.norm)?\.(?:{TENSORS}))"
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
        return COUNTER
    if match := _D2.fullmatch(name):
        # Only res5 lives in the heads (C4); any other trunk name there would be a head's own.
        in_heads = (match["prefix"] or "").endswith("roi_heads.")
        return match["name"] if not in_heads or match["name"].startswith("res5.") else DETECTOR
    if re.match(r"(?:backbone\.(?:bottom_up\.)?)?(?:stem\.fc|linear)\.", name):
        return CLASSIFIER
    return DETECTOR if _HEADS.match(name) else None


def _caffe2(name: str) -> str | Dropped | None:
    if name.endswith("_momentum"):
        return OPTIMISER
    if re.match(r"(?:fc1000|pred)_[wb]$", name):
        return CLASSIFIER
    # MSRA's files call the stem's norm "res_conv1_bn_s", Detectron's with GroupNorm "conv1_gn_s".
    if match := _CAFFE2.fullmatch(name.removeprefix("res_")):
        if match["norm"] is None and match["tensor"] != "w":
            return Dropped("zero bias") if name == "conv1_b" else None  # in front of a norm, and checked to be 0
        part = {"1": "shortcut", "2a": "conv1", "2b": "conv2", "2c": "conv3", None: "conv1"}[match["branch"]]
        where = "stem" if match["stem"] else f"res{match['stage']}.{match['block']}"
        return f"{where}.{part}{'.norm' if match['norm'] else ''}.{_CAFFE2_TENSORS[match['tensor']]}"
    heads = r"fpn_|conv_rpn|rpn_|fc[67]_|cls_score|bbox_pred|head_conv|mask_|conv_fcn|_\[mask\]|kps_|retnet_|conv5_mask"
    return DETECTOR if re.match(heads, name) or name in ("lr", "weight_order") else None


def _torchvision(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if re.match(r"(?:fc|head\.fc|classifier)\.", name):
        return CLASSIFIER
    try:
        return next(iter(to_detectron2({name: 0})), None)
    except UserError:
        return None


def _hugging_face(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if name.startswith("classifier."):
        return CLASSIFIER
    pattern = (
        r"(?:resnet\.)?(?:(?P<stem>embedder\.embedder)|encoder\.stages\.(?P<stage>[0-3])\.layers\.(?P<block>\d+)\."
        rf"(?:layer\.(?P<part>[012])|(?P<short>shortcut)))\.(?P<kind>convolution|normalization)\.(?P<tensor>{TENSORS})"
    )
    match = re.fullmatch(pattern, name)
    if match is None:
        return None
    part = "conv1" if match["stem"] else "shortcut" if match["short"] else f"conv{int(match['part']) + 1}"
    where = "stem" if match["stem"] else f"res{int(match['stage']) + 2}.{match['block']}"
    return f"{where}.{part}{'.norm' if match['kind'] == 'normalization' else ''}.{match['tensor']}"


LAYOUTS = (
    Layout(
        "torchvision/timm",
        (r"layer\d\.\d+\.conv1\.weight", r"conv1\.weight|bn1\.weight"),
        _torchvision,
        absent=(r"conv3\.weight$",),  # CLIP's stem, whose original names are otherwise the same
    ),
    Layout("hugging face", (r"(resnet\.)?encoder\.stages\.\d\.layers\.0\.layer\.0\.conv",), _hugging_face),
    Layout("caffe2 (GroupNorm)", (r"conv1_w$", r"res\d_\d+_branch2a_gn_s$"), _caffe2, norm="GN"),
    Layout("caffe2", (r"conv1_w$", r"res\d_\d+_branch2a_w$"), _caffe2, norm="FrozenBN"),
    Layout(
        "detectron2",
        (r"(model\.)?(backbone\.(bottom_up\.)?|roi_heads\.)?(stem\.conv1|res\d\.\d+\.conv1)\.weight$",),
        _detectron2,
    ),
)
