"""ResNets as Detectron2's MODEL.RESNETS describes them, in Detectron2's parameter names, on timm's modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from scaleprior.backbones.trunks.family import Clues, Shapes, TrunkFamily
from scaleprior.backbones.trunks.layout import Relative
from scaleprior.backbones.trunks.model import Model
from scaleprior.backbones.trunks.published import KnownFacts
from scaleprior.backbones.trunks.resnet.infer import infer_norm, infer_resnet
from scaleprior.backbones.trunks.resnet.layouts import LAYOUTS
from scaleprior.backbones.trunks.resnet.names import from_detectron2, names_and_shapes, to_detectron2
from scaleprior.backbones.trunks.resnet.published import DETECTRON2_NORMS, of_caffe2
from scaleprior.backbones.trunks.resnet.relatives import relative
from scaleprior.backbones.trunks.resnet.spec import BLOCKS_PER_STAGE, ResNetSpec
from scaleprior.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

__all__ = ["ResNets"]


def _model(depth: int) -> Model:
    spec = ResNetSpec(depth=depth)
    res2, res3, res4, res5 = (spec.out_channels[f"res{stage}"] for stage in range(2, 6))
    return Model(BLOCKS_PER_STAGE[depth], spec.stem_out_channels, (res2, res3, res4, res5), depth)


class ResNets(TrunkFamily):
    """See the module. ``models`` are the plain ones: stride in the 3x3 convolution, standard widths."""

    name = "resnet"
    named = False
    pads = False
    models: ClassVar = {f"resnet{depth}": _model(depth) for depth in BLOCKS_PER_STAGE}
    layouts = LAYOUTS

    def spec_of_model(self, model: str, norm: str) -> ResNetSpec:
        # SyncBN is BN in all but its statistics, which are no part of an architecture
        return ResNetSpec(depth=self.models[model].depth, norm="BN" if norm == "SyncBN" else norm)

    def spec_from_dict(self, value: Mapping[str, Any]) -> ResNetSpec:
        return ResNetSpec.from_dict(value)

    def infer(self, shapes: Shapes, clues: Clues) -> ResNetSpec:
        return infer_resnet(shapes, norm=infer_norm(shapes, clues), where=clues.where, depth=clues.depth)

    def published(self, spec: ResNetSpec, clues: Clues) -> KnownFacts | None:
        if clues.layout.name == "detectron2":
            return None if clues.carried is not None else DETECTRON2_NORMS  # a card says all that is known
        return of_caffe2(spec) if clues.layout.name.startswith("caffe2") else None

    def unsaid(self, spec: ResNetSpec) -> tuple[str, ...]:
        return (*(("stride_in_1x1",) if spec.bottleneck else ()), *super().unsaid(spec))

    def refine(self, spec: ResNetSpec, *, stride_in_1x1: bool) -> ResNetSpec:
        return replace(spec, stride_in_1x1=stride_in_1x1 and spec.bottleneck)

    def complete(self, tensors: dict[str, np.ndarray], spec: ResNetSpec) -> str | None:
        """Gain 1 and bias 0 for norms that have neither (``affine=False``), which changes nothing of what they compute.

        Mean 0 and variance 1 for FrozenBN without statistics, the very bits that Detectron2's own loader puts there.

        With FrozenBN's eps this scales each gain by 1 / sqrt(1 + 1e-5); Caffe2's affine layer had no eps. The effect on
        features of random networks is 2.5e-5 (R-50) to 4.6e-5 (R-152) relative, and every AP published for these
        weights with Detectron2 contains it.
        """
        import numpy as np

        variances = [name for name in tensors if name.endswith("running_var")]
        if variances and not any(name.endswith((".norm.weight", ".norm.bias")) for name in tensors):
            for name in variances:
                stem = name.removesuffix("running_var")
                tensors[f"{stem}weight"] = np.ones(tensors[name].shape, np.float32)
                tensors[f"{stem}bias"] = np.zeros(tensors[name].shape, np.float32)
            return "norms have statistics only (affine=False); they got gain 1 and bias 0, with which they are the same"
        if spec.norm != "FrozenBN" or variances:
            return None
        for name in [n for n in tensors if n.endswith(".norm.bias")]:
            stem = name.removesuffix("bias")
            tensors[f"{stem}running_mean"] = np.zeros(tensors[name].shape, np.float32)
            tensors[f"{stem}running_var"] = np.ones(tensors[name].shape, np.float32)
        return "norms are affine only (FrozenBN); they got mean 0 and variance 1, as Detectron2 loads them"

    def refusal(self, shapes: Shapes) -> Relative | None:
        return relative(shapes)

    def canonical_names(self, own: Sequence[str]) -> dict[str, str]:
        renamed = {}
        for name in own:
            stem, _, tensor = name.rpartition(".")
            (theirs,) = to_detectron2({f"{stem}.weight": None})
            renamed[name] = f"{theirs.removesuffix('weight')}{tensor}"
        return renamed

    def shapes(self, spec: ResNetSpec) -> Shapes:
        return names_and_shapes(spec)

    def label(self, depth: int, width: int) -> str:
        return f"R-{depth}"

    def spec_of_entry(self, depth: int, model: str | None, parts: Mapping[str, Any]) -> ResNetSpec:
        return ResNetSpec(depth=depth, **{"norm": "BN", **parts})

    def exported(self, kind: str, tensors: Mapping[str, Tensor], spec: ResNetSpec, name: str) -> dict[str, Tensor]:
        if kind == "detectron2":
            return dict(tensors)
        import torch

        if spec.stride_in_1x1 or spec.norm == "GN":
            what = "strides in the 1x1 convolutions" if spec.stride_in_1x1 else "GroupNorm"
            raise UserError(
                f"{name} has {what}, torchvision's ResNet does not", hint="export to Detectron2's .pkl instead"
            )
        state = from_detectron2(tensors)
        counters = [n.replace("running_var", "num_batches_tracked") for n in state if n.endswith("running_var")]
        return {**state, **{counter: torch.tensor(0) for counter in counters}}

    def build(self, spec: ResNetSpec) -> nn.Module:
        from scaleprior.backbones.trunks.resnet.build import build_resnet

        return build_resnet(spec)

    def stem(self, body: Any) -> Callable[[Tensor], Tensor]:
        return lambda x: body.maxpool(body.act1(body.bn1(body.conv1(x))))

    def stem_parts(self, body: Any) -> list[nn.Module]:
        return [body.conv1, body.bn1]

    def stages(self, body: Any) -> list[nn.Module]:
        stages = [body.layer1, body.layer2, body.layer3, body.layer4]
        return [stage for stage in stages if len(list(stage.children()))]

    def conv_norms(self, body: Any) -> Iterator[tuple[nn.Module, nn.Module]]:
        for module in body.modules():
            for number in (1, 2, 3):
                if hasattr(module, f"conv{number}"):
                    yield getattr(module, f"conv{number}"), getattr(module, f"bn{number}")
            if getattr(module, "downsample", None) is not None:
                convolution, norm = module.downsample
                yield convolution, norm

    def drop_after(self, body: Any, count: int) -> None:
        from torch import nn

        for number in range(count + 1, 5):
            setattr(body, f"layer{number}", nn.Identity())
