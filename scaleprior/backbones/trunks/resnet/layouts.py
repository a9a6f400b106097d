"""How publishers name a ResNet's tensors, each mapped to Detectron2's names, which are the canonical ones."""

from __future__ import annotations

import re

from scaleprior.backbones.trunks.layout import CLASSIFIER, COUNTER, DETECTOR, HEAD, OPTIMISER, TENSORS, Dropped, Layout
from scaleprior.backbones.trunks.resnet.names import detectron2_name

__all__ = ["LAYOUTS"]

_D2 = re.compile(rf"(?:stem\.conv1|res[2-5]\.\d+\.(?:conv[123]|shortcut))(?:\.norm)?\.(?:{TENSORS})")
_CAFFE2 = re.compile(
    r"(?:(?P<stem>conv1)|res(?P<stage>[2-5])_(?P<block>\d+)_branch(?P<branch>1|2a|2b|2c))"
    r"(?P<norm>_bn|_gn)?_(?P<tensor>w|b|s|rm|riv|running_mean|running_var|gamma|beta)"
)
_CAFFE2_TENSORS = {
    "w": "weight", "s": "weight", "gamma": "weight", "b": "bias", "beta": "bias", "rm": "running_mean",
    "running_mean": "running_mean", "riv": "running_var", "running_var": "running_var",
}  # fmt: skip
_HEADS = re.compile(
    r"(?:.*\.)?(?:backbone\.(?:fpn_|top_block|simfp)|proposal_generator\.|roi_heads\.|sem_seg_head\.|head\.|"
    r"anchor_generator|pixel_(?:mean|std)$|mask_head)"
)


def _detectron2(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if _D2.fullmatch(name):
        return name
    return CLASSIFIER if name.startswith(("stem.fc.", "linear.")) else None


def _detectron2_heads(name: str) -> Dropped | None:
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
    return _caffe2_heads(name)


def _caffe2_heads(name: str) -> Dropped | None:
    heads = r"fpn_|conv_rpn|rpn_|fc[67]_|cls_score|bbox_pred|head_conv|mask_|conv_fcn|_\[mask\]|kps_|retnet_|conv5_mask"
    return DETECTOR if re.match(heads, name) or name in ("lr", "weight_order") else None


def _torchvision(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if re.match(r"(?:fc|head\.fc|classifier)\.(?:weight|bias)$", name):
        return CLASSIFIER
    if name.startswith(("fc.", "head.", "classifier.")):
        return HEAD  # a projector in the classifier's place: MoCo v2's, SimSiam's
    return detectron2_name(name)


def _children(name: str) -> str | Dropped | None:
    """``nn.Sequential(*resnet.children())``: 0 conv1, 1 bn1, 4 to 7 the stages, then what reads them."""
    number, _, rest = name.partition(".")
    if not number.isdigit():
        return None
    if int(number) > 7:
        return CLASSIFIER if int(number) == 9 and rest in ("weight", "bias") else HEAD
    stem = {0: "conv1", 1: "bn1"}.get(int(number), f"layer{int(number) - 3}")
    return _torchvision(f"{stem}.{rest}")


def _hugging_face(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if name.startswith("classifier."):
        return CLASSIFIER
    pattern = (
        r"(?:(?P<stem>embedder\.embedder)|encoder\.stages\.(?P<stage>[0-3])\.layers\.(?P<block>\d+)\."
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
        (r"layer[1-4]\.\d+\.conv1\.weight$", r"conv1\.weight$|bn1\.weight$"),
        _torchvision,
        absent=(r"conv3\.weight$",),  # CLIP's stem, whose original names are otherwise the same
    ),
    Layout(
        "torchvision/timm, children by number", (r"[4-7]\.\d+\.conv1\.weight$", r"0\.weight$|1\.weight$"), _children
    ),
    Layout(
        "hugging face",
        (r"encoder\.stages\.\d\.layers\.0\.layer\.0\.convolution\.weight$", r"embedder\."),
        _hugging_face,
    ),
    Layout("caffe2 (GroupNorm)", (r"res\d_\d+_branch2a_gn_s$", r"conv1_w$"), _caffe2, norm="GN"),
    Layout("caffe2", (r"res\d_\d+_branch2a_w$", r"conv1_w$"), _caffe2, norm="FrozenBN"),
    Layout("detectron2", (r"res[2-5]\.\d+\.conv1\.weight$",), _detectron2, beside=_detectron2_heads),
)
