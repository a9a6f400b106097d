"""A name of the catalogue's without public weights, taken by a user's own file: what must fit, what is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import scaleprior as sp
from scaleprior.backbones import Card, ResNetSpec, check_contract, save_backbone
from scaleprior.backbones.trunks.resnet import names_and_shapes
from scaleprior.backbones.zoo import Entry, add_backbone, load_catalogue, local_path, remove_backbone
from scaleprior.backbones.zoo.entry import own_entry
from scaleprior.backbones.zoo.rung import NEAR, fill
from scaleprior.cli import main
from scaleprior.config import data_file, load_config
from scaleprior.config.fingerprint import recipe_settings
from scaleprior.errors import UserError

NAME = "paper-R-50-jft-10m"
COCO = data_file("configs", "COCO-Detection/Base-Common.yaml").parent
RUNGS = [entry for entry in load_catalogue(user=False) if entry.kind == "paper"]


def made_by_its_command(rung: Entry, **changes: Any) -> Card:
    """The card of a run of the command that the catalogue prints, on a corpus of the user's."""
    cfg = load_config(rung.recipe[0], rung.recipe[1:]).cfg
    images = cfg.PRETRAIN.FRACTION.IMAGES or rung.images
    facts: dict[str, Any] = {
        "name": "run", "arch": ResNetSpec(depth=rung.depth, norm="BN"), "pixel_mean": tuple(cfg.MODEL.PIXEL_MEAN),
        "pixel_std": tuple(cfg.MODEL.PIXEL_STD), "channel_order": cfg.INPUT.FORMAT, "images": images, "labels": 500,
        "steps": 7, "corpus": {"name": "shop", "fingerprint": "f"}, "recipe": recipe_settings(cfg),
        "parent": {"name": "start"} if rung.parent else None,
    }  # fmt: skip
    return Card(**{**facts, **changes})


def filled(rung: Entry, card: Card) -> Entry:
    return fill(
        rung, own_entry(rung.name, {"sha256": "0" * 64, "card": card.to_dict()}, where="x"), where="w.safetensors"
    )


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole R-50 as the catalogue's command would make it."""
    import torch

    rung = load_catalogue(user=False).find(NAME)
    state = {name: torch.ones(shape) for name, shape in names_and_shapes(ResNetSpec(depth=50, norm="BN")).items()}
    path = tmp_path_factory.mktemp("made") / "backbone.safetensors"
    save_backbone(path, state, made_by_its_command(rung))
    return path


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_what_an_entrys_own_command_makes_fits_it(rung: Entry) -> None:
    """Every entry's, so that no command of the catalogue makes what the catalogue then refuses."""
    entry = filled(rung, made_by_its_command(rung))
    assert (entry.kind, entry.fills, entry.arch) == ("own", "arXiv:1707.02968", rung.arch)
    assert entry.differs == (f"corpus shop (the entry: {rung.corpus})", f"labels 500 (the entry: {rung.labels:,})")
    assert "start" in entry.checked
    assert entry.unchecked == ((f"whether start, its start, is {rung.parent}",) if rung.parent else ())


@pytest.mark.parametrize("rung", RUNGS, ids=lambda rung: rung.name)
def test_what_fits_the_entry_fits_the_configs_that_name_it(rung: Entry) -> None:
    weights = f"scaleprior://{rung.name}"
    configs = [load_config(path).cfg for path in COCO.glob(f"faster_rcnn_R_{rung.depth}_*.yaml")]
    configs = [cfg for cfg in configs if weights == cfg.MODEL.WEIGHTS]
    assert len(configs) == 2, "one with C4, one with FPN"
    for cfg in configs:
        assert check_contract(cfg, made_by_its_command(rung)) == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": ResNetSpec(depth=101, norm="BN")}, r"its trunk is R-101, the entry's R-50"),
        ({"arch": ResNetSpec(depth=50, norm="GN")}, r"its trunk is R-50-gn, the entry's R-50"),
        ({"arch": ResNetSpec(depth=50, norm="BN", width_per_group=32)}, r"its trunk is R-50-w32, the entry's R-50"),
        (
            {"arch": ResNetSpec(depth=50, norm="BN", stride_in_1x1=True)},
            r"it needs MODEL\.RESNETS\.STRIDE_IN_1X1 True, the entry False",
        ),
        ({"pixel_std": (58.395, 57.12, 57.375)}, r"PIXEL_STD '\[58\.395, .*', the entry '\[127\.5, 127\.5, 127\.5\]'"),
        ({"channel_order": "BGR"}, r"it needs INPUT\.FORMAT BGR, the entry RGB"),
        ({"norm_eps": 1e-3}, r"it needs MODEL\.NORM_EPS 0\.001, the entry at its default"),
        ({"images": 9_499_999}, r"it learned from 9,499,999 images, the entry from 10,000,000 \(within 5%\); choose"),
        ({"images": 30_000_000}, r"it learned from 30,000,000 images, the entry from 10,000,000"),
        (
            {"images": None},
            r"its card does not say how many images it learned from, the entry 10,000,000; say it: .* images",
        ),
        ({"parent": {"name": "r50"}}, r"it began from r50, the entry from random weights"),
    ],
)
def test_a_card_that_contradicts_the_entry_is_refused_with_both_values(changes: dict[str, Any], message: str) -> None:
    rung = load_catalogue(user=False).find(NAME)
    with pytest.raises(UserError, match=rf"w\.safetensors cannot be {NAME}: .*{message}") as caught:
        filled(rung, made_by_its_command(rung, **changes))
    assert ("choose another name" in str(caught.value)) == ("images" not in changes or changes["images"] is not None)


def test_a_rung_with_a_start_wants_one() -> None:
    rung = load_catalogue(user=False).find("paper-R-50-imagenet-jft-300m")
    with pytest.raises(UserError, match="it began from random weights, the entry from paper-R-50-imagenet; choose"):
        filled(rung, made_by_its_command(rung, parent=None))
    # a foreign file does not tell, and that is said
    assert "start" in filled(rung, made_by_its_command(rung, parent=None, steps=None)).unchecked


def test_the_edge_of_the_number_of_images() -> None:
    rung = load_catalogue(user=False).find(NAME)
    for share in (1 - NEAR, 1 + NEAR):
        assert filled(rung, made_by_its_command(rung, images=round(share * 10_000_000))).fills


def test_another_recipe_is_told_key_by_key() -> None:
    rung = load_catalogue(user=False).find(NAME)
    cfg = load_config(rung.recipe[0], [*rung.recipe[1:], "PRETRAIN.BATCH_SIZE", "256", "SEED", "4"]).cfg
    entry = filled(rung, made_by_its_command(rung, recipe=recipe_settings(cfg), labels=None))
    assert "PRETRAIN.BATCH_SIZE 256 (the entry: 32)" in entry.differs
    rate = 0.001 * (256 / 32) ** 0.5  # follows the batch
    assert f"PRETRAIN.OPTIMIZER.BASE_LR {rate} (the entry: 0.001)" in entry.differs
    assert len(entry.differs) == 3, "the corpus, and these keys: seed, name and number of images are no recipe"
    assert entry.unchecked == ("labels",)
    assert filled(rung, made_by_its_command(rung, recipe={}, labels=None)).unchecked == ("labels", "recipe")


def test_the_name_that_configs_expect_is_the_users_file_until_it_is_removed(home: Path, backbone: Path) -> None:
    config = load_config("COCO-Detection/faster_rcnn_R_50_C4_jft10m.yaml").cfg
    with pytest.raises(UserError, match=rf"not public .*--name {NAME}"):
        local_path(config.MODEL.WEIGHTS)
    entry = sp.model_zoo.add(backbone, f"scaleprior://{NAME}")
    assert load_catalogue().find(NAME) == entry == sp.model_zoo.get(NAME)
    assert (entry.kind, entry.corpus, entry.images, entry.command) == ("own", "shop", 10_000_000, None)
    assert local_path(config.MODEL.WEIGHTS).read_bytes() == backbone.read_bytes()
    with pytest.raises(UserError, match=rf"already has a backbone '{NAME}', which you registered; .*zoo remove {NAME}"):
        add_backbone(backbone, NAME)
    kept = sp.model_zoo.remove(NAME)
    assert kept.read_bytes() == backbone.read_bytes(), "the only copy may be the zoo's"
    assert load_catalogue().find(NAME).kind == "paper"
    assert add_backbone(kept, NAME).fills


def test_a_refused_file_leaves_the_zoo_as_it_was(home: Path, backbone: Path) -> None:
    with pytest.raises(UserError, match="cannot be paper-R-101-jft-10m: its trunk is R-50, the entry's R-101"):
        add_backbone(backbone, "paper-R-101-jft-10m")
    assert not (home / "zoo.yaml").exists()
    assert not (home / "zoo" / "files").exists()


def test_a_public_name_is_never_taken(home: Path, backbone: Path) -> None:
    with pytest.raises(UserError, match="already has a backbone 'R-50-imagenet-1k', which is public; choose another"):
        add_backbone(backbone, "R-50-imagenet-1k")


def test_what_was_written_by_hand_has_to_fit_as_well_and_can_be_removed(home: Path, backbone: Path) -> None:
    add_backbone(backbone, NAME)
    raw = yaml.safe_load((home / "zoo.yaml").read_text())
    raw["own"][NAME]["card"]["images"] = 5
    (home / "zoo.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=rf"zoo\.yaml: entry {NAME} cannot be {NAME}: it learned from 5 images"):
        load_catalogue()
    remove_backbone(NAME)
    assert load_catalogue().find(NAME).kind == "paper"


def test_only_what_was_registered_can_be_removed(home: Path, backbone: Path) -> None:
    with pytest.raises(UserError, match=r"registered no backbone 'R-50-imagenet-1k'; registered: none"):
        remove_backbone("R-50-imagenet-1k")
    add_backbone(backbone, "mine")
    with pytest.raises(UserError, match=rf"registered no backbone '{NAME}'; registered: mine"):
        remove_backbone(NAME)


def test_on_the_command_line(home: Path, backbone: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: object, code: int = 0) -> str:
        assert main([*map(str, words)]) == code
        said = capsys.readouterr()
        return said.err if code else said.out

    added = run("zoo", "add", backbone, "--name", NAME)
    assert "The name is that of arXiv:1707.02968, whose weights are not public; the file is yours." in added
    assert "  agrees: trunk R-50, stride, norm and eps, pixels, channel order, images 10,000,000" in added
    assert "  differs: corpus shop (the entry: JFT-300M), labels 500 (the entry: 18,291)" in added
    assert "  not known: nothing" in added
    run("zoo", "add", backbone, "--name", "mine")
    listed = run("zoo", "list")
    assert "\nown\nmine " in listed
    assert f"\nown, in place of weights that are not public\n{NAME} " in listed
    assert listed.count(f"{NAME} ") == 1
    shown = run("zoo", "show", NAME)
    assert "stands for   the backbone of that name in arXiv:1707.02968, whose weights are not public" in shown
    assert "weights      own" in shown
    assert "differs      corpus shop (the entry: JFT-300M), labels" in shown
    assert json.loads(run("zoo", "show", NAME, "--json"))["differs"][0].startswith("corpus shop")
    assert Path(json.loads(run("zoo", "remove", NAME, "--json"))["path"]).is_file()
    assert f"To have it under this name, which configs expect:\n  scaleprior zoo add {NAME}/" in run(
        "zoo", "show", NAME
    )
    assert "cannot be paper-R-152-imagenet" in run("zoo", "add", backbone, "--name", "paper-R-152-imagenet", code=2)


def test_a_group_cannot_share_an_address_under_the_papers_name(home: Path) -> None:
    """An address cannot be held against the entry before it is downloaded; a file can."""
    from tests.backbones.zoo.test_catalogue import GOOD

    home.mkdir()
    (home / "zoo.yaml").write_text(yaml.safe_dump({"schema": 1, "public": {NAME: GOOD}}))
    with pytest.raises(UserError, match=f"entry {NAME}: ScalePrior's own catalogue has that name"):
        load_catalogue()


def test_an_entry_is_what_it_was_where_nobody_fills_it() -> None:
    entry = load_catalogue(user=False).find(NAME)
    assert (entry.fills, entry.checked, entry.differs, entry.unchecked) == (None, (), (), ())
    assert replace(entry, recipe=()).command is None
