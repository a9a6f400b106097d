"""Which ResNet: the numbers that fix names and shapes of its parameters, in the words of ``MODEL.RESNETS``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from scaleprior.backbones.trunks.family import TrunkFamily, get_family
from scaleprior.errors import UserError
from scaleprior.wording import one_line, shown

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

__all__ = ["BLOCKS_PER_STAGE", "NORMS", "ResNetSpec"]

BLOCKS_PER_STAGE: dict[int, tuple[int, int, int, int]] = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Residual blocks in res2..res5 by depth (He et al. 2016, Table 1)."""

NORMS = ("BN", "FrozenBN", "GN")
"""Values of MODEL.RESNETS.NORM that a ResNet takes here."""
_GROUPS_OF_GN = 32


@dataclass(frozen=True)
class ResNetSpec:
    """The architecture of a trunk, in the words of Detectron2's ``MODEL.RESNETS``.

    Attributes:
        depth: 18, 34 (basic blocks), 50, 101 or 152 (bottlenecks).
        norm: "BN", "FrozenBN" (BN with constant statistics, gain and bias) or "GN" (32 groups).
        stem_out_channels: channels of the stem; 64, the only width timm's trunk has.
        res2_out_channels: channels of res2's output, doubling with every stage; None = 64 for depth 18 and 34
            (the only legal value there), 256 above.
        num_groups: groups of the bottlenecks' 3x3 convolution (above 1: ResNeXt).
        width_per_group: channels of res2's 3x3 convolution per group, doubling with every stage; basic blocks have
            none, so it stays 64 there.
        stride_in_1x1: stages downsample in the first 1x1 convolution (MSRA's weights) instead of the 3x3. Basic
            blocks have no 1x1 convolution, so it stays False there.
    """

    depth: int = 50
    norm: str = "BN"
    stem_out_channels: int = 64
    res2_out_channels: int | None = None
    num_groups: int = 1
    width_per_group: int = 64
    stride_in_1x1: bool = False

    def __post_init__(self) -> None:
        if type(self.depth) is not int or self.depth not in BLOCKS_PER_STAGE:
            raise UserError(
                f"MODEL.RESNETS.DEPTH is {shown(self.depth)}", hint=f"take one of {sorted(BLOCKS_PER_STAGE)}"
            )
        if self.norm not in NORMS:
            raise UserError(f"MODEL.RESNETS.NORM is {shown(self.norm)}", hint=f"take one of {', '.join(NORMS)}")
        if self.res2_out_channels is None:
            object.__setattr__(self, "res2_out_channels", 256 if self.bottleneck else 64)
        self._check_widths()

    def _check_widths(self) -> None:
        assert self.res2_out_channels is not None
        if self.stem_out_channels != 64:
            raise UserError(
                f"MODEL.RESNETS.STEM_OUT_CHANNELS is {shown(self.stem_out_channels)}", hint="trunks have a stem of 64"
            )
        for key, value in (
            ("RES2_OUT_CHANNELS", self.res2_out_channels),
            ("NUM_GROUPS", self.num_groups),
            ("WIDTH_PER_GROUP", self.width_per_group),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 4096:
                raise UserError(f"MODEL.RESNETS.{key} is {shown(value)}", hint="give an integer from 1 to 4096")
        if not isinstance(self.stride_in_1x1, bool):
            raise UserError(f"MODEL.RESNETS.STRIDE_IN_1X1 is {shown(self.stride_in_1x1)}", hint="give True or False")
        if self.bottleneck:
            if self.res2_out_channels % 4:
                raise UserError(
                    f"MODEL.RESNETS.RES2_OUT_CHANNELS is {self.res2_out_channels}", hint="give a multiple of 4"
                )
        elif (self.res2_out_channels, self.num_groups, self.width_per_group, self.stride_in_1x1) != (64, 1, 64, False):
            raise UserError(
                f"ResNet-{self.depth} has basic blocks: RES2_OUT_CHANNELS {self.res2_out_channels}, NUM_GROUPS "
                f"{self.num_groups}, WIDTH_PER_GROUP {self.width_per_group}, STRIDE_IN_1X1 {self.stride_in_1x1}",
                hint="set MODEL.RESNETS.RES2_OUT_CHANNELS 64 and NUM_GROUPS 1, and leave the others at their defaults",
            )
        narrowest = min(self.res2_out_channels, self.num_groups * self.width_per_group)
        if self.norm == "GN" and (narrowest % _GROUPS_OF_GN or self.res2_out_channels % _GROUPS_OF_GN):
            raise UserError(
                f"MODEL.RESNETS.NORM GN needs channels in multiples of {_GROUPS_OF_GN}, res2 has {narrowest}",
                hint="widen the trunk or take BN",
            )

    @property
    def bottleneck(self) -> bool:
        """Bottleneck blocks (1x1, 3x3, 1x1) rather than basic ones (3x3, 3x3)."""
        return self.depth >= 50

    @property
    def family(self) -> TrunkFamily:
        """The ResNets'."""
        return get_family("resnet")

    @property
    def timm_model(self) -> str | None:
        """timm's name of a plain ResNet: stride in the 3x3 convolution, standard widths; None of others."""
        return f"resnet{self.depth}" if self == ResNetSpec(depth=self.depth, norm=self.norm) else None

    @property
    def out_channels(self) -> dict[str, int]:
        """Channels of the feature maps: ``{"stem": 64, "res2": 256, ..., "res5": 2048}``."""
        return {
            "stem": self.stem_out_channels,
            **{f"res{stage}": self.res2_out_channels * 2 ** (stage - 2) for stage in range(2, 6)},
        }

    @property
    def name(self) -> str:
        """Short name for tables and files: "R-50", "X-101-32x8d"; narrow ones end with res2's width, "R-50-w16"."""
        width = self.num_groups * self.width_per_group
        stem = f"R-{self.depth}"
        if self.num_groups > 1:
            stem = f"X-{self.depth}-{self.num_groups}x{self.width_per_group}d"
        elif width != 64:
            stem += f"-w{width}"
        if self.bottleneck and self.res2_out_channels not in (256, 4 * width):
            stem += f"-o{self.res2_out_channels}"
        return f"{stem}-gn" if self.norm == "GN" else stem

    @classmethod
    def from_config(cls, cfg: CfgNode) -> ResNetSpec:
        """The spec that ``cfg.MODEL.RESNETS`` describes.

        As Detectron2 does for depth 18 and 34, the keys that only bottlenecks have are passed over there.

        Raises:
            UserError: a value that no trunk has; names the key.
        """
        node = cfg.MODEL.RESNETS
        bottleneck = node.DEPTH >= 50
        return cls(
            depth=node.DEPTH,
            norm="BN" if node.NORM == "SyncBN" else node.NORM,  # but for its statistics, which are no architecture's
            stem_out_channels=node.STEM_OUT_CHANNELS,
            res2_out_channels=node.RES2_OUT_CHANNELS,
            num_groups=node.NUM_GROUPS,
            width_per_group=node.WIDTH_PER_GROUP if bottleneck else 64,
            stride_in_1x1=node.STRIDE_IN_1X1 and bottleneck,
        )

    def to_cfg_keys(self) -> dict[str, Any]:
        """The dotted config keys that describe this trunk, without the norm (weights fit several norms)."""
        return {
            "MODEL.RESNETS.DEPTH": self.depth,
            "MODEL.RESNETS.STEM_OUT_CHANNELS": self.stem_out_channels,
            "MODEL.RESNETS.RES2_OUT_CHANNELS": self.res2_out_channels,
            "MODEL.RESNETS.NUM_GROUPS": self.num_groups,
            **({"MODEL.RESNETS.WIDTH_PER_GROUP": self.width_per_group} if self.bottleneck else {}),
            **({"MODEL.RESNETS.STRIDE_IN_1X1": self.stride_in_1x1} if self.bottleneck else {}),
        }

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; ``from_dict`` undoes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> ResNetSpec:
        """Raises UserError on unknown keys and on values that no trunk has."""
        known = {f.name for f in fields(cls)}
        unknown = sorted(set(value) - known)
        if unknown:
            raise UserError(
                f"unknown fields of an architecture: {one_line(', '.join(unknown))}", hint=f"known: {sorted(known)}"
            )
        return cls(**value)
