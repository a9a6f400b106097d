"""Reading an architecture from a config, and refusing those that no trunk has."""

from __future__ import annotations

import pytest

from scaleprior.backbones import ResNetSpec
from scaleprior.config import load_config
from scaleprior.errors import UserError


def test_from_cfg_reads_every_key() -> None:
    keys = ["DEPTH", "101", "NORM", "BN", "STRIDE_IN_1X1", "False", "RES2_OUT_CHANNELS", "64", "WIDTH_PER_GROUP", "16"]
    opts = [f"MODEL.RESNETS.{word}" if i % 2 == 0 else word for i, word in enumerate(keys)]
    spec = ResNetSpec.from_config(load_config(None, opts).cfg)
    assert spec == ResNetSpec(101, "BN", 64, 64, 1, 16, False)
    assert spec.name == "R-101-w16"
    assert ResNetSpec.from_config(load_config(None).cfg) == ResNetSpec(50, "FrozenBN", 64, 256, 1, 64, True)


def test_basic_blocks_pass_over_what_only_bottlenecks_have() -> None:
    # Detectron2's default STRIDE_IN_1X1 True means nothing to ResNet-18.
    cfg = load_config(None, ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64"]).cfg
    assert ResNetSpec.from_config(cfg) == ResNetSpec(depth=18, norm="FrozenBN")
    with pytest.raises(UserError, match=r"ResNet-18 has basic blocks: RES2_OUT_CHANNELS 256"):
        ResNetSpec.from_config(load_config(None, ["MODEL.RESNETS.DEPTH", "18"]).cfg)


def test_round_trip() -> None:
    spec = ResNetSpec(depth=152, res2_out_channels=64, width_per_group=16, stride_in_1x1=True)
    assert ResNetSpec.from_dict(spec.to_dict()) == spec
    with pytest.raises(UserError, match=r"unknown fields of an architecture: deep"):
        ResNetSpec.from_dict({"deep": 50})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"depth": 49}, r"DEPTH is 49; take one of \[18, 34, 50, 101, 152\]"),
        ({"norm": "SyncBN"}, r"NORM is 'SyncBN'; take one of BN, FrozenBN, GN"),
        ({"stem_out_channels": 32}, r"STEM_OUT_CHANNELS is 32"),
        ({"res2_out_channels": 30}, r"RES2_OUT_CHANNELS is 30; give a multiple of 4"),
        ({"width_per_group": 0}, r"WIDTH_PER_GROUP is 0"),
        ({"num_groups": True}, r"NUM_GROUPS is True"),
        ({"norm": "GN", "res2_out_channels": 64, "width_per_group": 16}, r"GN needs channels in multiples of 32"),
        ({"depth": 34, "stride_in_1x1": True}, r"ResNet-34 has basic blocks"),
    ],
)
def test_refuses(wrong: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        ResNetSpec(**wrong)
