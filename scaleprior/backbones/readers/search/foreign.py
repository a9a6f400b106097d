"""Networks that no trunk here holds, by the names that only they have, so that an error can call them what they are."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["foreign_network"]

_NETWORKS: tuple[tuple[str, re.Pattern[str]], ...] = tuple(
    (what, re.compile(rf"(?:.*[./])?(?:{names})"))
    for what, names in (
        ("an SKNet (selective kernels)", r"layer\d\.\d+\.conv\d\.(?:paths|attn)\."),
        ("a normaliser-free ResNet", r"stages\.\d\.\d+\.conv\d\.gain$"),
        ("a Swin Transformer", r"(?:blocks\.\d+|features\.\d+\.\d+)\.attn\.(?:w_msa\.)?relative_position_bias_table"),
        ("a Vision Transformer", r"blocks\.\d+\.attn\.(?:qkv|q_proj|in_proj)|encoder\.layers?\.(?:encoder_layer_)?\d+\."
         r"(?:self_attention|attention)\.|transformer\.resblocks\.\d+\.attn\.|layers\.\d+\.attn\.attn\."),
        ("an EfficientNet or a MobileNet", r"blocks\.\d\.\d+\.conv_(?:pw|pwl|dw)\.|"
         r"_blocks\.\d+\._depthwise_conv\.|features\.\d+\.\d+\.block\.\d\.0\.weight|features\.\d+\.conv\.\d\.0\.weight"),
        ("a RegNet", r"s[1-4]\.b\d+\.conv1\.conv\.weight|trunk_output\.block\d|s[1-4]\.b\d+\.f\.a\.weight"),
        ("a DenseNet", r"denseblock\d\.denselayer\d+\."),
        ("an HRNet", r"stage[234]\.\d\.branches\."),
        ("an Inception", r"(?:Mixed_5b|inception4a)\."),
        ("a network of YOLO's", r"model\.\d+\.cv1\.conv\.weight|dark[2-5]\.\d\."),
        ("a VGG", r"features\.(?:28|34|40|49)\.weight$"),
    )
)  # fmt: skip
"""What it is, and names that timm, torchvision, Hugging Face or the authors give it."""


def foreign_network(names: Iterable[str]) -> str | None:
    """What a file without a trunk seems to be; None: unknown."""
    names = list(names)
    return next((what for what, pattern in _NETWORKS if any(map(pattern.match, names))), None)
