"""ConvNeXt T and S: timm's and torchvision's files, features and norms; what is frozen, dropped, exported, refused."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from timm.models.convnext import checkpoint_filter_fn
from torch import nn

from scaleprior.backbones import (
    Card,
    ReadOptions,
    TimmSpec,
    Trunk,
    apply_card,
    build_trunk,
    check_contract,
    config_lines,
    export_backbone,
    read_backbone,
    save_backbone,
)
from scaleprior.backbones.pictures import drawn_image, feature_maps
from scaleprior.backbones.trunks.model import MAPS, STRIDES
from scaleprior.backbones.trunks.published import IMAGENET_MEAN, IMAGENET_STD, Origin
from scaleprior.backbones.verify import verify_backbone
from scaleprior.backbones.weights import load_canonical
from scaleprior.config import load_config
from scaleprior.errors import UserError

MODELS = ("convnext_tiny", "convnext_small")
CHANNELS = dict(zip(MAPS, (96, 192, 384, 768)))
TINY = TimmSpec("convnext_tiny")


def randomise(module: nn.Module) -> nn.Module:
    """Norms and scales that hide nothing: fresh ones are 1, 0 and 1e-6."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in module.state_dict().items():
        if tensor.ndim == 1 or name.endswith("layer_scale"):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + (0.5 if name.endswith("weight") else -0.2))
    return module.eval()


def trunk_of(model: str) -> Trunk:
    torch.manual_seed(0)
    return randomise(build_trunk(TimmSpec(model)))  # type: ignore[return-value]


@pytest.mark.parametrize("model", MODELS)
def test_maps_are_those_of_timms_features_only_to_the_bit(model: str) -> None:
    trunk = trunk_of(model)
    theirs = timm.create_model(model, features_only=True).eval()
    flat = {n.replace("stem.", "stem_").replace("stages.", "stages_"): t for n, t in trunk.body.state_dict().items()}
    said = theirs.load_state_dict(flat, strict=False)
    assert (said.missing_keys, said.unexpected_keys) == ([], ["head.norm.weight", "head.norm.bias"])
    x = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        maps, expected = trunk.features(x), theirs(x)
        _, intermediates = trunk.body.forward_intermediates(x)
    assert list(maps) == list(MAPS)
    for name, one, other in zip(MAPS, expected, intermediates, strict=True):
        assert torch.equal(maps[name], one)
        assert torch.equal(maps[name], other)
        assert maps[name].shape == (2, CHANNELS[name], 64 // STRIDES[name], 96 // STRIDES[name])
    assert (trunk.channels, trunk.strides) == (CHANNELS, STRIDES)


@pytest.mark.parametrize("model", MODELS)
def test_the_authors_files_are_what_timm_makes_of_them(tmp_path: Path, model: str) -> None:
    """Their ``convnext_tiny_22k_224.pth``: {"model": ...}; timm's own reader of it is the oracle."""
    words = ((r"stem\.", "downsample_layers.0."), (r"stages\.(\d)\.downsample", r"downsample_layers.\1"),
             (r"\.blocks\.", "."), (r"conv_dw", "dwconv"), (r"mlp\.fc", "pwconv"), (r"head\.norm", "norm"))  # fmt: skip
    state = {}
    for name, tensor in trunk_of(model).canonical_state().items():
        for ours, theirs in words:
            name = re.sub(ours, theirs, name)
        state[name] = tensor
    state |= {"head.weight": torch.zeros(7, 768), "head.bias": torch.zeros(7)}
    torch.save({"model": state}, tmp_path / "convnext_22k_224.pth")
    expected = checkpoint_filter_fn(dict(state), timm.create_model(model, num_classes=7))
    reading = read_backbone(tmp_path / "convnext_22k_224.pth", ReadOptions(assume="torchvision"))
    assert reading.card.arch == TimmSpec(model)
    assert set(expected) - set(reading.tensors) == {"head.fc.weight", "head.fc.bias"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in reading.tensors.items())
    assert reading.report.dropped == {"classifier": ["head.weight", "head.bias"]}


def test_detectors_see_each_map_behind_the_norm_that_the_network_sends_it_through() -> None:
    trunk, seen = trunk_of("convnext_tiny"), []
    norms = [stage.downsample[0] for stage in list(trunk.body.stages)[1:]]
    hooks = [norm.register_forward_hook(lambda m, i, o: seen.append(o.clone())) for norm in norms]
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        raw = trunk.features(x)
        for hook in hooks:
            hook.remove()
        maps = trunk.features(x, normalised=True)
        assert all(torch.equal(maps[name], expected) for name, expected in zip(MAPS, seen))
        assert torch.equal(maps["res5"], trunk.body.head.norm(raw["res5"]))
        # pretraining reads what the published classifier reads: averaged first, normalised then
        assert torch.equal(trunk.pooled(x), trunk.body.forward_head(trunk.body.forward_features(x)))


@pytest.mark.parametrize("model", MODELS)
def test_torchvisions_file_and_timms_give_the_same_trunk(model: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    theirs = randomise(getattr(torchvision.models, model)())
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pth")
    reading = read_backbone(tmp_path / "torchvision.pth", ReadOptions(assume="torchvision"))
    assert (reading.card.arch, reading.card.norm, reading.card.norm_eps) == (TimmSpec(model), "LN", 1e-6)
    assert reading.report.layout == "convnext (torchvision names)"
    assert reading.report.dropped == {"classifier": ["classifier.2.weight", "classifier.2.bias"]}
    assert reading.card.assumed == ("pixel_mean", "pixel_std", "channel_order")
    assert reading.card.facts["norm_eps"] == Origin("file", f"the LN of every {model}")

    whole = {**reading.tensors, "head.fc.weight": torch.zeros(5, 768), "head.fc.bias": torch.zeros(5)}
    save_file(whole, tmp_path / "model.safetensors")
    again = read_backbone(tmp_path / "model.safetensors", ReadOptions(assume="torchvision"))
    assert again.report.layout == "convnext (timm names)"
    assert again.report.dropped == {"classifier": ["head.fc.bias", "head.fc.weight"]}
    assert (again.card.pixel_mean, again.card.pixel_std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert reading.tensors.keys() == again.tensors.keys()
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in reading.tensors.items())

    trunk = build_trunk(TimmSpec(model)).eval().load(reading.tensors)
    x = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        maps, value = trunk.features(x), x
        for number, layer in enumerate(theirs.features):
            value = layer(value)
            if number % 2:
                # timm and torchvision order the same operations differently (permutes); 2.4e-7 was found
                torch.testing.assert_close(maps[MAPS[number // 2]], value, rtol=1e-5, atol=1e-5 * float(value.max()))
        pooled = theirs.classifier[1](theirs.classifier[0](theirs.avgpool(value)))
        torch.testing.assert_close(trunk.pooled(x), pooled, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", MODELS)
def test_every_tag_of_timm_has_imagenets_statistics(model: str) -> None:
    """The usual values are those of every tag; the reader asks all the same, as names do not tell whose file it is."""
    tags = [name for name in timm.list_pretrained(f"{model}.*") if name.split(".")[0] == model]
    assert len(tags) > 4
    for name in tags:
        cfg = timm.get_pretrained_cfg(name)
        assert tuple(round(255 * v, 3) for v in cfg.mean) == IMAGENET_MEAN
        assert tuple(round(255 * v, 3) for v in cfg.std) == IMAGENET_STD
    weights = getattr(torchvision.models, f"ConvNeXt_{model.split('_')[1].title()}_Weights").DEFAULT.transforms()
    assert tuple(round(255 * v, 3) for v in weights.mean) == IMAGENET_MEAN


def test_export_to_torchvision_is_exact_and_detectron2_is_refused(tmp_path: Path) -> None:
    tensors = trunk_of("convnext_tiny").canonical_state()
    card = Card("c", TINY, IMAGENET_MEAN, IMAGENET_STD, "RGB")
    export_backbone(tensors, card, tmp_path / "c.pth")
    theirs = torchvision.models.convnext_tiny()
    said = theirs.load_state_dict(torch.load(tmp_path / "c.pth", weights_only=True), strict=False)
    assert (said.missing_keys, said.unexpected_keys) == (["classifier.2.weight", "classifier.2.bias"], [])
    back = read_backbone(tmp_path / "c.pth", ReadOptions(assume="torchvision")).tensors
    assert back.keys() == tensors.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in tensors.items())
    with pytest.raises(UserError, match=r"is a ConvNeXt, and stock Detectron2 has no such trunk; use the .safetensors"):
        export_backbone(tensors, card, tmp_path / "c.pkl")


@pytest.mark.parametrize("count", [1, 2, 3])
def test_dropping_stages_changes_no_map_and_leaves_no_idle_parameter(count: int) -> None:
    trunk, x = trunk_of("convnext_tiny"), torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        expected = trunk.features(x, normalised=True)
    maps = trunk.keep([MAPS[count - 1]]).features(x, normalised=True)
    assert list(maps) == list(trunk.channels) == list(MAPS[:count])
    assert all(torch.equal(maps[name], expected[name]) for name in maps)
    sum(m.square().sum() for m in maps.values()).backward()
    assert [n for n, p in trunk.named_parameters() if p.grad is None] == []
    assert f"body.stages.{count}.downsample.0.weight" in dict(trunk.named_parameters())


@pytest.mark.parametrize("stages", [0, 1, 2, 4, 5])
def test_freezing_freezes_exactly_the_first_stages(stages: int) -> None:
    trunk = build_trunk(TINY).freeze_at(stages)
    for number, part in enumerate([trunk.body.stem, *trunk.body.stages], start=1):
        assert {p.requires_grad for p in part.parameters()} == {number > stages}
    assert trunk.body.head.norm.weight.requires_grad == (stages < 5)


def test_card_and_contract_say_layer_norm_and_its_eps(tmp_path: Path) -> None:
    card = Card("c", TINY, IMAGENET_MEAN, IMAGENET_STD, "RGB")
    assert (card.norm, card.norm_eps, card.schema) == ("LN", 1e-6, 2)
    saved = save_backbone(tmp_path / "c.safetensors", trunk_of("convnext_tiny").canonical_state(), card)
    assert load_canonical(tmp_path / "c.safetensors")[1] == saved
    words = config_lines(card)
    assert words[-3:] == [
        "MODEL.BACKBONE.NAME build_timm_fpn_backbone", "MODEL.TIMM.MODEL convnext_tiny", "MODEL.RESNETS.NORM LN"
    ]  # fmt: skip
    loaded = load_config("COCO-Detection/Base-RCNN-FPN.yaml")
    cfg = apply_card(loaded, card)
    assert (cfg.MODEL.TIMM.MODEL, cfg.MODEL.RESNETS.NORM) == ("convnext_tiny", "LN")
    assert check_contract(cfg, card) == []
    explicit = load_config("COCO-Detection/Base-RCNN-FPN.yaml", ["MODEL.RESNETS.NORM", "BN"])
    with pytest.raises(UserError, match=r"MODEL.RESNETS.NORM is 'BN'; use MODEL.RESNETS.NORM LN"):
        apply_card(explicit, card)
    other = Card("c", TINY, IMAGENET_MEAN, IMAGENET_STD, "RGB", norm_eps=1e-5)
    assert apply_card(loaded, other).MODEL.NORM_EPS == 1e-5


def test_relatives_are_refused(tmp_path: Path) -> None:
    torch.save(timm.create_model("convnextv2_tiny").state_dict(), tmp_path / "v2.pth")
    with pytest.raises(UserError, match=r"is a ConvNeXt V2 .*take the first version"):
        read_backbone(tmp_path / "v2.pth")
    torch.save(timm.create_model("convnext_pico").state_dict(), tmp_path / "pico.pth")
    with pytest.raises(UserError, match=r"blocks \[2, 2, 6, 2\] and a stem of 64 fit no known trunk; .*convnext_tiny"):
        read_backbone(tmp_path / "pico.pth")


def test_the_verdict_and_the_picture_know_its_parts(tmp_path: Path) -> None:
    card = Card("c", TINY, IMAGENET_MEAN, IMAGENET_STD, "RGB", images=1)
    verdict = verify_backbone(trunk_of("convnext_tiny").canonical_state(), card)
    assert list(verdict.statistics) == ["stem", *(f"stages.{i}" for i in range(4)), "head"]
    assert verdict.level != "bad", verdict.words
    fresh = verify_backbone(build_trunk(TINY).canonical_state(), card)
    assert fresh.level == "bad"
    assert "looks untrained" in fresh.words
    maps = feature_maps(trunk_of("convnext_tiny").canonical_state(), card, drawn_image())
    assert {name: value.shape[0] for name, value in maps.items()} == CHANNELS
