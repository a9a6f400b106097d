"""BiT (Kolesnikov et al. 2020): pre-activation ResNetV2 with GroupNorm and standardised weights, as timm builds it.

Its blocks begin with their norm, so the sum that a stage hands on has passed none: detectors take the maps as the
network's next stage sees them, through that stage's first norm and ReLU. The raw sums grow from stage to stage
(standard deviations of about 10, 16 and 26 against res5's 0.6), which a pyramid without norms cannot take.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, ClassVar

from scaleprior.backbones.trunks.family import Clues, Shapes, TrunkFamily
from scaleprior.backbones.trunks.layout import CLASSIFIER, Dropped, Layout, Relative
from scaleprior.backbones.trunks.model import MAPS, Model
from scaleprior.backbones.trunks.published import KnownFacts, Triple
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

__all__ = ["BiT"]

_GOOGLE = "bit (its own names)"
_HALF: Triple = (127.5, 127.5, 127.5)


def _bit(name: str) -> str | Dropped | None:
    if name.startswith("head/"):
        return CLASSIFIER
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
        return CLASSIFIER
    pattern = r"stem\.conv\.weight|norm\.(?:weight|bias)|stages\.[0-3]\.blocks\.\d+\.(?:downsample\.conv\.weight|"
    return name if re.fullmatch(pattern + r"conv[123]\.weight|norm[123]\.(?:weight|bias))", name) else None


def _outputs_first(name: str, array: np.ndarray) -> np.ndarray:
    """BiT's own files hold convolutions as [H, W, in, out]."""
    return array.transpose(3, 2, 0, 1) if array.ndim == 4 else array


def _model(depth: int, width: int) -> Model:
    channels = tuple(64 * width * 2**stage for stage in range(2, 6))
    return Model(BLOCKS_PER_STAGE[depth], 64 * width, channels, depth, _HALF, _HALF)


class BiT(TrunkFamily):
    """See the module."""

    name = "bit"
    norm = "GN"
    models: ClassVar = {
        f"resnetv2_{depth}x{width}_bit": _model(depth, width)
        for depth, width in ((50, 1), (50, 3), (101, 1), (101, 3), (152, 2), (152, 4))
    }
    layouts = (
        Layout(_GOOGLE, (r"root_block/standardized_conv2d/kernel$",), _bit, (), _outputs_first),
        Layout("bit (timm names)", (r"stages\.0\.blocks\.0\.conv1\.weight$", r"stem\.conv\.weight$"), _timm_bit),
    )

    def refusal(self, shapes: Shapes) -> Relative | None:
        if "stem.conv1.weight" in shapes:
            return Relative("a pre-activation ResNetV2 with a deep stem", "take BiT's: resnetv2_50x1_bit")
        if any(name.endswith("running_var") for name in shapes):
            return Relative(
                "a pre-activation ResNetV2 with BatchNorm", "take BiT's, which has GroupNorm: resnetv2_50x1_bit"
            )
        return None

    def published(self, spec: Any, clues: Clues) -> KnownFacts | None:
        """TensorFlow's variable scopes are the names of Google's own files; who trains ports of these networks saves
        them in the names of a PyTorch module."""
        if clues.layout.name != _GOOGLE:
            return None
        return KnownFacts("published by Google for BiT", _HALF, _HALF, "RGB", False, kind="publisher")

    def label(self, depth: int, width: int) -> str:
        return f"BiT-R{depth}x{width}"

    def last_norm(self, body: Any) -> nn.Module | None:
        return getattr(body, "norm", None)

    def next_norms(self, body: Any) -> dict[str, nn.Module]:
        following = [stage.blocks[0].norm1 for stage in list(body.stages)[1:]]
        return dict(zip(MAPS, [*following, *([body.norm] if hasattr(body, "norm") else [])]))

    def stages(self, body: Any) -> list[nn.Module]:
        # a stage of which drop_after left the first norm alone gives no map
        return [stage for stage in body.stages if hasattr(stage.blocks[0], "conv1")]

    def drop_after(self, body: Any, count: int) -> None:
        block = body.stages[count].blocks[0]
        for name in [name for name, _ in block.named_children() if name != "norm1"]:
            delattr(block, name)
        body.stages[count].blocks = body.stages[count].blocks[:1]
        body.stages = body.stages[: count + 1]
        del body.norm
