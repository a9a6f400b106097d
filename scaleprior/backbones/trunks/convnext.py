"""ConvNeXt (Liu et al. 2022), T and S, as timm builds it. Canonical names are timm's.

The maps ``features`` gives are the stages' outputs, which have passed no norm: those of timm's ``features_only``. The
network itself sends each on through a LayerNorm over channels: res2 .. res4 through that of the next stage's
downsampling, res5, once averaged over places, through the head's. Detectors take the maps behind these norms, as the
authors' own detectors have one on every map; pretraining reads res5 as the published classifiers do.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from scaleprior.backbones.trunks.family import Shapes, TimmSpec, TrunkFamily
from scaleprior.backbones.trunks.layout import CLASSIFIER, Dropped, Layout, Relative
from scaleprior.backbones.trunks.model import MAPS, Model
from scaleprior.backbones.trunks.published import IMAGENET_MEAN, IMAGENET_STD
from scaleprior.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

__all__ = ["ConvNeXt"]

_TIMM = re.compile(
    r"(?:stem\.[01]|stages\.[1-3]\.downsample\.[01]|head\.norm|stages\.[0-3]\.blocks\.\d+\.(?:conv_dw|norm|mlp\.fc[12]))"
    r"\.(?:weight|bias)|stages\.[0-3]\.blocks\.\d+\.gamma"
)
_BLOCK = {"block.0": "conv_dw", "block.2": "norm", "block.3": "mlp.fc1", "block.5": "mlp.fc2"}
"""Parts of a block with a weight and a bias: torchvision's name -> timm's."""
_AUTHORS_BLOCK = {"dwconv": "conv_dw", "norm": "norm", "pwconv1": "mlp.fc1", "pwconv2": "mlp.fc2"}
"""The same: the authors' name -> timm's."""


def _timm(name: str) -> str | Dropped | None:
    if name.startswith(("head.fc.", "head.pre_logits.")):
        return CLASSIFIER
    return name if _TIMM.fullmatch(name) else None


def _torchvision(name: str) -> str | Dropped | None:
    """``features`` 0 is the stem; 1, 3, 5, 7 are stages and 2, 4, 6 what downsamples between them."""
    if name.startswith("classifier.2."):
        return CLASSIFIER
    if match := re.fullmatch(r"classifier\.0\.(weight|bias)", name):
        return f"head.norm.{match[1]}"
    if match := re.fullmatch(r"features\.([0246])\.([01])\.(weight|bias)", name):
        number = int(match[1]) // 2
        return f"{f'stages.{number}.downsample' if number else 'stem'}.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"features\.([1357])\.(\d+)\.(?:(block\.[0235])\.(weight|bias)|layer_scale)", name):
        part = f"{_BLOCK[match[3]]}.{match[4]}" if match[3] else "gamma"
        return f"stages.{int(match[1]) // 2}.blocks.{match[2]}.{part}"
    return None


def _authors(name: str) -> str | Dropped | None:
    """facebookresearch/ConvNeXt: ``downsample_layers`` 0 is the stem; ``norm`` is the last."""
    if name.startswith("head."):
        return CLASSIFIER
    if match := re.fullmatch(r"norm\.(weight|bias)", name):
        return f"head.norm.{match[1]}"
    if match := re.fullmatch(r"downsample_layers\.([0-3])\.([01])\.(weight|bias)", name):
        stage = "stem" if match[1] == "0" else f"stages.{match[1]}.downsample"
        return f"{stage}.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"stages\.([0-3])\.(\d+)\.(?:(dwconv|norm|pwconv[12])\.(weight|bias)|gamma)", name):
        part = f"{_AUTHORS_BLOCK[match[3]]}.{match[4]}" if match[3] else "gamma"
        return f"stages.{match[1]}.blocks.{match[2]}.{part}"
    return None


def _to_torchvision(name: str) -> str:
    """The inverse of :func:`_torchvision`."""
    part, _, tensor = name.rpartition(".")
    if part == "head.norm":
        return f"classifier.0.{tensor}"
    if match := re.fullmatch(r"(?:stem|stages\.(\d)\.downsample)\.([01])", part):
        return f"features.{2 * int(match[1] or 0)}.{match[2]}.{tensor}"
    match = re.fullmatch(r"stages\.(\d)\.blocks\.(\d+)(?:\.(.+))?", part)
    assert match, name
    theirs = {ours: theirs for theirs, ours in _BLOCK.items()}
    inside = f"{theirs[match[3]]}.{tensor}" if match[3] else "layer_scale"
    return f"features.{2 * int(match[1]) + 1}.{match[2]}.{inside}"


def _flat_scales(name: str, array: np.ndarray) -> np.ndarray:
    """torchvision holds the layers' scales as [C, 1, 1]."""
    return array.reshape(-1) if name.endswith(".gamma") else array


def _model(blocks: tuple[int, int, int, int]) -> Model:
    # stem, three layers a block (the two after the depthwise one are 1x1), three that downsample, the classifier
    return Model(blocks, 96, (96, 192, 384, 768), 3 * sum(blocks) + 5, IMAGENET_MEAN, IMAGENET_STD)


class ConvNeXt(TrunkFamily):
    """See the module."""

    name = "convnext"
    norm = "LN"
    eps = 1e-6
    least_side = 32  # nothing is padded: stem and downsampling drop what is left over
    models: ClassVar = {"convnext_tiny": _model((3, 3, 9, 3)), "convnext_small": _model((3, 3, 27, 3))}
    layouts = (
        Layout("convnext (timm names)", (r"stages\.0\.blocks\.0\.conv_dw\.weight$", r"stem\.0\.weight$"), _timm),
        Layout("convnext (torchvision names)",
               (r"features\.1\.0\.block\.0\.weight$", r"features\.\d\.\d+\.layer_scale$"),
               _torchvision, reshape=_flat_scales),
        Layout("convnext (its authors' names)", (r"stages\.0\.0\.dwconv\.weight$", r"downsample_layers\.0\.0\.weight$"),
               _authors),
    )  # fmt: skip

    def refusal(self, shapes: Shapes) -> Relative | None:
        if any(re.match(r"stages\.\d\.(?:blocks\.\d+\.mlp|\d+)\.grn\.", name) for name in shapes):
            return Relative(
                "a ConvNeXt V2 (its blocks have a global response norm)", "take the first version: convnext_tiny"
            )
        return None

    def label(self, depth: int, width: int) -> str:
        return next((f"ConvNeXt-{m[9].upper()}" for m, facts in self.models.items() if facts.depth == depth),
                    super().label(depth, width))  # fmt: skip

    def exported(self, kind: str, tensors: Mapping[str, Tensor], spec: TimmSpec, name: str) -> dict[str, Tensor]:
        if kind != "torchvision":
            raise UserError(
                f"{name} is a ConvNeXt, and stock Detectron2 has no such trunk",
                hint="use the .safetensors itself as MODEL.WEIGHTS with `import scaleprior.d2`, or export to .pth",
            )
        named = {_to_torchvision(ours): tensor for ours, tensor in tensors.items()}
        return {n: t.reshape(-1, 1, 1) if n.endswith("layer_scale") else t for n, t in named.items()}

    def next_norms(self, body: Any) -> dict[str, nn.Module]:
        following = [stage.downsample[0] for stage in list(body.stages)[1:]]
        return dict(zip(MAPS, [*following, *([body.head.norm] if hasattr(body, "head") else [])]))

    def pool(self, body: Any, res5: Tensor) -> Tensor:
        return body.head(res5)

    def stages(self, body: Any) -> list[nn.Module]:
        # a stage of which drop_after left the first norm alone gives no map
        return [stage for stage in body.stages if hasattr(stage, "blocks")]

    def drop_after(self, body: Any, count: int) -> None:
        following = body.stages[count]
        del following.blocks, following.downsample[1], body.head
        body.stages = body.stages[: count + 1]
