"""Which of several trunks is taken, and how the user says it; what is said where there is none."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import nn

from scaleprior.backbones import ReadOptions, convert_backbone, read_backbone, to_detectron2
from scaleprior.backbones.readers.search.rules import RULES
from scaleprior.backbones.verify import verify_backbone
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.backbones.readers.search.conftest import FACTS, Check, prefixed, r18, small, trained


def refused(tree: Any, path: Path, **options: Any) -> UserError:
    torch.save(tree, path / "w.pth")
    with pytest.raises(UserError) as caught:
        read_backbone(path / "w.pth", ReadOptions(**{**FACTS, **options}))
    return caught.value


def two(first: str = "left", second: str = "right") -> tuple[Any, Any, dict[str, Any]]:
    one, other = small(0), small(1)
    return one, other, {**prefixed(one.state_dict(), f"{first}."), **prefixed(other.state_dict(), f"{second}.")}


def test_what_no_rule_decides_is_asked_for(check: Check, tmp_path: Path) -> None:
    one, other, state = two()
    error = refused({"net": state}, tmp_path)
    assert "holds 2 trunks, and nobody says which is meant: left. in net (R-50-w8); right. in net" in str(error)
    assert in_flags(error).endswith("give --select WORD (a word of one of them only), --prefix P or --state KEY")
    for options in (
        {"select": "right"},
        {"select": "igh"},
        {"prefix": "right."},
        {"prefix": "right"},
        {"prefix": "net.right."},
    ):
        assert check({"net": state}, other, **options).report.place == "right. in net"
    assert (
        check({"net": {**one.state_dict(), **prefixed(other.state_dict(), "b.")}}, one, prefix="").report.place == "net"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"select": "middle"},
            "--select is 'middle', and that is no word of where a trunk stands; they begin in left. in net, right. in",
        ),
        (
            {"prefix": "middle."},
            "--prefix is 'middle.', and no known names begin there; they begin in left. in net, right. in net; it h",
        ),
        ({"state": "model"}, "has no tensors in --state model; its dicts with tensors: net, net.more"),
        ({"state": "net.left"}, "has no tensors in --state net.left"),  # that is a prefix, not a dict
    ],
)
def test_options_that_lead_nowhere_list_what_there_is(options: dict[str, str], said: str, tmp_path: Path) -> None:
    _, _, state = two()
    tree = {"net": {**state, "more": {"x": torch.zeros(2)}}}
    assert said in in_flags(refused(tree, tmp_path, **options))


def test_equal_trunks_are_one(check: Check, tmp_path: Path) -> None:
    one, _, _ = two()
    shared = {"a": one.state_dict(), "b": one.state_dict()}
    assert "the same numbers stand in b" in check(shared, one).report.notes
    copied = {"a": one.state_dict(), "b": {name: value.clone() for name, value in one.state_dict().items()}}
    assert "the same numbers stand in b" in check(copied, one).report.notes
    copied["b"]["layer4.2.conv3.weight"][0, 0] += 1e-3
    assert "holds 2 trunks" in str(refused(copied, tmp_path))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.better)
def test_every_rule_is_of_one_architecture_and_can_be_overruled(rule: Any, check: Check, tmp_path: Path) -> None:
    better = rule.better.split("|")[0]
    worse = "model" if rule.worse is None else rule.worse.split("|")[0]
    assert "/" in rule.source
    one, other, _ = two()
    tree: dict[str, Any] = {"w": {worse: other.state_dict(), better: one.state_dict()}}
    tree |= {mark: {} for mark in rule.marks[-1:]}
    report = check(tree, one).report
    assert report.place == f"w.{better}"
    assert f"took w.{better}, not w.{worse} ({rule.why}); select chooses" in report.notes
    check(tree, other, select=worse)
    tree["w"][worse] = r18().state_dict()
    assert "holds 2 trunks" in str(refused(tree, tmp_path))


def test_rules_together(check: Check, tmp_path: Path) -> None:
    """The average of the query encoder, of four."""
    networks = [small(seed) for seed in range(4)]
    tree = {
        "model": {
            **prefixed(networks[0].state_dict(), "encoder_q."),
            **prefixed(networks[1].state_dict(), "encoder_k."),
        },
        "model_ema": {
            **prefixed(networks[2].state_dict(), "module.encoder_k."),
            **prefixed(networks[3].state_dict(), "module.encoder_q."),
        },
    }
    report = check(tree, networks[3]).report
    assert report.place == "module.encoder_q. in model_ema"
    assert len(report.dropped["another trunk"]) == 3 * 320
    assert check(tree, networks[0], select="model").report.place == "encoder_q. in model"
    assert check(tree, networks[1], select="encoder_k", state="model").report.place == "encoder_k. in model"


def test_a_copy_without_statistics_is_no_whole_trunk(check: Check) -> None:
    """An average of the parameters alone, as some scripts keep it."""
    network, average = small(0), small(1)
    shadow = {name: value for name, value in average.state_dict().items() if "running" not in name}
    report = check({"model": network.state_dict(), "ema": {"shadow": shadow, "decay": 0.999}}, network).report
    assert report.place == "model"
    assert "passed over, as no whole trunk: ema.shadow" in report.notes


def test_none_is_whole_so_the_nearest_is_named(tmp_path: Path) -> None:
    state = prefixed(small().state_dict(), "encoder.")
    state = {name: value for name, value in state.items() if not name.startswith("encoder.layer4.2")}
    state["head.weight"] = torch.zeros(4, 4)
    error = str(refused({"net": state, "epoch": 3}, tmp_path, depth=50))
    assert (
        "fits R-50-w8 only partly (torchvision/timm names, encoder. in net): 250 tensors matched, 15 missing" in error
    )
    assert "the file holds: net (303 tensors: encoder (302 tensors), head.weight [4, 4])" in error
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS, depth=50, allow_partial=True))
    assert len(reading.card.recipe["fresh_tensors"]) == 15
    assert "dropped_tensors" not in reading.card.recipe


def test_what_a_partial_reading_dropped_stays_in_the_card(tmp_path: Path) -> None:
    state = small().state_dict()
    state |= {f"layer1.0.extra{i}.weight": torch.zeros(1) for i in range(60)}
    state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    assert "60 unexpected" in str(refused(state, tmp_path))
    card, _ = convert_backbone(tmp_path / "w.pth", tmp_path / "w.safetensors", ReadOptions(**FACTS, allow_partial=True))
    dropped = read_backbone(tmp_path / "w.safetensors").card.recipe["dropped_tensors"]
    assert dropped == card.recipe["dropped_tensors"]
    assert (dropped["count"], len(dropped["names"]), dropped["names"][0]) == (61, 50, "layer1.0.extra0.weight")
    reading = read_backbone(tmp_path / "w.safetensors")
    found = {finding.what for finding in verify_backbone(reading.tensors, reading.card).findings}
    assert "61 tensors of the file had no place in a R-50-w8 and were dropped" in found


def test_misshaped_tensors_are_dropped_too(tmp_path: Path) -> None:
    state = small().state_dict()
    state["layer2.0.conv1.weight"] = torch.zeros(3, 3)
    torch.save(state, tmp_path / "w.pth")
    card = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS, allow_partial=True)).card
    said = "res3.0.conv1.weight (3, 3) instead of (16, 32, 1, 1)"
    assert card.recipe["dropped_tensors"] == {"count": 1, "names": [said]}


def test_of_partial_trunks_a_rule_takes_one(tmp_path: Path) -> None:
    one, _, state = two("encoder_k", "encoder_q")
    state = {name: value for name, value in state.items() if "layer4.2.bn3.bias" not in name}
    torch.save(state, tmp_path / "w.pth")
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS, allow_partial=True))
    assert reading.report.place == "encoder_q."
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS, allow_partial=True, select="encoder_k"))
    assert torch.equal(reading.tensors["stem.conv1.weight"], one.conv1.weight)


@pytest.mark.parametrize(
    ("part", "made", "reason"),
    [
        ("my_head", nn.Linear(8, 8), "head"),
        ("whatever", nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8)), "head"),
        ("projection", nn.Conv2d(8, 8, 1), "projector"),
        ("decoder4", nn.Conv2d(8, 8, 3), "head"),
        ("fc2", nn.Linear(8, 8), "classifier"),
        ("neck", nn.Conv2d(8, 8, 3), "detector"),
        ("se", nn.Linear(8, 8), None),
        ("input_bn", nn.BatchNorm2d(3), None),
        ("adapter", nn.Conv2d(3, 3, 1), None),
        ("layer5", nn.Conv2d(8, 8, 3), None),
        ("bn2", nn.BatchNorm2d(8), None),
    ],
)
def test_beside_the_trunk_or_a_stranger_in_it(part: str, made: nn.Module, reason: str | None, tmp_path: Path) -> None:
    """Parts on the level of ``conv1``: what may change the maps is a stranger, a head is left out."""
    state = {**small().state_dict(), **prefixed(made.state_dict(), f"{part}.")}
    torch.save(state, tmp_path / "w.pth")
    if reason is None:
        assert f"unexpected ({part}." in str(refused(state, tmp_path))
    else:
        dropped = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS)).report.dropped
        assert any(name.startswith(f"{part}.") for name in dropped[reason])


def test_a_detector_with_its_last_stage_in_the_head_or_not(check: Check) -> None:
    """Detectron2's C4 beside another trunk: both prefixes are the trunk's, and the heads are the detector's."""
    network = small()
    names = to_detectron2(network.state_dict())
    tree = {f"{'roi_heads' if n.startswith('res5') else 'backbone'}.{n}": v for n, v in names.items()}
    tree |= {"roi_heads.box_predictor.cls_score.weight": torch.zeros(3, 3), "pixel_mean": torch.zeros(3, 1, 1)}
    report = check({"model": tree}, network).report
    assert report.place == "backbone. and roi_heads. in model"
    assert report.dropped == {"detector": ["model.roi_heads.box_predictor.cls_score.weight", "model.pixel_mean"]}


@pytest.mark.parametrize("wrap", ["", "module.", "visual.", "model.visual."])
def test_clip_within_a_larger_model(wrap: str, tmp_path: Path) -> None:
    """open_clip's and OpenAI's: the text tower has a transformer of its own."""
    from scaleprior.backbones import TimmSpec, build_trunk

    body = trained(build_trunk(TimmSpec("resnet50_clip")).body)
    state = {}
    for name, value in body.state_dict().items():
        name = re.sub(r"^stem\.conv(\d)\.(conv|bn)", r"\2\1", name)
        name = re.sub(r"^stages\.(\d)", lambda m: f"layer{int(m[1]) + 1}", name)
        name = re.sub(r"conv(\d)_(?:1x1|kxk)\.(conv|bn)", r"\2\1", name)
        state[
            f"{wrap}{name.replace('shortcut.conv.conv', 'downsample.0').replace('shortcut.conv.bn', 'downsample.1')}"
        ] = value
    outer = wrap.removesuffix("visual.")
    state |= {
        f"{outer}transformer.resblocks.0.attn.in_proj_weight": torch.zeros(4, 4),
        f"{outer}logit_scale": torch.zeros(()),
    }
    state[f"{wrap}attnpool.positional_embedding"] = torch.zeros(4, 4)
    torch.save({"epoch": 3, "state_dict": state}, tmp_path / "w.pth")
    reading = read_backbone(tmp_path / "w.pth", ReadOptions(**FACTS))
    assert reading.card.arch == TimmSpec("resnet50_clip")
    assert len(reading.report.dropped["projection"]) == 3
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        ours = build_trunk(reading.card.arch).load(reading.tensors).eval().features(x)
        theirs: Any = timm.create_model("resnet50_clip_gap", num_classes=0).eval()
        theirs.load_state_dict(body.state_dict())
        x = theirs.stem(x)
        for stage, map_ in zip(theirs.stages.children(), ours.values()):
            x = stage(x)
            assert torch.equal(x, map_)


def test_absent_blocks_are_told_with_where_they_should_be(tmp_path: Path) -> None:
    state = {name: value for name, value in small().state_dict().items() if "layer4.2" not in name}
    error = in_flags(refused({"net": prefixed(state, "encoder.")}, tmp_path))
    assert (
        "bottleneck blocks [3, 4, 6, 2] in res2 to res5 fit no ResNet of known depth (nearest: torchvision/timm"
        in error
    )
    assert (
        "names, encoder. in net); it holds: net (302 tensors: encoder (302 tensors: conv1.weight [64, 3, 7, 7]" in error
    )
    assert error.endswith("give --depth where blocks are absent")
