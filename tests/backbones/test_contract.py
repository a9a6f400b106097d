"""Card against config: every key that matters, applied where unset and refused where contradicted."""

from __future__ import annotations

import logging

import pytest

from scaleprior.backbones import Card, ResNetSpec, TimmSpec, apply_card, check_contract, config_lines
from scaleprior.backbones.trunks import TrunkSpec
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


def test_a_contradiction_can_be_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    """The key that was set holds; those that nobody set follow the card all the same."""
    cfg = apply_card(load_config(None, ["INPUT.FORMAT", "BGR", "SCALEPRIOR.CONTRACT", "warn"]), CARD)
    assert (cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.DEPTH) == ("BGR", 101)
    assert "contradicts the card of backbone w: INPUT.FORMAT is 'BGR'; use INPUT.FORMAT RGB" in caplog.text
    with pytest.raises(UserError, match=r"SCALEPRIOR.CONTRACT is 'lax'; take one of strict, warn"):
        apply_card(load_config(None, ["INPUT.FORMAT", "BGR", "SCALEPRIOR.CONTRACT", "lax"]), CARD)


def test_set_keys_that_agree_pass() -> None:
    opts = ["INPUT.FORMAT", "RGB", "MODEL.RESNETS.NORM", "BN", "MODEL.PIXEL_MEAN", "[123.6751, 116.28, 103.53]"]
    cfg = apply_card(load_config(None, opts), CARD)
    assert cfg.MODEL.RESNETS.NORM == "BN"


def test_norm_kinds() -> None:
    group = Card("g", ResNetSpec(norm="GN"), MEAN, STD, "RGB")
    assert apply_card(load_config(None), group).MODEL.RESNETS.NORM == "GN"


@pytest.mark.parametrize(("arch", "own"), [(ResNetSpec(), 1e-5), (TimmSpec("convnext_tiny"), 1e-6)])
@pytest.mark.parametrize("eps", [0.0, 1e-3])
def test_another_eps_is_a_key_that_the_card_sets(arch: TrunkSpec, own: float, eps: float) -> None:
    card, usual = (Card("e", arch, MEAN, STD, "RGB", norm_eps=value) for value in (eps, own))
    pyramid = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    cfg = apply_card(load_config(None, pyramid), card)
    assert eps == cfg.MODEL.NORM_EPS
    assert check_contract(cfg, card) == []
    assert [m.override for m in check_contract(cfg, usual)] == ["MODEL.NORM_EPS -1.0"]
    with pytest.raises(UserError, match=rf"MODEL.NORM_EPS is {eps}; use MODEL.NORM_EPS -1.0"):
        apply_card(load_config(None, [*pyramid, "MODEL.NORM_EPS", str(eps)]), usual)
    assert apply_card(load_config(None, pyramid), usual).MODEL.NORM_EPS == -1
    said = load_config(None, [*pyramid, "MODEL.NORM_EPS", str(own)])  # what it would be anyway
    assert own == apply_card(said, usual).MODEL.NORM_EPS
    assert f"MODEL.NORM_EPS {eps}" in config_lines(card)
    assert not any("EPS" in line for line in config_lines(usual))


def test_without_the_key_another_eps_cannot_be_said() -> None:
    cfg = load_config(None).cfg.clone()
    cfg.defrost()
    del cfg.MODEL["NORM_EPS"]
    assert {m.key for m in check_contract(cfg, CARD)} == {m.key for m in check_contract(load_config(None).cfg, CARD)}
    with pytest.raises(UserError, match=r"the config has no MODEL.NORM_EPS; declare ScalePrior's keys"):
        check_contract(cfg, Card("e", ResNetSpec(), MEAN, STD, "RGB", norm_eps=0))


def test_stride_means_nothing_to_basic_blocks() -> None:
    card = Card("b", ResNetSpec(depth=18), MEAN, STD, "RGB")
    keys = {m.key for m in check_contract(load_config(None).cfg, card)}
    assert "MODEL.RESNETS.STRIDE_IN_1X1" not in keys
    assert apply_card(load_config(None, ["MODEL.RESNETS.STRIDE_IN_1X1", "True"]), card).MODEL.RESNETS.DEPTH == 18


HALF = (127.5, 127.5, 127.5)
BIT = Card("bit", TimmSpec("resnetv2_50x1_bit"), HALF, HALF, "RGB")
CLIP = Card("clip", TimmSpec("resnet50_clip"), MEAN, STD, "RGB")
FPN = ("MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
TIMM_FPN = ("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone")


@pytest.mark.parametrize(
    ("builder", "expected"),
    [
        ("build_resnet_fpn_backbone", "build_timm_fpn_backbone"),
        ("build_retinanet_resnet_fpn_backbone", "build_retinanet_timm_fpn_backbone"),
        ("build_timm_fpn_backbone", "build_timm_fpn_backbone"),
        ("build_timm_backbone", "build_timm_backbone"),
    ],
)
def test_a_timm_trunk_takes_the_place_of_a_resnet_under_the_same_pyramid(
    builder: str, expected: str, caplog: pytest.LogCaptureFixture
) -> None:
    head = ("MODEL.ROI_HEADS.NAME", "StandardROIHeads")
    loaded = load_config(None, ["MODEL.BACKBONE.NAME", builder, "MODEL.RESNETS.DEPTH", "101", *head])
    with caplog.at_level(logging.INFO):
        cfg = apply_card(loaded, BIT)
    assert expected == cfg.MODEL.BACKBONE.NAME
    assert cfg.MODEL.TIMM.MODEL == "resnetv2_50x1_bit"
    assert (cfg.MODEL.RESNETS.NORM, cfg.MODEL.RESNETS.DEPTH) == ("GN", 101)  # a depth has no meaning for this trunk
    assert (tuple(cfg.MODEL.PIXEL_MEAN), cfg.INPUT.FORMAT) == (HALF, "RGB")
    assert check_contract(cfg, BIT) == []
    said = f"bit is timm's resnetv2_50x1_bit: MODEL.BACKBONE.NAME {expected} instead of {builder}"
    assert (said in caplog.text) == (builder != expected)
    assert apply_card(loaded, CLIP).MODEL.RESNETS.NORM == "FrozenBN"


@pytest.mark.parametrize(
    ("key", "value", "override"),
    [
        ("MODEL.TIMM.MODEL", "resnet50_clip", "MODEL.TIMM.MODEL resnetv2_50x1_bit"),
        ("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RESNETS.NORM GN"),
        ("MODEL.PIXEL_STD", "[1.0, 1.0, 1.0]", "MODEL.PIXEL_STD '[127.5, 127.5, 127.5]'"),
        ("INPUT.FORMAT", "BGR", "INPUT.FORMAT RGB"),
    ],
)
def test_what_was_set_for_another_timm_trunk_is_an_error(key: str, value: str, override: str) -> None:
    with pytest.raises(UserError) as error:
        apply_card(load_config(None, [*FPN, key, value]), BIT)
    assert f"{key} is " in str(error.value)
    assert str(error.value).endswith(f"use {override}")
    apply_card(load_config(None, [*FPN, *(word.strip("'") for word in override.split(" ", 1))]), BIT)


def test_detectors_that_have_no_place_for_a_timm_trunk() -> None:
    with pytest.raises(UserError, match=r"bit is timm's resnetv2_50x1_bit.*C4's head is the res5 of a ResNet; .*FPN"):
        apply_card(load_config(None), BIT)
    with pytest.raises(UserError, match=r"NAME is build_mine, which is not one of those that take it"):
        check_contract(load_config(None, ["MODEL.BACKBONE.NAME", "build_mine"]).cfg, CLIP)
    loaded = load_config(None, ["MODEL.BACKBONE.NAME", "build_timm_backbone"])
    with pytest.raises(UserError, match=r"ROI_HEADS.NAME is Res5ROIHeads, whose res5 is a ResNet's; .*FPN"):
        apply_card(loaded, CLIP)
    cfg = loaded.cfg.clone()  # as Detectron2's RetinaNet, whose config names Res5ROIHeads and has no such head
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    assert "MODEL.TIMM.MODEL" in {m.key for m in check_contract(cfg, CLIP)}
    del cfg.MODEL["TIMM"]
    with pytest.raises(UserError, match=r"no MODEL.TIMM.MODEL; declare .*add_scaleprior_config"):
        check_contract(cfg, CLIP)


def test_a_resnet_card_on_a_config_of_timms_trunks() -> None:
    card = Card("r", ResNetSpec(depth=101), MEAN, STD, "RGB")
    assert apply_card(load_config(None, TIMM_FPN), card).MODEL.TIMM.MODEL == "resnet101"
    for model in ("resnet50", "resnetv2_50x1_bit"):
        with pytest.raises(UserError, match=rf"MODEL.TIMM.MODEL is '{model}'; use MODEL.TIMM.MODEL resnet101$"):
            apply_card(load_config(None, [*TIMM_FPN, "MODEL.TIMM.MODEL", model]), card)
    assert {m.key for m in check_contract(load_config(None, TIMM_FPN).cfg, card)} == {
        "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.TIMM.MODEL",
    }  # fmt: skip
    c4 = ["MODEL.BACKBONE.NAME", "build_timm_backbone"]
    assert apply_card(load_config(None, c4), card).MODEL.RESNETS.STRIDE_IN_1X1 is False
    for spec in (ResNetSpec(stride_in_1x1=True), ResNetSpec(width_per_group=16, res2_out_channels=64)):
        narrow = Card("n", spec, MEAN, STD, "RGB")
        with pytest.raises(UserError, match=rf"n is {spec.name} .* plain ResNets.*; use {' '.join(FPN)}$"):
            apply_card(load_config(None, TIMM_FPN), narrow)


@pytest.mark.parametrize("card", [BIT, CLIP], ids=lambda c: c.name)
def test_config_lines_of_a_timm_trunk_are_all_it_needs(card: Card) -> None:
    lines = config_lines(card, "w.safetensors")
    words = [word.strip("'") for line in lines for word in line.split(" ", 1)]
    assert "MODEL.BACKBONE.NAME build_timm_fpn_backbone" in lines
    assert check_contract(load_config(None, words).cfg, card) == []
    assert not any("DEPTH" in line or "STRIDE" in line for line in lines)
