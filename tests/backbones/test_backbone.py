"""``scaleprior.load_backbone`` and ``scaleprior.convert``: any file as one object."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import torch

import scaleprior as sp
from scaleprior.backbones import Card, ReadOptions, ResNetSpec, build_resnet, read_card, save_backbone, to_detectron2
from scaleprior.backbones.backbone import Facts
from scaleprior.errors import UserError

SPEC = ResNetSpec(res2_out_channels=32, width_per_group=8)
MEAN, STD = (10.0, 20.0, 30.0), (2.0, 4.0, 5.0)


@pytest.fixture(scope="module")
def canonical(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file whose card wants BGR."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    card = Card(name="mine", arch=SPEC, pixel_mean=MEAN, pixel_std=STD, channel_order="BGR", images=1234)
    save_backbone(path, to_detectron2(build_resnet(SPEC).state_dict()), card)
    return path


def test_the_facts_are_the_reading_options() -> None:
    assert set(Facts.__annotations__) == {field.name for field in fields(ReadOptions)}


def test_a_canonical_file(canonical: Path, tmp_path: Path) -> None:
    backbone = sp.load_backbone(canonical)
    assert repr(backbone) == f"Backbone('mine', {SPEC.name}, {len(backbone.tensors)} tensors, 1,234 images)"
    tensors, card = backbone
    assert card == read_card(canonical)
    assert backbone.save(tmp_path / "again.safetensors") == card
    assert (tmp_path / "again.safetensors").read_bytes() == canonical.read_bytes()
    assert any("PIXEL_MEAN" in line for line in backbone.config_lines())
    backbone.export(tmp_path / "w.pkl")
    assert torch.equal(sp.load_backbone(tmp_path / "w.pkl").tensors["stem.conv1.weight"], tensors["stem.conv1.weight"])


def test_features_see_what_the_weights_saw_in_training(canonical: Path) -> None:
    """RGB in; BGR, normalised by hand, into a trunk that is built and filled by hand."""
    backbone = sp.load_backbone(canonical)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    by_hand = torch.stack([(images[:, 2 - c].float() - MEAN[c]) / STD[c] for c in range(3)], dim=1)
    assert torch.equal(backbone.normalise(images), by_hand)
    maps = backbone.features(images)
    assert {name: tuple(m.shape) for name, m in maps.items()} == {
        f"res{n}": (2, 32 * 2 ** (n - 2), 64 // 2**n, 96 // 2**n) for n in range(2, 6)
    }
    trunk = backbone.trunk()
    assert isinstance(trunk, torch.nn.Module)
    assert trunk.training
    with torch.inference_mode():
        for name, expected in trunk.eval()(by_hand).items():
            assert torch.equal(maps[name], expected), name
    assert torch.equal(backbone.features(images[0])["res5"], maps["res5"][:1])
    with pytest.raises(UserError, match=r"images are of shape \(2, 64, 96, 3\); give \[B, 3, H, W\]"):
        backbone.features(images.permute(0, 2, 3, 1))


def test_foreign_files_take_facts_as_keywords(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = to_detectron2(build_resnet(SPEC).state_dict())
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"does not say pixel_mean, pixel_std, channel_order, stride_in_1x1, and"):
        sp.load_backbone(tmp_path / "w.pth")
    facts = Facts(pixel_mean=MEAN, pixel_std=STD, channel_order="RGB", stride_in_1x1=False, norm_eps=1e-5, images=7)
    backbone = sp.load_backbone(tmp_path / "w.pth", **facts)
    assert (backbone.card.pixel_mean, backbone.card.images) == (MEAN, 7)
    assert torch.equal(backbone.tensors["stem.conv1.weight"], state["stem.conv1.weight"])
    done = sp.convert(tmp_path / "w.pth", tmp_path / "w.safetensors", **facts)
    assert done.path == tmp_path / "w.safetensors"
    assert done.card == read_card(done.path)
    assert len(done.report.matched) == len(backbone.tensors)
    with pytest.raises(UserError, match=r"out is 'w\.pkl'; name it \*\.safetensors"):
        sp.convert(tmp_path / "w.pth", "w.pkl", **facts)
    with pytest.raises(TypeError, match="pixel_men"):
        sp.load_backbone(tmp_path / "w.pth", pixel_men=MEAN)  # type: ignore[call-arg]


def test_a_card_takes_what_it_can_say_and_nothing_is_ignored(canonical: Path, tmp_path: Path) -> None:
    said = Facts(name="other", licence="MIT", source="here", images=7)
    card = sp.load_backbone(canonical, **said, allow_nonfinite=True).card
    assert (card.name, card.licence, card.source, card.images) == ("other", "MIT", "here", 7)
    idle = Facts(
        pixel_mean=MEAN, pixel_std=STD, channel_order="BGR", stride_in_1x1=False, norm="GN", norm_eps=1e-3, depth=50,
        timm_model="resnet50", assume="msra", state="model", prefix="a.", select="b", labels=3, corpus="mine",
        allow_partial=True,
    )  # fmt: skip
    assert set(Facts.__annotations__) == {*idle, *said, "allow_nonfinite"}
    for name, value in idle.items():
        for call in (
            sp.load_backbone,
            lambda source, **facts: sp.convert(source, tmp_path / "new.safetensors", **facts),
        ):
            with pytest.raises(
                UserError, match=rf"w\.safetensors has a card, on which {name} would have no effect; leave"
            ):
                call(canonical, **{name: value})  # type: ignore[operator]
    assert not (tmp_path / "new.safetensors").exists()


def test_an_exported_file_keeps_its_card_but_for_what_is_said(canonical: Path, tmp_path: Path) -> None:
    sp.load_backbone(canonical).export(tmp_path / "w.pkl")
    card = sp.load_backbone(tmp_path / "w.pkl", licence="MIT", source="here", images=7).card
    assert (card.name, card.licence, card.source, card.images) == ("mine", "MIT", "here", 7)
    with pytest.raises(UserError, match=r"w\.pkl has a card, on which labels, corpus would have no effect"):
        sp.load_backbone(tmp_path / "w.pkl", labels=3, corpus="mine")


def test_names_of_the_zoo(canonical: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaleprior.backbones.zoo import add_backbone

    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path))
    add_backbone(canonical, "mine-1")
    assert sp.model_zoo.list("mine*") == ["mine-1"]
    assert "mine-1" not in sp.model_zoo.list("*jft*")
    assert sp.model_zoo.get("scaleprior://mine-1").images == 1234
    assert sp.model_zoo.fetch("mine-1").read_bytes() == canonical.read_bytes()
    assert sp.load_backbone("scaleprior://mine-1").card.images == 1234
    with pytest.raises(UserError, match="did you mean mine-1"):
        sp.model_zoo.get("mine-2")
