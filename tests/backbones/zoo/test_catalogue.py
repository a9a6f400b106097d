"""The catalogue: its facts against timm, torchvision and the configs; its schema; the user's own entries."""

from __future__ import annotations

import copy
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.backbones import ResNetSpec
from scaleprior.backbones.zoo import Entry, add_backbone, load_catalogue, local_path
from scaleprior.backbones.zoo.catalogue import read_catalogue
from scaleprior.backbones.zoo.entry import supervision_of
from scaleprior.cli import build_parser
from scaleprior.config import load_config
from scaleprior.errors import UserError

CATALOGUE = load_catalogue(user=False)
PUBLIC = [e for e in CATALOGUE if e.kind == "public"]
PAPER = [e for e in CATALOGUE if e.kind == "paper"]


def ids(entry: Entry) -> str:
    return entry.name


def test_the_entries_that_were_promised() -> None:
    corpora = ["imagenet", "jft-10m", "jft-30m", "jft-100m", "jft-300m", "imagenet-jft-300m"]
    assert {e.name for e in PAPER} == {f"paper-R-{d}-{c}" for d in (50, 101, 152) for c in corpora}
    ladder = {(e.arch, e.timm): e.images for e in PUBLIC}
    assert (
        ladder.items()
        >= {
            ("R-50", "resnet50.tv_in1k"): 1_281_167,
            ("R-101", "resnet101.tv_in1k"): 1_281_167,
            ("R-152", "resnet152.tv_in1k"): 1_281_167,
            ("BiT-R50x1", "resnetv2_50x1_bit.goog_in21k"): 14_200_000,
            ("BiT-R101x1", "resnetv2_101x1_bit.goog_in21k"): 14_200_000,
            ("BiT-R152x2", "resnetv2_152x2_bit.goog_in21k"): 14_200_000,
            ("R-50", "resnet50.fb_ssl_yfcc100m_ft_in1k"): 90_000_000,
            ("ConvNeXt-T", "convnext_tiny.fb_in1k"): 1_281_167,
            ("ConvNeXt-T", "convnext_tiny.fb_in22k"): 14_200_000,
            ("CLIP-R50", "resnet50_clip.cc12m"): 12_000_000,
            ("CLIP-R50", "resnet50_clip.yfcc15m"): 15_000_000,
            ("CLIP-R50", "resnet50_clip.openai"): 400_000_000,
            ("R-50", "resnet50.fb_swsl_ig1b_ft_in1k"): 940_000_000,
        }.items()
    )


@pytest.mark.parametrize(
    ("words", "trunks"),
    [
        ("no labels (MoCo v1)", ["R-50"]),
        ("no labels (MoCo v2)", ["R-50"]),
        ("no labels (MoCo v3)", ["R-50"]),
        ("no labels (SwAV)", ["R-50"]),
        ("no labels (DeepCluster-v2)", ["R-50"]),
        ("no labels (DINO)", ["R-50"]),
        ("no labels (Barlow Twins)", ["R-50"]),
        ("no labels (VICReg)", ["R-50"]),
        ("no labels (SimSiam)", ["R-50"]),
        ("no labels (DenseCL)", ["R-50", "R-101"]),
        ("hashtags", ["X-101-32x8d", "X-101-32x16d", "X-101-32x32d", "X-101-32x48d"]),
        ("labels of a hashtag teacher", ["R-18", "R-50", "X-50-32x4d", "X-101-32x4d", "X-101-32x8d", "X-101-32x16d"]),
        (
            "labels of an ImageNet-1k teacher",
            ["R-18", "R-50", "X-50-32x4d", "X-101-32x4d", "X-101-32x8d", "X-101-32x16d"],
        ),
        ("image-text pairs", ["CLIP-R50", "CLIP-R101", "CLIP-R50x4"]),
        ("class labels in a hierarchy, from ImageNet-1k weights", ["R-50"]),
    ],
)
def test_every_kind_of_supervision_is_there(words: str, trunks: list[str]) -> None:
    assert {e.arch for e in PUBLIC if e.supervision == words} == set(trunks)


def test_the_class_labels_cover_the_trunks() -> None:
    trunks = {e.arch for e in PUBLIC if e.supervision == "class labels"}
    assert trunks >= {"R-18", "R-34", "R-50", "R-101", "R-152", "R-50-w128", "R-101-w128", "R-50-gn", "R-101-gn"}
    assert trunks >= {"X-50-32x4d", "X-101-32x8d", "X-101-64x4d", "ConvNeXt-T", "ConvNeXt-S", "BiT-R50x1"}


@pytest.fixture(scope="module")
def timm_records() -> dict[str, Any]:
    """timm's records of weights, by name and by the address of the original file."""
    import timm
    from timm.models import get_pretrained_cfg

    names = [n for pattern in ("*resne*", "convnext*") for n in timm.list_pretrained(pattern)]
    records = {name: get_pretrained_cfg(name, allow_unregistered=False) for name in names}
    return {**records, **{cfg.url: cfg for cfg in records.values() if isinstance(cfg.url, str) and cfg.url}}


@pytest.mark.parametrize("entry", PUBLIC, ids=ids)
def test_public_entries_say_what_timm_says(entry: Entry, timm_records: dict[str, Any]) -> None:
    cfg = timm_records.get(entry.timm or entry.url)
    if cfg is None:
        assert entry.timm is None, f"timm has no {entry.timm}"
        return
    assert entry.timm in (None, f"{cfg.architecture}.{cfg.tag}")
    assert entry.licence == cfg.license
    assert list(entry.pixel_mean) == pytest.approx([255 * v for v in cfg.mean], abs=1e-4)
    assert list(entry.pixel_std) == pytest.approx([255 * v for v in cfg.std], abs=1e-4)
    assert entry.channel_order == "RGB"
    if entry.trunk != "clip":  # of CLIP timm counts the embedding's dimensions as classes
        assert entry.labels == cfg.num_classes


def test_timm_records_most_of_them(timm_records: dict[str, Any]) -> None:
    """The comparison above is one: of 45 entries, by name or address."""
    assert sum((e.timm or e.url) in timm_records for e in PUBLIC) == 45


@pytest.mark.parametrize("entry", [e for e in PUBLIC if e.torchvision], ids=ids)
def test_entries_of_torchvision_say_what_it_says(entry: Entry) -> None:
    from torchvision.models import get_weight

    weights = get_weight(entry.torchvision)
    assert weights.url in [entry.url, *(copy["url"] for copy in entry.also)]
    preset = weights.transforms()
    assert list(entry.pixel_mean) == pytest.approx([255 * v for v in preset.mean])
    assert list(entry.pixel_std) == pytest.approx([255 * v for v in preset.std])
    assert entry.labels == len(weights.meta["categories"])


RESNETS = {e.spec: e for e in PUBLIC if e.trunk == "resnet"}


@pytest.mark.parametrize("spec", RESNETS, ids=lambda spec: f"{spec.name}{'-1x1' * spec.stride_in_1x1}")
def test_the_resnets_are_torchvisions(spec: Any) -> None:
    """Widths and groups, against torchvision's own constructor; GN's norms have no statistics, else it is the same."""
    import torch
    from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

    from scaleprior.backbones import to_detectron2
    from scaleprior.backbones.trunks.resnet import BLOCKS_PER_STAGE, names_and_shapes

    with torch.device("meta"):
        model = ResNet(
            Bottleneck if spec.depth >= 50 else BasicBlock,
            list(BLOCKS_PER_STAGE[spec.depth]),
            groups=spec.num_groups,
            width_per_group=spec.width_per_group,
        )
    theirs = {name: tuple(t.shape) for name, t in to_detectron2(model.state_dict()).items()}
    if spec.norm == "GN":
        theirs = {name: shape for name, shape in theirs.items() if "running" not in name}
    assert names_and_shapes(spec) == theirs


@pytest.mark.parametrize("entry", PUBLIC, ids=ids)
def test_facts_have_their_proof_and_hashes_stand_where_the_publisher_prints_them(entry: Entry) -> None:
    assert entry.comparable
    assert entry.source
    assert entry.publisher
    assert {"pixels", "trunk", "names"} <= set(entry.proof)
    printed = [(entry.url, entry.hash)] if entry.hash else []
    printed += [(copy["url"], copy["hash"]) for copy in entry.also]
    assert ("hash" in entry.proof) == bool(printed)
    for url, text in printed:
        algorithm, digits = text.split(":")
        if algorithm == "sha256":  # in the file's name, or OpenAI's folder
            assert f"-{digits}." in url or f"/{digits}/" in url
        else:
            assert entry.publisher == "facebookresearch's MoCo"


def test_a_hash_is_of_one_entry() -> None:
    hashes = [h for e in PUBLIC for h in (e.hash, *(copy["hash"] for copy in e.also)) if h]
    assert len(set(hashes)) == len(hashes) >= 40


@pytest.mark.parametrize("entry", PAPER, ids=ids)
def test_the_papers_commands_parse_and_their_configs_load(entry: Entry) -> None:
    assert entry.command is not None
    words = shlex.split(entry.command)
    assert words[0] == "scaleprior"
    args = build_parser().parse_args(words[1:])
    assert (args.command, str(args.out)) == ("pretrain", entry.name)
    cfg = load_config(args.config_file, args.opts).cfg
    assert entry.depth == cfg.MODEL.RESNETS.DEPTH
    assert cfg.PRETRAIN.CORPUS == "CORPUS"
    assert tuple(cfg.MODEL.PIXEL_MEAN) == entry.pixel_mean
    assert tuple(cfg.MODEL.PIXEL_STD) == entry.pixel_std
    lines = entry.detection_lines()
    assert f"MODEL.RESNETS.STRIDE_IN_1X1 {cfg.MODEL.RESNETS.STRIDE_IN_1X1}" in lines
    assert f"INPUT.FORMAT {cfg.INPUT.FORMAT}" in lines
    if entry.corpus == "JFT-300M":
        assert entry.images == cfg.PRETRAIN.FRACTION.IMAGES
    if "then" in entry.corpus:
        parent = cfg.MODEL.WEIGHTS.split("/")[0]
        assert CATALOGUE.find(parent).depth == entry.depth
        assert entry.images == cfg.PRETRAIN.FRACTION.IMAGES + CATALOGUE.find(parent).images
    else:
        assert cfg.MODEL.WEIGHTS == ""


@pytest.mark.parametrize("entry", list(CATALOGUE), ids=ids)
def test_detection_keys_are_keys_of_the_config(entry: Entry) -> None:
    cfg = load_config(None, shlex.split(" ".join(entry.detection_lines()))).cfg
    assert tuple(cfg.MODEL.PIXEL_MEAN) == entry.pixel_mean
    assert tuple(cfg.MODEL.PIXEL_STD) == entry.pixel_std
    assert entry.channel_order == cfg.INPUT.FORMAT
    if entry.trunk == "resnet":
        assert entry.spec == replace(ResNetSpec.from_config(cfg), norm=entry.spec.norm)
    else:
        assert (entry.model or entry.timm.split(".")[0]) == cfg.MODEL.TIMM.MODEL
        assert cfg.MODEL.BACKBONE.NAME == "build_timm_fpn_backbone"
    norm = {"BN": "FrozenBN"}.get(entry.spec.norm, entry.spec.norm)
    assert norm == cfg.MODEL.RESNETS.NORM


def test_unknown_names_list_near_ones() -> None:
    with pytest.raises(UserError, match=r"no backbone 'r-50-imagenet'; did you mean .*R-50-imagenet-1k"):
        CATALOGUE.find("r-50-imagenet")
    with pytest.raises(UserError, match="`scaleprior zoo list` shows all names"):
        CATALOGUE.find("@@@@")


GOOD: dict[str, Any] = {
    "trunk": "resnet", "depth": 50, "url": "https://example.org/a.pth", "corpus": "c", "images": 10,
    "supervision": "labels", "comparable": "no", "licence": "mit", "source": "s",
    "pixel_mean": [1, 2, 3], "pixel_std": [1, 1, 1],
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": None}, "entry x: key images is missing; give a whole number of at least 1"),
        ({"images": 0}, "entry x: key images is 0; give a whole number of at least 1"),
        ({"images": True}, "key images is True"),
        ({"image": 5}, "entry x: unknown key 'image'; known: trunk, "),
        ({"trunk": "vit"}, "key trunk is 'vit'; give one of resnet, bit, clip, convnext"),
        ({"url": "file:///etc/passwd"}, "key url is .*; give an http"),
        ({"sha256": "abc"}, "key sha256 is 'abc'; give 64 hexadecimal digits"),
        ({"pixel_mean": [1, 2]}, r"key pixel_mean is \[1, 2\]; give three numbers"),
        ({"pixel_std": [1, 2, float("nan")]}, "key pixel_std"),
        ({"timm": "resnet50.tv_in1k"}, "needs one of the keys timm and url"),
        ({"url": None}, "needs one of the keys timm and url"),
        ({"hash": "0676ba61"}, "key hash is '0676ba61'; give sha256: or md5: with 8 hexadecimal digits or more"),
        ({"hash": "sha256:0676BA61"}, "key hash is"),
        ({"hash": "md5:" + "0" * 33}, "key hash is"),
        ({"hash": "sha256:0676ba61", "sha256": "0" * 64}, "has the keys sha256 and hash; a whole SHA-256 is enough"),
        ({"url": None, "timm": "resnet50.a", "hash": "sha256:0676ba61"}, "has the keys timm and hash; .* go into also"),
        ({"also": [{"url": "https://e.org/a"}]}, "key also is .*; give a list, each keys and values: url .*, hash"),
        ({"proof": {"pixel": "somewhere"}}, "key proof is .*; give keys and values: pixels .text, if any., trunk"),
        ({"stride_in_1x1": "no"}, "key stride_in_1x1 is 'no'; give true or false"),
        ({"channel_order": "rgb"}, "key channel_order is 'rgb'; give one of RGB, BGR"),
        ({"norm_eps": -1e-5}, "key norm_eps is -1e-05; give a number of at least 0"),
        ({"norm": "XN"}, "entry x: MODEL.RESNETS.NORM is 'XN'; take one of BN"),
        ({"depth": 18, "groups": 32}, "entry x: ResNet-18 has basic blocks"),
        ({"trunk": "clip", "groups": 32}, "entry x: clip has no num_groups; its name tells the whole trunk"),
        ({"trunk": "clip", "model": "resnet50"}, "entry x: architecture 'resnet50' of timm is not known here"),
        ({"licence": " "}, "key licence is ' '; give text"),
    ],
)
def test_a_bad_entry_names_file_entry_and_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "public": {"x": {**GOOD, **change}}}))
    with pytest.raises(UserError, match=message) as caught:
        read_catalogue(path, sections=("public",))
    assert str(path) in str(caught.value)


def test_an_entry_by_address_says_what_its_trunk_is(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    change = {"depth": 101, "groups": 32, "width_per_group": 8, "stride_in_1x1": True, "channel_order": "BGR"}
    path.write_text(yaml.safe_dump({"schema": 1, "public": {"x": {**GOOD, **change, "norm_eps": 1e-3}}}))
    entry = read_catalogue(path, sections=("public",))["x"]
    assert entry.arch == "X-101-32x8d"
    assert entry.spec == ResNetSpec(depth=101, norm="BN", num_groups=32, width_per_group=8, stride_in_1x1=True)
    assert {"INPUT.FORMAT BGR", "MODEL.RESNETS.STRIDE_IN_1X1 True"} <= set(entry.detection_lines())
    facts = entry.facts("here")
    assert (facts.kind, facts.channel_order, facts.stride_in_1x1, facts.norm_eps) == ("publisher", "BGR", True, 1e-3)
    assert entry.to_dict()["parts"] == {"num_groups": 32, "width_per_group": 8, "stride_in_1x1": True}


def test_an_entry_that_says_no_eps_has_its_familys(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "public": {"x": GOOD, "y": {**GOOD, "trunk": "convnext"}}}))
    entries = read_catalogue(path, sections=("public",))
    assert (entries["x"].norm_eps, entries["y"].norm_eps) == (1e-5, 1e-6)


def test_pieces_that_entries_share_are_no_entries(tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(
        "schema: 1\nshared:\n  - &ours {trunk: resnet, corpus: c, images: 10, supervision: labels, comparable: none,\n"
        "      licence: mit, source: s, pixel_mean: [1, 2, 3], pixel_std: [1, 1, 1], depth: 50}\n"
        "public:\n  x: {<<: *ours, depth: 101, url: 'https://example.org/a.pth'}\n"
    )
    entries = read_catalogue(path, sections=("public",))
    assert [(e.name, e.depth, e.corpus) for e in entries.values()] == [("x", 101, "c")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("public: {}", "schema is None.*begin with schema: 1"),
        ("schema: 2", "schema is 2, this version of scaleprior reads 1; update scaleprior"),
        ("schema: 1\npulic: {}", "unknown section 'pulic'"),
        ("schema: 1\npublic: [1]", "section public is"),
        ("schema: 1\npublic: {../x: {}}", "has a name that cannot be part of a URI"),
        ("schema: 1\npublic: {x: 3}", "entry x: is 3"),
        ("schema: 1\npublic: {x: {}, x: {}}", "'x' is there twice"),
        ("a: [", "cannot be read"),
        ("- 1", "holds no mapping"),
    ],
)
def test_a_file_that_is_no_catalogue(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_catalogue(path, sections=("public",))


@pytest.mark.parametrize(
    ("key", "change", "message"),
    [
        (None, {"depths": [50, 51]}, "entry paper_grid: key depths"),
        ("jft-10m", {"parent": "imagnet"}, "paper_grid.jft-10m: key parent is 'imagnet'"),
        ("jft-10m", {"labels": "many"}, "paper_grid.jft-10m: key labels is 'many'"),
    ],
)
def test_a_bad_grid(tmp_path: Path, key: str | None, change: dict[str, Any], message: str) -> None:
    from scaleprior.config import data_file

    raw = yaml.safe_load(data_file("model_zoo", "zoo.yaml").read_text())
    grid = copy.deepcopy(raw["paper_grid"])
    (grid if key is None else grid["corpora"][key]).update(change)
    path = tmp_path / "zoo.yaml"
    path.write_text(yaml.safe_dump({"schema": 1, "paper_grid": grid}))
    with pytest.raises(UserError, match=message):
        read_catalogue(path, sections=("paper_grid",))


def test_added_backbones_have_the_facts_of_their_card(home: Path, backbone: Path) -> None:
    from scaleprior.backbones.weights import load_canonical

    entry = add_backbone(backbone, "mine-1")
    assert load_catalogue().find("mine-1") == entry
    assert (entry.kind, entry.arch, entry.images, entry.labels) == ("own", "R-50-w8", 1234, 9)
    assert entry.supervision == "labels of my-corpus (20% wrong)"
    assert (entry.corpus, entry.licence, entry.source) == ("my-corpus", "CC0", "a test")
    assert "MODEL.RESNETS.WIDTH_PER_GROUP 8" in entry.detection_lines()
    backbone.unlink()  # the zoo has its own copy
    _, card = load_canonical(local_path("scaleprior://mine-1"))
    assert card.name == "mine"
    assert "mine-1" not in load_catalogue(user=False).entries


def test_adding_refuses_what_it_must(home: Path, backbone: Path, tmp_path: Path) -> None:
    add_backbone(backbone, "mine")
    for taken in ("mine", "R-50-imagenet-1k"):
        with pytest.raises(UserError, match=f"already has a backbone '{taken}'"):
            add_backbone(backbone, taken)
    with pytest.raises(UserError, match=r"^name is '\.\./evil'"):
        add_backbone(backbone, "../evil")
    (tmp_path / "junk.safetensors").write_bytes(b"junk" * 10)
    with pytest.raises(UserError, match=r"junk\.safetensors is no kind of weights that is known here"):
        add_backbone(tmp_path / "junk.safetensors", "junk")
    (tmp_path / "cut.safetensors").write_bytes(backbone.read_bytes()[:-1000])
    with pytest.raises(UserError, match="lies outside the file"):
        add_backbone(tmp_path / "cut.safetensors", "cut")
    assert [e.name for e in load_catalogue() if e.kind == "own"] == ["mine"]


def test_a_users_entry_cannot_take_a_name_of_ours(home: Path) -> None:
    home.mkdir()
    (home / "zoo.yaml").write_text(yaml.safe_dump({"schema": 1, "public": {"R-50-imagenet-1k": GOOD}}))
    with pytest.raises(UserError, match="entry R-50-imagenet-1k: ScalePrior's own catalogue has that name"):
        load_catalogue()


def test_supervision_is_not_guessed_from_the_corpus() -> None:
    from scaleprior.backbones import Card, ResNetSpec

    facts: dict[str, Any] = {"corpus": {"name": "CC12M"}, "images": 5}
    card = Card("a", ResNetSpec(depth=50, norm="BN"), (1.0,) * 3, (1.0,) * 3, "RGB", **facts)
    assert supervision_of(card) == "unknown"
    assert supervision_of(replace(card, steps=1)) == "labels of CC12M"
    assert supervision_of(replace(card, steps=1, parent={"name": "b"})) == "labels of CC12M, after b"
    assert supervision_of(replace(card, steps=1, corpus={"name": "unknown"})) == "unknown"


def test_a_trunk_of_timm_can_be_added(home: Path, tmp_path: Path) -> None:
    from scaleprior.backbones import Card, TimmSpec, save_backbone
    from scaleprior.backbones.trunks.trunk import build_trunk

    arch = TimmSpec("resnet50_clip")
    state = build_trunk(arch).body.state_dict()
    card = Card("clip", arch, (1.0,) * 3, (1.0,) * 3, "RGB")
    save_backbone(tmp_path / "c.safetensors", {k: v for k, v in state.items() if "num_batches" not in k}, card)
    entry = add_backbone(tmp_path / "c.safetensors", "my-clip")
    assert load_catalogue().find("my-clip") == entry
    assert (entry.trunk, entry.depth, entry.arch) == ("clip", 50, "resnet50_clip")
    lines = entry.detection_lines()
    assert "MODEL.TIMM.MODEL resnet50_clip" in lines
    assert "MODEL.PIXEL_MEAN '[1.0, 1.0, 1.0]'" in lines


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: " + "[" * 5000, "nest"),
        ("a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [{f'*a{n - 1}, ' * 40}]\n" for n in range(1, 5)), "with aliases"),
        ("? [a, b]\n: 1\n", "cannot be read"),
        ("a: 2020-99-99", "cannot be read"),
        ("public: {\"\\e[2J\": {}}", "entry \\\\x1b"),
        ("schema: 1\npublic: {x: {trunk: [" + "a, " * 5000 + "]}}", r"trunk is \['a'"),
    ],
)  # fmt: skip
def test_a_catalogue_of_somebody_else_is_read_with_bounded_work(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "zoo.yaml"
    path.write_text(text if text.startswith("schema") else f"schema: 1\n{text}", encoding="utf-8")
    with pytest.raises(UserError, match=said) as refused:
        read_catalogue(path, sections=("public",))
    assert str(refused.value).isprintable()
    assert len(str(refused.value)) < 1000
