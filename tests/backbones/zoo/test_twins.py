"""Each public file's twin, converted as ``scaleprior://NAME`` is and compared with the twin loaded by hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from scaleprior.backbones import Card, load_backbone, read_card
from scaleprior.backbones.zoo import Entry, load_catalogue
from scaleprior.backbones.zoo.resolve import convert_entry
from tests.backbones.zoo.twins import TWINS, group_of, kind_of

PUBLIC = [e for e in load_catalogue(user=False) if e.kind == "public"]
LARGE = (  # 0.2 to 0.9 GB, each with a smaller one of the same kind
    "BiT-R101x1-imagenet-1k", "BiT-R101x1-imagenet-21k", "BiT-R152x2-imagenet-21k", "CLIP-R50x4-wit-400m",
    "ConvNeXt-S-imagenet-1k", "ConvNeXt-S-imagenet-22k", "ConvNeXt-S-imagenet-1k-torchvision", "R-101-imagenet-1k",
    "R-152-imagenet-1k",
)  # fmt: skip
IMAGES = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def _defaults_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every network here is filled from a file, or by ``shaken``."""
    for name in ("kaiming_uniform_", "kaiming_normal_", "trunc_normal_", "normal_", "uniform_"):
        monkeypatch.setattr(nn.init, name, lambda tensor, *_, **__: tensor.detach().fill_(0.01))


@dataclass
class Made:
    """A twin's file, and the card of its first conversion, whose features are those of the twin loaded by hand."""

    file: Path
    card: Card | None = None


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[object, Made]:
    """Twins by their kind: what differs in words alone is made once."""
    found: dict[object, Made] = {}
    for entry in PUBLIC:
        suffix = TWINS[group_of(entry)].suffix
        found.setdefault(kind_of(entry), Made(tmp_path_factory.getbasetemp() / f"twin-{len(found)}{suffix}"))
    return found


def test_every_entry_has_a_twin_and_every_twin_an_entry() -> None:
    assert {group_of(entry) for entry in PUBLIC} == set(TWINS)


@pytest.mark.parametrize(
    "entry", [pytest.param(e, id=e.name, marks=[pytest.mark.slow] * (e.name in LARGE)) for e in PUBLIC]
)
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_twin_is_converted_to_what_loading_it_by_hand_gives(
    entry: Entry, made: dict[object, Made], home: Path, tmp_path: Path
) -> None:
    twin, kind = TWINS[group_of(entry)], made[kind_of(entry)]
    if kind.card is None:
        torch.manual_seed(0)
        twin.save(entry, kind.file)
    canonical = tmp_path / "canonical.safetensors"
    convert_entry(entry, kind.file, canonical)

    card, spec = read_card(canonical), entry.spec
    assert spec is not None
    if entry.trunk == "resnet":  # the twin is narrow inside
        spec = replace(spec, width_per_group=card.arch.width_per_group)
    assert card.arch == spec
    assert (card.pixel_mean, card.pixel_std) == (entry.pixel_mean, entry.pixel_std)
    assert (card.channel_order, card.norm_eps) == (entry.channel_order, entry.norm_eps)
    assert card.facts["pixel_mean"].kind == card.facts["channel_order"].kind == "publisher"
    assert {origin.kind for origin in card.facts.values()} <= {"publisher", "file"}
    assert (card.name, card.images, card.labels) == (entry.name, entry.images, entry.labels)
    assert (card.corpus["name"], card.licence, card.source) == (entry.corpus, entry.licence, entry.source)
    assert {origin.kind for origin in card.facts.values()} <= {"publisher", "file"}
    assert card.facts["pixel_std"].kind == "publisher"
    if kind.card is not None:  # the same tensors for the same pixels as the first of its kind
        assert card.tensors_sha256 == kind.card.tensors_sha256
        assert (card.pixel_mean, card.pixel_std) == (kind.card.pixel_mean, kind.card.pixel_std)
        assert card.channel_order == kind.card.channel_order
        return

    ours, theirs = load_backbone(canonical).features(IMAGES), twin.maps(entry, kind.file, IMAGES)
    assert set(ours) == set(theirs) == {"res2", "res3", "res4", "res5"}
    for name in ours:
        # two ways to write (x / 255 - mean) / std: 1e-7 of each pixel, up to 1e-5 behind the layers of BiT
        difference = (ours[name] - theirs[name]).norm() / theirs[name].norm()
        assert difference < 5e-5, (name, float(difference))
    kind.card = card


def test_an_entry_says_which_of_several_trunks_it_means(home: Path, tmp_path: Path) -> None:
    """MoCo's key encoder, whose parameters are the query encoder's times 1.25 in the twin."""
    entry = next(e for e in PUBLIC if e.name == "R-50-moco-v1-200ep")
    assert entry.select == "encoder_q"
    twin, weights = TWINS[group_of(entry)], {}
    twin.save(entry, tmp_path / "file.pth.tar")
    for select in ("encoder_q", "encoder_k"):
        convert_entry(replace(entry, select=select), tmp_path / "file.pth.tar", tmp_path / f"{select}.safetensors")
        weights[select] = load_backbone(tmp_path / f"{select}.safetensors").tensors["res5.2.conv3.weight"]
    assert torch.equal(weights["encoder_k"], weights["encoder_q"] * 1.25)
    prefixed = replace(entry, select=None, state="state_dict", prefix="module.encoder_k.")
    convert_entry(prefixed, tmp_path / "file.pth.tar", tmp_path / "prefix.safetensors")
    assert torch.equal(
        load_backbone(tmp_path / "prefix.safetensors").tensors["res5.2.conv3.weight"], weights["encoder_k"]
    )
