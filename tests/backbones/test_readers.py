"""Foreign files: what each family of names becomes, what is left out and why, and what must be given."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torchvision.models import ResNet50_Weights, resnet18, resnet50, resnext50_32x4d

from scaleprior.backbones import (
    Card,
    ReadOptions,
    RefusedFileError,
    ResNetSpec,
    TimmSpec,
    build_resnet,
    build_trunk,
    export_backbone,
    load_backbone,
    read_backbone,
    save_backbone,
    tensors_sha256,
    to_detectron2,
)
from scaleprior.backbones.readers.containers import sniff
from scaleprior.backbones.readers.facts import UnknownFactsError
from scaleprior.backbones.readers.timm_names import find_timm
from scaleprior.backbones.trunks.family import known_models
from scaleprior.backbones.trunks.published import USUAL, Origin
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.wording import in_flags

FACTS = ReadOptions(
    pixel_mean=(103.53, 116.28, 123.675), pixel_std=(1.0, 1.0, 1.0), channel_order="BGR", stride_in_1x1=True,
    norm_eps=1e-5,
)  # fmt: skip
BARE = ReadOptions(assume="torchvision")
"""For files of torchvision's and timm's names, which say nothing of themselves."""
IMAGENET = USUAL["torchvision"].facts
NARROW = ResNetSpec(res2_out_channels=32, width_per_group=8)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def state18() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return resnet18().state_dict()


@pytest.fixture(scope="module")
def narrow() -> dict[str, torch.Tensor]:
    """An R-50 of an eighth of the width, in Detectron2's names."""
    torch.manual_seed(0)
    return to_detectron2(build_resnet(NARROW).state_dict())


def test_torchvisions_usual_values_are_those_of_torchvision_and_timm() -> None:
    transforms = ResNet50_Weights.DEFAULT.transforms()
    for ours, theirs, timms in (
        (IMAGENET.pixel_mean, transforms.mean, timm.get_pretrained_cfg("resnet50").mean),
        (IMAGENET.pixel_std, transforms.std, timm.get_pretrained_cfg("resnet152").std),
    ):
        assert ours == tuple(round(255 * v, 6) for v in theirs) == tuple(round(255 * v, 6) for v in timms)


@pytest.mark.parametrize("model", known_models(named=True))
def test_timm_trunks_are_what_timm_says(model: str) -> None:
    spec = TimmSpec(model)
    facts = spec.facts
    with torch.device("meta"):
        theirs = timm.create_model(model)
        trunk = build_trunk(spec)
    cfg = theirs.default_cfg
    assert facts.pixel_mean == pytest.approx([255 * v for v in cfg["mean"]], abs=1e-5)
    assert facts.pixel_std == pytest.approx([255 * v for v in cfg["std"]], abs=1e-5)
    info = theirs.feature_info[-4:]
    channels = [i["num_chs"] for i in (info.get_dicts() if hasattr(info, "get_dicts") else info)]
    assert list(trunk.channels.values()) == channels
    assert trunk.strides == {"res2": 4, "res3": 8, "res4": 16, "res5": 32}
    counts = [len(getattr(stage, "blocks", stage)) for stage in theirs.stages]
    assert list(facts.blocks) == counts


def test_torchvision_file_gives_tensors_card_and_report(state18: dict, tmp_path: Path) -> None:
    torch.save(state18, tmp_path / "w.pth")
    reading = read_backbone(tmp_path / "w.pth", replace(BARE, images=1281167, licence="BSD-3-Clause"))
    card, report = reading.card, reading.report
    assert card.arch == ResNetSpec(depth=18)
    assert (card.pixel_mean, card.pixel_std, card.channel_order) == (IMAGENET.pixel_mean, IMAGENET.pixel_std, "RGB")
    assert (card.images, card.licence, card.seed, card.corpus["name"]) == (1281167, "BSD-3-Clause", None, "unknown")
    assert report.facts["pixel_mean"] == Origin("assumed", USUAL["torchvision"].facts.origin)
    assert report.facts["licence"] == Origin("user", "given")
    assert card.created_by == created_by()
    assert set(card.created_by) == {"version", "commit"}
    assert report.dropped["classifier"] == ["fc.weight", "fc.bias"]
    assert len(report.dropped["counter"]) == 20
    assert (report.missing, report.unexpected, report.misshaped) == ([], [], [])
    assert torch.equal(reading.tensors["res3.0.shortcut.weight"], state18["layer2.0.downsample.0.weight"])


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [
        (lambda s, e: {"state_dict": s}, 0),
        (lambda s, e: {"model": {f"module.{k}": v for k, v in s.items()}, "optimizer": {"state": {}}}, 0),
        (lambda s, e: {"state_dict": s, "state_dict_ema": e, "epoch": 3}, 1),
        (lambda s, e: {f"module._orig_mod.{k}": v for k, v in s.items()}, 0),
    ],
    ids=["state_dict", "module", "ema", "compiled"],
)
@pytest.mark.parametrize("old", [False, True])
def test_wrappers(wrap, taken: int, old: bool, state18: dict, tmp_path: Path) -> None:
    average = {k: v + 1 if v.is_floating_point() else v for k, v in state18.items()}
    torch.save(wrap(state18, average), tmp_path / "w.bin", _use_new_zipfile_serialization=not old)
    assert sniff(tmp_path / "w.bin") == ("torch-legacy" if old else "torch")
    reading = read_backbone(tmp_path / "w.bin", BARE)
    assert torch.equal(reading.tensors["stem.conv1.weight"], (state18, average)[taken]["conv1.weight"])
    if taken:
        why = "the average of the weights is what is evaluated"
        assert f"took state_dict_ema, not state_dict ({why}); select chooses" in reading.report.notes
        chosen = read_backbone(tmp_path / "w.bin", replace(BARE, state="state_dict"))
        assert torch.equal(chosen.tensors["stem.conv1.weight"], state18["conv1.weight"])


def test_kind_is_read_from_content_not_from_the_name(state18: dict, tmp_path: Path) -> None:
    save_file(state18, tmp_path / "w.pkl")
    assert read_backbone(tmp_path / "w.pkl", BARE).report.kind == "safetensors"


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_pickles_of_every_protocol(protocol: int, narrow: dict, tmp_path: Path) -> None:
    arrays = {k: v.numpy() for k, v in narrow.items() if k.startswith(("stem", "res2"))}
    arrays["stem.conv1.weight"] = np.asfortranarray(arrays["stem.conv1.weight"].astype(">f4"))
    tree = {"model": arrays, "__author__": "x", "step": np.float32(2)}
    (tmp_path / "w.pkl").write_bytes(pickle.dumps(tree, protocol=protocol))
    reading = read_backbone(tmp_path / "w.pkl", ReadOptions(**{**FACTS.__dict__, "depth": 50, "allow_partial": True}))
    for name, value in arrays.items():
        assert np.array_equal(reading.tensors[name].numpy(), value), name
    assert len(reading.report.matched) == len(arrays)


def test_python_2_pickles(tmp_path: Path) -> None:
    """As Python 2's cPickle wrote MSRA's files: byte strings for names and for the arrays' content."""
    from tests.backbones.readers.python2 import python2_pickle

    data = python2_pickle({"conv1_w": np.arange(4, dtype=np.float32), "b": np.ones((2, 1), np.float32)})
    assert pickle.loads(data, encoding="latin1")["conv1_w"].tolist() == [0, 1, 2, 3]  # the recipe is right
    (tmp_path / "w.pkl").write_bytes(data)
    from scaleprior.backbones.readers.pickle.load import load_pickle

    tree = load_pickle(str(tmp_path / "w.pkl")).content
    assert tree["conv1_w"].tolist() == [0, 1, 2, 3]
    assert tree["b"].shape == (2, 1)


def detector(narrow: dict, *, c4: bool) -> dict[str, torch.Tensor]:
    trunk = {
        (f"roi_heads.{k}" if c4 and k.startswith("res5") else f"backbone.{'' if c4 else 'bottom_up.'}{k}"): v
        for k, v in narrow.items()
    }
    heads = ["proposal_generator.rpn_head.conv.weight", "roi_heads.box_predictor.cls_score.weight", "pixel_mean"]
    heads += [] if c4 else ["backbone.fpn_lateral2.weight"]
    return {**trunk, **{name: torch.zeros(3) for name in heads}}


@pytest.mark.parametrize("c4", [True, False])
def test_the_backbone_is_cut_out_of_a_detector_and_that_is_said(c4: bool, narrow: dict, tmp_path: Path) -> None:
    torch.save({"model": detector(narrow, c4=c4), "iteration": 9}, tmp_path / "model_final.pth")
    reading = read_backbone(tmp_path / "model_final.pth", FACTS)
    assert tensors_sha256(reading.tensors) == tensors_sha256(narrow)
    assert "the file is a whole detector; its backbone was cut out" in reading.report.notes
    assert len(reading.report.dropped["detector"]) == (3 if c4 else 4)
    assert reading.card.arch == ResNetSpec(res2_out_channels=32, width_per_group=8, stride_in_1x1=True)


def test_what_matters_is_never_guessed(narrow: dict, tmp_path: Path) -> None:
    torch.save(narrow, tmp_path / "w.pth")
    with pytest.raises(UnknownFactsError) as error:
        read_backbone(tmp_path / "w.pth")
    assert error.value.absent == ("pixel_mean", "pixel_std", "channel_order", "stride_in_1x1")  # eps: Detectron2's
    assert "w.pth does not say pixel_mean, pixel_std, channel_order, stride_in_1x1, and a" in str(error.value)
    with pytest.raises(UnknownFactsError, match=r"does not say stride_in_1x1, and a") as error:
        read_backbone(tmp_path / "w.pth", replace(FACTS, stride_in_1x1=None))
    assert error.value.absent == ("stride_in_1x1",)


def test_published_statistics_are_not_read_in_another_order(state18: dict, tmp_path: Path) -> None:
    torch.save(state18, tmp_path / "w.pth")
    said = r"is RGB \(usual values of torchvision.*channel_order says BGR; give pixel_mean=\(A, B, C\) in that"
    with pytest.raises(UserError, match=said):
        read_backbone(tmp_path / "w.pth", replace(BARE, channel_order="BGR"))
    # three equal numbers are the same in either order
    card = read_backbone(tmp_path / "w.pth", ReadOptions(assume="half", channel_order="BGR")).card
    assert (card.channel_order, card.pixel_mean) == ("BGR", (127.5,) * 3)


def test_msra_gets_its_published_facts_and_detectron2s_statistics(tmp_path: Path) -> None:
    from benchmarks.exactness import FORMATS

    path, _ = FORMATS["MSRA .pkl (Caffe2)"][1](50, tmp_path)
    reading = read_backbone(path)
    card = reading.card
    assert (card.channel_order, card.pixel_std, card.stride_in_1x1, card.norm) == ("BGR", (1, 1, 1), True, "FrozenBN")
    assert torch.equal(reading.tensors["res4.5.conv2.norm.running_var"], torch.ones(256))
    assert not reading.tensors["stem.conv1.norm.running_mean"].any()
    assert reading.report.dropped == {
        "zero bias": ["conv1_b"], "classifier": ["fc1000_w", "fc1000_b"], "optimiser": ["conv1_w_momentum"]
    }  # fmt: skip


def test_partly_matching_is_an_error_that_lists_and_can_be_allowed(state18: dict, tmp_path: Path) -> None:
    broken = {k: v for k, v in state18.items() if not k.startswith("layer4.1.conv1")}
    broken["layer1.0.conv1.weight"] = torch.zeros(64, 32, 3, 3)
    broken["layer9.weight"] = torch.zeros(1)
    torch.save(broken, tmp_path / "w.pth")
    with pytest.raises(UserError) as error:
        read_backbone(tmp_path / "w.pth", BARE)
    text = str(error.value)
    assert "fits R-18 only partly: 98 tensors matched" in text
    assert "1 missing (res5.1.conv1.weight), 1 unexpected (layer9.weight)" in text
    assert "res2.0.conv1.weight (64, 32, 3, 3) instead of (64, 64, 3, 3)" in text
    reading = read_backbone(tmp_path / "w.pth", replace(BARE, allow_partial=True))
    fresh = ["res2.0.conv1.weight", "res5.1.conv1.weight"]
    assert reading.card.recipe["fresh_tensors"] == fresh == reading.report.missing
    assert reading.tensors["res5.1.conv1.weight"].std() > 0
    save_backbone(tmp_path / "w.safetensors", reading.tensors, reading.card)


def test_widths_groups_and_types(tmp_path: Path) -> None:
    torch.save(resnext50_32x4d().half().state_dict(), tmp_path / "x.pth")
    reading = read_backbone(tmp_path / "x.pth", BARE)
    assert reading.card.arch == ResNetSpec(num_groups=32, width_per_group=4)
    assert "float16 tensors were widened exactly to float32" in reading.report.notes
    assert {t.dtype for t in reading.tensors.values()} == {torch.float32}


def test_deep_stems_and_strangers_are_named(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet18d").state_dict(), tmp_path / "d.pth")
    with pytest.raises(UserError, match=r"deep stem \(timm's c, d, s or t variants\), which Detectron2's stem cannot"):
        read_backbone(tmp_path / "d.pth")
    torch.save({"blocks.0.attn.qkv.weight": torch.zeros(2)}, tmp_path / "vit.pth")
    with pytest.raises(
        UserError,
        match=r"1 tensors, a Vision Transformer: no trunk .* holds: blocks.0.attn.qkv.weight \[2\]; known names: to",
    ):
        read_backbone(tmp_path / "vit.pth")
    with pytest.raises(UserError, match=r"weights not found"):
        read_backbone(tmp_path / "gone.pth")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no weights in the folder .*backbone.safetensors"):
        read_backbone(tmp_path / "empty")


@pytest.mark.parametrize(("depth", "kind"), [(18, "ResNetModel"), (50, "ResNetModel"), (50, "ResNetForImage...")])
def test_hugging_face_names_need_pixel_facts(depth: int, kind: str, tmp_path: Path) -> None:
    """Features and every depth: test_exactness. Without a head, transformers leaves the prefix "resnet." out."""
    from safetensors.torch import load_file

    from benchmarks.exactness import FORMATS

    path, _ = FORMATS["hugging face transformers"][1](depth, tmp_path)
    state = load_file(path)
    if kind == "ResNetModel":
        state = {k.removeprefix("resnet."): v for k, v in state.items() if not k.startswith("classifier.")}
        save_file(state, path)
    with pytest.raises(UserError, match=r"does not say pixel_mean, pixel_std, channel_order.*norm_eps, and"):
        read_backbone(tmp_path)
    reading = read_backbone(tmp_path, ReadOptions(**{**FACTS.__dict__, "stride_in_1x1": False}))
    assert reading.card.arch == ResNetSpec(depth=depth)
    assert reading.report.layout == "hugging face"
    assert len(reading.report.dropped.get("classifier", [])) == (0 if kind == "ResNetModel" else 2)
    prefix = "" if kind == "ResNetModel" else "resnet."
    theirs = f"{prefix}encoder.stages.1.layers.0.shortcut.normalization.running_var"
    assert torch.equal(reading.tensors["res3.0.shortcut.norm.running_var"], state[theirs])


def test_group_norm_must_be_said(tmp_path: Path) -> None:
    torch.save(timm.create_model("resnet50_gn").state_dict(), tmp_path / "g.pth")
    with pytest.raises(UserError, match=r"GroupNorm or folded BatchNorm; give norm='GN' or norm='FrozenBN'"):
        read_backbone(tmp_path / "g.pth")
    reading = read_backbone(tmp_path / "g.pth", replace(BARE, norm="GN"))
    assert reading.card.arch == ResNetSpec(norm="GN")
    assert reading.card.facts["norm"] == Origin("user", "given")
    assert any("taken to be of 32 groups" in note for note in reading.report.notes)


def test_timm_facts_from_the_model_name_and_from_config_json(state18: dict, tmp_path: Path) -> None:
    torch.save(resnet50().state_dict(), tmp_path / "w.pth")
    card = read_backbone(tmp_path / "w.pth", ReadOptions(timm_model="resnet50.fb_swsl_ig1b_ft_in1k")).card
    assert (card.name, card.licence, card.input_size) == ("resnet50.fb_swsl_ig1b_ft_in1k", "cc-by-nc-4.0", 224)
    assert card.source == "https://huggingface.co/timm/resnet50.fb_swsl_ig1b_ft_in1k"
    assert card.facts["pixel_mean"] == card.facts["norm_eps"] == Origin("user", "timm's resnet50.fb_swsl_ig1b_ft_in1k")
    with pytest.raises(UserError, match=r"timm has no model 'resnet50.nobody'"):
        read_backbone(tmp_path / "w.pth", ReadOptions(timm_model="resnet50.nobody"))
    facts = {"architecture": "resnet18", "pretrained_cfg": {"mean": [0.5] * 3, "std": [0.2] * 3, "license": "mit"}}
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text(json.dumps(facts))
    save_file(state18, tmp_path / "hub" / "model.safetensors")
    card = read_backbone(tmp_path / "hub").card
    assert (card.pixel_mean, card.pixel_std, card.licence) == ((127.5,) * 3, (51.0,) * 3, "mit")
    assert card.facts["pixel_std"] == Origin("file", str(tmp_path / "hub" / "config.json"))


def test_timm_by_name_looks_only_at_local_caches(
    state18: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    with pytest.raises(UserError, match=r"weights of timm's resnet18.a1_in1k are not on this machine \(looked at .*"):
        find_timm("resnet18.a1_in1k")
    snapshot = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    save_file(state18, snapshot / "model.safetensors")
    reading = read_backbone("timm:resnet18.a1_in1k")
    assert (reading.card.name, reading.card.licence) == ("resnet18.a1_in1k", "apache-2.0")
    assert reading.report.facts["pixel_mean"] == Origin("publisher", "timm's resnet18.a1_in1k, from the hub's cache")


def test_own_files_pass_through_and_detectors_of_ours_carry_their_facts(narrow: dict, tmp_path: Path) -> None:
    card = Card("mine", NARROW, (1, 2, 3), (4, 5, 6), "BGR", images=7)
    run = tmp_path / "run"
    card = save_backbone(run / "backbone.safetensors", narrow, card)
    reading = read_backbone(run)
    assert reading.card == card
    assert tensors_sha256(reading.tensors) == card.tensors_sha256
    config = {
        "MODEL.PIXEL_MEAN": [1, 2, 3], "MODEL.PIXEL_STD": [4, 5, 6], "INPUT.FORMAT": "BGR",
        "MODEL.RESNETS.STRIDE_IN_1X1": False, "MODEL.RESNETS.DEPTH": 50,
    }  # fmt: skip
    header = {"scaleprior.detector": json.dumps({"config": config})}
    save_file(detector(narrow, c4=False), tmp_path / "model.safetensors", metadata=header)
    reading = read_backbone(tmp_path / "model.safetensors")
    assert (reading.card.pixel_std, reading.card.channel_order, reading.card.arch) == ((4, 5, 6), "BGR", NARROW)


def test_cards_of_timm_trunks_round_trip_and_older_versions_would_refuse_them(tmp_path: Path) -> None:
    from scaleprior.backbones import apply_card
    from scaleprior.config import load_config

    arch = TimmSpec("resnetv2_50x1_bit")
    torch.manual_seed(0)
    state = build_trunk(arch).body.state_dict()
    card = save_backbone(tmp_path / "b.safetensors", state, Card("b", arch, (127.5,) * 3, (127.5,) * 3, "RGB"))
    assert card.schema == 2
    tensors, again = load_backbone(tmp_path / "b.safetensors")
    assert again == card
    assert read_backbone(tmp_path / "b.safetensors").card == card
    with pytest.raises(UserError, match=r"timm's resnetv2_50x1_bit, which no MODEL.RESNETS config describes"):
        apply_card(load_config(None), card)
    with pytest.raises(UserError, match=r"which no ResNet of Detectron2 or torchvision can hold"):
        export_backbone(tensors, card, tmp_path / "b.pkl")
    with pytest.raises(UserError, match=r"'resnetv9' of timm is not known here"):
        TimmSpec("resnetv9")


def test_nonfinite_numbers_can_be_accepted_on_purpose(state18: dict, tmp_path: Path) -> None:
    state = {k: v.clone() for k, v in state18.items()}
    state["bn1.weight"][3] = torch.nan
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(RefusedFileError, match=r"1 tensors hold NaN or infinity \(stem.conv1.norm.weight\)"):
        read_backbone(tmp_path / "w.pth", BARE)
    notes = read_backbone(tmp_path / "w.pth", replace(BARE, allow_nonfinite=True)).report.notes
    assert notes == ["1 tensors hold NaN or infinity (stem.conv1.norm.weight)"]
    # a sum of finite numbers that overflows is not taken for infinity
    state["bn1.weight"] = torch.full((64,), 3e38)
    torch.save(state, tmp_path / "w.pth")
    read_backbone(tmp_path / "w.pth", BARE)


@pytest.mark.parametrize(
    ("option", "wrong", "hint"),
    [
        ("stride_in_1x1", ("no", 0, 1, "yes"), "give True or False"),
        ("allow_partial", ("no", 1, None), "give True or False"),
        ("allow_nonfinite", ("no", 0, None), "give True or False"),
        ("pixel_mean", (1.0, "123", (1, 2), (1, 2, "3"), (1, 2, float("nan")), (1, 2, True)), "give three finite"),
        ("pixel_std", ((1, 2, 0), (1, 2, -3), (1, 2, float("inf")), 58.0), "give three positive finite numbers"),
        ("channel_order", ("rgb", "", ["RGB"]), "take RGB or BGR"),
        ("norm", ("BN", "", {}), "take GN or FrozenBN"),
        ("norm_eps", (-1.0, "1e-3", True, float("nan")), "give a number of at least 0 such as 1e-3"),
        ("assume", ("imagenet", "", 1, ["msra"]), "take torchvision, msra, half, unit, clip"),
        ("depth", ("50", 50.0, True, 0), "take one of"),
        ("images", (0, -1, 1e6, "7", True), "give a whole number of at least 1"),
        ("labels", (0, 2.5, True), "give a whole number of at least 1"),
        *(
            (name, ("", 3, b"x"), "give a text")
            for name in ("name", "timm_model", "state", "corpus", "licence", "source")
        ),
    ],
)
def test_an_option_that_cannot_be_is_named(option: str, wrong: tuple, hint: str) -> None:
    """None of them reaches a reader, where ``bool("no")`` would choose the other network."""
    for value in wrong:
        with pytest.raises(UserError, match=f"^{option} is {re.escape(repr(value))}; {hint}") as caught:
            ReadOptions(**{option: value})
        assert in_flags(caught.value).startswith(f"--{option.replace('_', '-')} is ")


def test_every_option_is_checked_and_lists_are_triples() -> None:
    for field in fields(ReadOptions):
        with pytest.raises(UserError, match=f"^{field.name} is <object"):
            ReadOptions(**{field.name: object()})
    assert ReadOptions(pixel_mean=[1, 2, 3]) == ReadOptions(pixel_mean=(1, 2, 3))
