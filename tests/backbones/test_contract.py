"""Card against config: every key that matters, applied where unset and refused where contradicted."""

from __future__ import annotations

import pytest

from scaleprior.backbones import Card, ResNetSpec, apply_card, check_contract
from scaleprior.config import load_config
from scaleprior.errors import UserError

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
CARD = Card("w", ResNetSpec(depth=101, res2_out_channels=64, width_per_group=16), MEAN, STD, "RGB")


def test_apply_sets_what_was_left_alone_and_then_all_agrees() -> None:
    cfg = apply_card(load_config(None), CARD)
    assert tuple(cfg.MODEL.PIXEL_MEAN) == MEAN
    assert tuple(cfg.MODEL.PIXEL_STD) == STD
    assert cfg.INPUT.FORMAT == "RGB"
    resnets = cfg.MODEL.RESNETS
    assert (resnets.DEPTH, resnets.RES2_OUT_CHANNELS, resnets.WIDTH_PER_GROUP) == (101, 64, 16)
    assert (resnets.STRIDE_IN_1X1, resnets.NORM) == (False, "FrozenBN")  # BN weights fit the default FrozenBN
    assert check_contract(cfg, CARD) == []
    assert cfg.is_frozen()


@pytest.mark.parametrize(
    ("key", "value", "override"),
    [
        ("MODEL.PIXEL_MEAN", "[103.53, 116.28, 123.675]", "MODEL.PIXEL_MEAN '[123.675, 116.28, 103.53]'"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", "MODEL.PIXEL_STD '[58.395, 57.12, 57.375]'"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT RGB"),
        ("MODEL.RESNETS.STRIDE_IN_1X1", "True", "MODEL.RESNETS.STRIDE_IN_1X1 False"),
        ("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.DEPTH 101"),
        ("MODEL.RESNETS.WIDTH_PER_GROUP", "64", "MODEL.RESNETS.WIDTH_PER_GROUP 16"),
        ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.NORM FrozenBN"),
    ],
)
def test_a_set_key_that_contradicts_is_an_error_with_the_line_to_use(key: str, value: str, override: str) -> None:
    loaded = load_config(None, [key, value])
    with pytest.raises(UserError) as error:
        apply_card(loaded, CARD)
    assert f"{key} is " in str(error.value)
    assert str(error.value).endswith(f"use {override}")
    assert [m.key for m in check_contract(loaded.cfg, CARD, loaded.explicit) if m.explicit] == [key]
    # the printed line is what a shell would split, and it settles the matter
    apply_card(load_config(None, [word.strip("'") for word in override.split(" ", 1)]), CARD)


def test_set_keys_that_agree_pass() -> None:
    opts = ["INPUT.FORMAT", "RGB", "MODEL.RESNETS.NORM", "BN", "MODEL.PIXEL_MEAN", "[123.6751, 116.28, 103.53]"]
    cfg = apply_card(load_config(None, opts), CARD)
    assert cfg.MODEL.RESNETS.NORM == "BN"


def test_norm_kinds_and_eps() -> None:
    group = Card("g", ResNetSpec(norm="GN"), MEAN, STD, "RGB")
    assert apply_card(load_config(None), group).MODEL.RESNETS.NORM == "GN"
    with pytest.raises(UserError, match=r"eps 0.001, detectors have 1e-05"):
        apply_card(load_config(None), Card("e", ResNetSpec(), MEAN, STD, "RGB", norm_eps=1e-3))


def test_stride_means_nothing_to_basic_blocks() -> None:
    card = Card("b", ResNetSpec(depth=18), MEAN, STD, "RGB")
    keys = {m.key for m in check_contract(load_config(None).cfg, card)}
    assert "MODEL.RESNETS.STRIDE_IN_1X1" not in keys
    assert apply_card(load_config(None, ["MODEL.RESNETS.STRIDE_IN_1X1", "True"]), card).MODEL.RESNETS.DEPTH == 18
