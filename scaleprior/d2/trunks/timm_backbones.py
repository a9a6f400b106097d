"""Trunks of MODEL.TIMM.MODEL as Detectron2 backbones: those that MODEL.RESNETS cannot describe, and plain ResNets.

Registered in ``BACKBONE_REGISTRY``: ``build_timm_backbone``, ``build_timm_fpn_backbone`` (Faster R-CNN and its kin) and
``build_retinanet_timm_fpn_backbone``. MODEL.TIMM.MODEL names the trunk; MODEL.RESNETS.OUT_FEATURES and NORM and
MODEL.BACKBONE.FREEZE_AT mean what they mean for Detectron2's ResNets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from detectron2.modeling.backbone.fpn import FPN, LastLevelMaxPool, LastLevelP6P7
from torch import Tensor, nn

from scaleprior.backbones.trunks.family import TrunkFamily
from scaleprior.backbones.trunks.selection import check_only_resnets_keys, config_eps, spec_of_model
from scaleprior.backbones.trunks.trunk import detection_trunk, feature_maps
from scaleprior.d2.trunks.plain_resnets import Detectron2Named, in_detectron2s_modules
from scaleprior.d2.trunks.scripting import ScriptableTrunk
from scaleprior.errors import UserError

if TYPE_CHECKING:
    from scaleprior.backbones.trunks.resnet.spec import ResNetSpec

__all__ = ["TimmBackbone", "build_retinanet_timm_fpn_backbone", "build_timm_backbone", "build_timm_fpn_backbone"]


class TimmBackbone(Backbone):
    """A trunk of timm, in the names of canonical backbone files: its modules, parameters and tensors have one set.

    Those are Detectron2's names for plain ResNets (so that weights go to and from ``build_resnet_backbone`` as they
    are) and timm's names for timm's trunks. TorchScript and tracing take it as they take Detectron2's ResNet.

    Args:
        model: MODEL.TIMM.MODEL.
        norm: "FrozenBN", "BN" or "SyncBN"; "GN" for BiT, "LN" for ConvNeXt.
        freeze_at: stages that stay fixed: 0 none, 1 the stem, 2 stem and res2, ... 5 all.
        norm_eps: what the norms add to the variance; None = what the trunk's family does.
        out_features: maps to hand on, of res2 .. res5, as the network itself sees them next: BiT's and ConvNeXt's have
            passed a norm.

    Raises:
        UserError: names the config key whose value does not fit; a family from elsewhere whose files do not have the
            names of its modules.
    """

    def __init__(
        self,
        model: str,
        *,
        norm: str = "FrozenBN",
        freeze_at: int = 0,
        norm_eps: float | None = None,
        out_features: Sequence[str] = ("res2", "res3", "res4", "res5"),
    ) -> None:
        super().__init__()
        arch = spec_of_model(model, norm)
        trunk = detection_trunk(arch, norm=norm, freeze_stages=freeze_at, norm_eps=norm_eps).keep(out_features)
        plain = arch.to_cfg_keys() is not None  # MODEL.RESNETS describes it: a ResNet of Detectron2's
        self._family: TrunkFamily = Detectron2Named() if plain else arch.family
        body = in_detectron2s_modules(trunk, cast("ResNetSpec", arch)) if plain else trunk.body
        _refuse_renamed(model, {} if plain else trunk.canonical_names())
        # The family's functions find their way by the names of the body's children: here they are this module's.
        for name, child in body.named_children():
            self.add_module(name, child)
        for name, parameter in body.named_parameters(recurse=False):
            self.register_parameter(name, parameter)
        for name, buffer in body.named_buffers(recurse=False):
            self.register_buffer(name, buffer)
        self._out_features = list(out_features)
        self._out_feature_channels = {name: trunk.channels[name] for name in out_features}
        self._out_feature_strides = {name: trunk.strides[name] for name in out_features}
        self._size_divisibility = max(self._out_feature_strides.values()) if arch.family.pads else 0

    @property
    def size_divisibility(self) -> int:
        """Pixels that both sides of a batch have to be a multiple of; 0 = any. CLIP's average pools would drop a rest;
        plain ResNets take any size, as Detectron2's."""
        return self._size_divisibility

    def forward(self, x: Tensor) -> dict[str, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Maps [B, C, H / stride, W / stride] by name from images [B, 3, H, W]."""
        maps = feature_maps(self._family, self, x, normalised=True)
        return {name: maps[name] for name in self._out_features}

    def __prepare_scriptable__(self) -> nn.Module:
        """What ``torch.jit.script`` compiles instead, here and inside a detector; the weights are shared."""
        return ScriptableTrunk(
            self._family, self, out_features=self._out_features, size_divisibility=self._size_divisibility
        )


def _refuse_renamed(model: str, names: Mapping[str, str]) -> None:
    for own, canonical in names.items():
        if own != canonical:
            raise UserError(
                f"MODEL.TIMM.MODEL {model}: its family calls the tensor {canonical} in files and {own} in its modules; "
                "Detectron2 knows one name",
                hint="let the family's build give modules with the names of its files",
            )


@BACKBONE_REGISTRY.register()
def build_timm_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> TimmBackbone:
    """The trunk of MODEL.TIMM.MODEL.

    Raises:
        UserError: no ScalePrior keys in the config, images without three channels, an unknown trunk, or a norm, stage,
            number of frozen stages or kind of convolutions that it cannot have.
    """
    if "TIMM" not in cfg.MODEL:
        raise UserError("the config has no MODEL.TIMM.MODEL", hint="call scaleprior.config.add_scaleprior_config(cfg)")
    if input_shape.channels != 3:
        raise UserError(
            f"MODEL.PIXEL_MEAN has {input_shape.channels} channels; {cfg.MODEL.TIMM.MODEL} takes 3",
            hint="give three numbers in MODEL.PIXEL_MEAN and PIXEL_STD",
        )
    check_only_resnets_keys(cfg)
    return TimmBackbone(
        cfg.MODEL.TIMM.MODEL,
        norm=cfg.MODEL.RESNETS.NORM,
        freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT,
        norm_eps=config_eps(cfg),
        out_features=cfg.MODEL.RESNETS.OUT_FEATURES,
    )


@BACKBONE_REGISTRY.register()
def build_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``build_timm_backbone`` under the pyramid of ``build_resnet_fpn_backbone``: p6 is p5 subsampled."""
    return _pyramid(cfg, build_timm_backbone(cfg, input_shape), LastLevelMaxPool())


@BACKBONE_REGISTRY.register()
def build_retinanet_timm_fpn_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """``build_timm_backbone`` under the pyramid of RetinaNet: p6 and p7 are convolutions of res5."""
    bottom_up = build_timm_backbone(cfg, input_shape)
    shapes = bottom_up.output_shape()
    if "res5" not in shapes:
        raise UserError(
            f"MODEL.RESNETS.OUT_FEATURES is {list(shapes)}; RetinaNet's p6 is made from res5", hint="add res5"
        )
    return _pyramid(cfg, bottom_up, LastLevelP6P7(shapes["res5"].channels, cfg.MODEL.FPN.OUT_CHANNELS))


def _pyramid(cfg: CfgNode, bottom_up: TimmBackbone, top_block: nn.Module) -> FPN:
    return FPN(
        bottom_up=bottom_up,
        in_features=cfg.MODEL.FPN.IN_FEATURES,
        out_channels=cfg.MODEL.FPN.OUT_CHANNELS,
        norm=cfg.MODEL.FPN.NORM,
        top_block=top_block,
        fuse_type=cfg.MODEL.FPN.FUSE_TYPE,
    )
