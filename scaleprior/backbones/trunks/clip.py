"""CLIP's ResNets (Radford et al. 2021): a stem of three convolutions and blurred strides; no attention pooling."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

from scaleprior.backbones.trunks.family import Clues, TrunkFamily
from scaleprior.backbones.trunks.layout import COUNTER, PROJECTION, TENSORS, Dropped, Layout
from scaleprior.backbones.trunks.model import Model
from scaleprior.backbones.trunks.published import CLIP_STATISTICS, KnownFacts

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CLIP"]

_ARCHIVE = ("input_resolution", "context_length", "vocab_size")
"""Attributes of the TorchScript archives that OpenAI published, which their state dicts have as tensors."""


def _timm_clip(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if name.startswith("head."):
        return PROJECTION
    part = r"stem\.conv[123]|stages\.[0-3]\.\d+\.(?:conv1_1x1|conv2_kxk|conv3_1x1|shortcut\.conv)"
    if re.fullmatch(rf"(?:{part})\.(?:conv\.weight|bn\.(?:{TENSORS}))", name):
        return name
    return None


def _openai_clip(name: str) -> str | Dropped | None:
    if name.endswith("num_batches_tracked"):
        return COUNTER
    if name.startswith("attnpool."):
        return PROJECTION
    if match := re.fullmatch(rf"(conv|bn)([123])\.({TENSORS})", name):
        return f"stem.conv{match[2]}.{match[1]}.{match[3]}"
    if match := re.fullmatch(rf"layer([1-4])\.(\d+)\.(conv|bn)([123])\.({TENSORS})", name):
        part = ("conv1_1x1", "conv2_kxk", "conv3_1x1")[int(match[4]) - 1]
        return f"stages.{int(match[1]) - 1}.{match[2]}.{part}.{match[3]}.{match[5]}"
    # "-1" is the average pooling, which has no tensors
    if match := re.fullmatch(rf"layer([1-4])\.(\d+)\.downsample\.([01])\.({TENSORS})", name):
        kind = ("conv", "bn")[int(match[3])]
        return f"stages.{int(match[1]) - 1}.{match[2]}.shortcut.conv.{kind}.{match[4]}"
    return None


_TEXT_TOWER = re.compile(
    r"(?:.*\.)?(?:text\.|transformer\.|token_embedding|positional_embedding|ln_final|text_projection|logit_(?:scale|bias)|"
    r"(?:input_resolution|context_length|vocab_size)$)"
)


def _text_tower(name: str) -> Dropped | None:
    return PROJECTION if _TEXT_TOWER.match(name) else None


def _model(blocks: tuple[int, int, int, int], width: int) -> Model:
    channels = tuple(width * 2**stage for stage in range(2, 6))
    return Model(blocks, width, channels, 3 * sum(blocks) + 2, *CLIP_STATISTICS)


class CLIP(TrunkFamily):
    """See the module."""

    name = "clip"
    norm = "BN"
    least_side = 32  # the average pools of its stages leave nothing of fewer pixels
    models: ClassVar = {
        "resnet50_clip": _model((3, 4, 6, 3), 64),
        "resnet101_clip": _model((3, 4, 23, 3), 64),
        "resnet50x4_clip": _model((4, 6, 10, 6), 80),
        "resnet50x16_clip": _model((6, 8, 18, 8), 96),
        "resnet50x64_clip": _model((3, 15, 36, 10), 128),
    }
    layouts = (
        Layout(
            "clip (OpenAI names)", (r"layer1\.0\.conv1\.weight$", r"conv3\.weight$"), _openai_clip, beside=_text_tower
        ),
        Layout("clip (timm names)", (r"stages\.0\.0\.conv1_1x1\.conv\.weight$",), _timm_clip, beside=_text_tower),
    )  # fmt: skip

    def published(self, spec: Any, clues: Clues) -> KnownFacts | None:
        """A text tower alone proves nothing: OpenCLIP trains these networks in the same names, with statistics that its
        users choose. OpenAI's archives have three entries that no model's state dict has, its own included."""
        if not set(_ARCHIVE) <= {name.rpartition(".")[2] for name in clues.names}:
            return None
        return KnownFacts(
            "published by OpenAI for CLIP", *CLIP_STATISTICS, "RGB", False, norm_eps=1e-5, kind="publisher"
        )

    def label(self, depth: int, width: int) -> str:
        return f"CLIP-R{depth}x{width}" if width > 1 else f"CLIP-R{depth}"

    def build(self, spec: Any) -> nn.Module:
        import timm

        # CLIP's plain models end in attention over a fixed number of places; "_gap" is the same trunk without it.
        return timm.create_model(f"{spec.model}_gap", pretrained=False, num_classes=0)

    def conv_norms(self, body: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
        return ((module.conv, module.bn) for module in body.modules() if hasattr(module, "bn"))
