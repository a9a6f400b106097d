"""A study of backbones that exist already: fine-tune and evaluate only."""

from __future__ import annotations

import copy
import csv
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from scaleprior.backbones import (
    Card,
    ResNetSpec,
    TimmSpec,
    apply_card,
    build_resnet,
    build_trunk,
    convert_backbone,
    save_backbone,
    to_detectron2,
)
from scaleprior.backbones.trunks.published import Origin
from scaleprior.backbones.trunks.selection import spec_from_config
from scaleprior.backbones.weights import load_canonical
from scaleprior.backbones.zoo import add_backbone, load_catalogue
from scaleprior.config import load_config
from scaleprior.corpus import World, WorldSpec
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.errors import UserError
from scaleprior.laws import read_table
from scaleprior.study import load_spec, run_study
from scaleprior.study.cells import plan_cells
from scaleprior.study.prepare import prepare_data
from scaleprior.study.report.page import build_report
from scaleprior.study.rungs import describe_rungs
from tests.backbones.foreign import write_telling
from tests.study.conftest import TINY, run_study_command

IMAGES = (1_000, 10_000, 100_000, 1_000_000)
WIDTH = ResNetSpec(depth=50, norm="BN", width_per_group=16, res2_out_channels=64)


def write_backbone(path: Path, images: int | None, *, seed: int = 0, mean: float = 127.5) -> Card:
    torch.manual_seed(seed)
    card = Card(
        name=path.stem, arch=WIDTH, pixel_mean=(mean,) * 3, pixel_std=(127.5,) * 3, channel_order="RGB", images=images,
        corpus={"name": "made-up", "fingerprint": "f"}, licence="CC0",
    )  # fmt: skip
    return save_backbone(path, to_detectron2(build_resnet(WIDTH).state_dict()), card)


@pytest.fixture(scope="module")
def ladder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four narrow backbones and a tiny detection set."""
    folder = tmp_path_factory.mktemp("ladder")
    for i, images in enumerate(IMAGES):
        write_backbone(folder / f"b{images}.safetensors", images, seed=i)
    fields = {k: v for k, v in TINY["corpus"]["world"].items() if k not in ("seed", "images", "image_size")}
    world = World(WorldSpec.from_dict(fields), 3)
    for split, images in (("train", 12), ("val", 8)):
        world.write_detection(folder / "detection", split=split, images=images, canvas=48)
    return folder


def spec_file(folder: Path, ladder: Path, /, **changes: Any) -> Path:
    """The shipped study with local files in place of downloads and a short recipe."""
    shipped = load_spec_text()
    local = {
        "architectures": {"R-50": shipped["architectures"]["R-50"]},
        "detection": {
            split: {
                "json": str(ladder / "detection" / split / "instances.json"),
                "images": str(ladder / "detection" / split / "images"),
            }
            for split in ("train", "val")
        },
        "backbones": {"R-50": [{"weights": str(ladder / f"b{n}.safetensors")} for n in IMAGES]},
        "finetune": copy.deepcopy(TINY["finetune"]),
        "engine": "torchvision",
        "scratch": True,
    }
    path = folder / "local.yaml"
    path.write_text(yaml.safe_dump({**shipped, **local, **changes}), encoding="utf-8")
    return path


def load_spec_text() -> dict[str, Any]:
    from scaleprior.config import data_file

    return yaml.safe_load(data_file("configs", "studies/public_ladder.yaml").read_text(encoding="utf-8"))


def test_the_shipped_study_names_backbones_of_the_zoo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", "/data")
    spec = load_spec("studies/public_ladder.yaml")
    assert spec.corpus is None
    assert spec.pretrain is None
    assert list(spec.backbones) == list(spec.architectures) == ["R-50", "CLIP-R50", "BiT-R50x1"]
    images = {}
    for name, rungs in spec.backbones.items():
        entries = [load_catalogue(user=False).find(b.weights.split("//")[1]) for b in rungs]
        assert {e.arch for e in entries} == {name}
        images[name] = [e.images for e in entries]
        loaded = load_config(spec.finetune.config, spec.finetune.overrides + spec.architectures[name])
        for entry in entries:  # the shipped fine-tuning config fits the cards that these names get
            plain = entry.trunk == "resnet"
            arch = ResNetSpec(depth=entry.depth, norm="BN") if plain else TimmSpec(entry.timm.split(".")[0])
            cfg = apply_card(loaded, Card(entry.name, arch, entry.pixel_mean, entry.pixel_std, "RGB"))
            check_keys(cfg)
            assert spec_from_config(cfg) == (arch if not plain else ResNetSpec(depth=50, norm="FrozenBN"))
            assert spec_from_config(loaded.cfg) == spec_from_config(cfg)  # also without a card, as a cell from scratch
    assert images == {
        "R-50": [1_281_167, 90_000_000, 940_000_000],
        "CLIP-R50": [12_000_000, 15_000_000, 400_000_000],
        "BiT-R50x1": [14_200_000],
    }


@pytest.mark.slow
def test_rungs_of_clip_and_bit_run_to_the_end(ladder: Path, tmp_path: Path) -> None:
    """The shipped architectures with small files in place of the downloads: each trunk is a curve of its own."""
    facts, rungs = load_spec_text()["architectures"], {}
    del facts["R-50"]  # has a test of its own below
    for name, model, images in (("CLIP-R50", "resnet50_clip", 12_000), ("BiT-R50x1", "resnetv2_50x1_bit", 14_200)):
        torch.manual_seed(0)
        state = {k: v for k, v in build_trunk(TimmSpec(model)).body.state_dict().items() if v.ndim}
        pixels = [tuple(map(float, facts[name][f"MODEL.PIXEL_{key}"])) for key in ("MEAN", "STD")]
        corpus = {"name": "made-up", "fingerprint": "f"}
        card = Card(name, TimmSpec(model), *pixels, "RGB", images=images, corpus=corpus)
        save_backbone(tmp_path / f"{name}.safetensors", state, card)
        rungs[name] = [{"weights": f"{name}.safetensors"}]
    # quickstart's config sets BN, which CLIP's weights fit, too; the shipped BiT architecture says GN itself
    path = spec_file(tmp_path, ladder, architectures=facts, backbones=rungs, scratch=False)
    run = run_study_command(path, tmp_path / "out", "--jobs", "1")
    assert run.returncode == 0, run.stderr
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        found = [(r["arch"], int(r["images"]), r["engine"]) for r in csv.DictReader(file)]
    assert sorted(found) == [("BiT-R50x1", 14_200, "torchvision"), ("CLIP-R50", 12_000, "torchvision")]
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Missing cells" not in page
    assert "CLIP-R50: no law: " in page


@pytest.mark.slow
def test_it_runs_to_the_end_with_local_files(ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two rungs by path, two by name; then again with the files elsewhere: a cell is its tensors, not their path."""
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    rungs: list[dict[str, Any]] = [{"weights": str(ladder / f"b{n}.safetensors")} for n in IMAGES]
    for i in (1, 3):
        add_backbone(ladder / f"b{IMAGES[i]}.safetensors", f"mine-{i}")
        rungs[i] = {"weights": f"scaleprior://mine-{i}"}
    rungs[0]["supervision"] = rungs[1]["supervision"] = "labels of made-up"
    rungs[2] = {**rungs[2], "images": IMAGES[2], "supervision": "captions"}
    out = tmp_path / "out"
    run = run_study_command(spec_file(tmp_path, ladder, backbones={"R-50": rungs}), out, "--jobs", "1")
    assert run.returncode == 0, run.stderr
    with open(out / "results.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert [int(r["images"]) for r in found] == [0, *IMAGES]
    assert [r["images_seen"] for r in found] == ["0", "", "", "", ""]
    assert all(0 <= float(r["ap"]) <= 100 for r in found)
    assert {r["engine"] for r in found} == {"torchvision"}
    for page in ((out / "report.md").read_text(), (out / "report.html").read_text()):
        assert "backbone R-50, 1,000,000 images" in page
        assert "b1000: made-up; supervision: labels of made-up; licence: CC0; tensors " in page
        assert "10,000 and 100,000 images: NOT comparable by images alone (labels of made-up against captions)" in page
        assert "100,000 and 1,000,000 images: not known, a supervision is unknown" in page
        assert "1,000 and 10,000 images: " not in page
        assert "elsewhere" in page
        assert "Missing cells" not in page
        assert "a picture, not a slope" in page
        assert "per tenfold pretraining images" not in page.split("<figcaption>")[0]

    (note,) = read_table(out / "results.csv").notes
    assert note.startswith("R-50, as its study says: 10,000 and 100,000 images: NOT comparable by images alone (")

    moved = tmp_path / "moved"
    moved.mkdir()
    for n in IMAGES:
        shutil.copy(ladder / f"b{n}.safetensors", moved)
    rungs = [{"weights": f"moved/b{n}.safetensors"} for n in IMAGES]
    again = run_study(load_spec(spec_file(tmp_path, ladder, backbones={"R-50": rungs})), out)
    assert again.ran == 0
    assert build_report(again.view).missing == ()


def plan(path: Path, out: Path) -> list[Any]:
    spec = load_spec(path)
    return plan_cells(spec, prepare_data(spec, out), "torchvision")


def test_a_foreign_files_cell_is_that_of_its_conversion(
    ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    (tmp_path / "plain.yaml").write_text("SEED: 0\n")  # pixels not set here follow the card
    source = write_telling(tmp_path / "x.pth", spec=WIDTH)
    convert_backbone(source, tmp_path / "x.safetensors")
    keys = []
    for weights in ("x.pth", "x.safetensors", f"file://{source}"):
        rungs = {"R-50": [{"weights": weights, "images": 5}]}
        path = spec_file(tmp_path, ladder, backbones=rungs, scratch=False, finetune={"config": "plain.yaml"})
        (cell,) = plan(path, tmp_path / "out")
        keys.append(cell.key)
    assert len(set(keys)) == 1


def test_a_key_changes_with_tensors_and_with_the_contract(ladder: Path, tmp_path: Path) -> None:
    """The same tensors that want other pixels give another result, so they are another cell."""
    (tmp_path / "plain.yaml").write_text("SEED: 0\n")  # pixels not set here follow the card
    finetune = {"config": "plain.yaml"}
    keys = set()
    for name, seed, mean in (("a", 0, 127.5), ("b", 1, 127.5), ("c", 0, 100.0), ("d", 0, 127.5)):
        write_backbone(tmp_path / f"{name}.safetensors", 5, seed=seed, mean=mean)
        rungs = {"R-50": [{"weights": f"{name}.safetensors"}]}
        path = spec_file(tmp_path, ladder, backbones=rungs, scratch=False, finetune=finetune)
        (cell,) = plan(path, tmp_path / "out")
        assert (cell.images, cell.pretrain) == (5, None)
        keys.add(cell.key)
    assert len(keys) == 3


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ([{"weights": "x.safetensors", "images": 6}], r"images is 6, the card of .*x\.safetensors says 5"),
        (
            [{"weights": "unknown.safetensors"}],
            "neither the spec nor the card of .* says how many images; write images",
        ),
        ([{"weights": "x.safetensors"}, {"weights": "unknown.safetensors", "images": 5}], "x and unknown, both of 5"),
        (
            [{"weights": "x.safetensors"}, {"weights": "twin.safetensors"}],
            "x.safetensors and twin.safetensors hold the",
        ),
        ([{"weights": "none.safetensors"}], r"backbones\.R-50: weights not found: .*none\.safetensors"),
        ([{"weights": "foreign.pth"}], "backbones.R-50: .*foreign.pth is no kind of weights that is known here"),
        (
            [{"weights": "https://example.org/r50.pth"}],
            r"weights https://example\.org/r50\.pth: this is an address on the web",
        ),
        ([{"weights": "paper-R-50-jft-10m"}], "did you mean scaleprior://paper-R-50-jft-10m"),
        ([{"weights": "scaleprior://none"}], "the zoo has no backbone 'none'"),
        ([{"weights": "scaleprior://paper-R-50-jft-10m"}], "are not public"),
    ],
)
def test_bad_backbones_are_known_before_anything_trains(
    ladder: Path, tmp_path: Path, rungs: list[dict[str, Any]], message: str
) -> None:
    write_backbone(tmp_path / "x.safetensors", 5, seed=1)
    write_backbone(tmp_path / "twin.safetensors", 7, seed=1)
    write_backbone(tmp_path / "unknown.safetensors", None, seed=2)
    (tmp_path / "foreign.pth").write_bytes(b"PK" * 100)
    with pytest.raises(UserError, match=message):
        plan(spec_file(tmp_path, ladder, backbones={"R-50": rungs}), tmp_path / "out")


def test_assumed_facts_are_said_once_for_each_backbone(
    ladder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    card = write_backbone(tmp_path / "w.safetensors", 5, seed=9)
    tensors, _ = load_canonical(tmp_path / "w.safetensors")
    facts = {"norm_eps": Origin("assumed", "usual values")}
    save_backbone(tmp_path / "w.safetensors", tensors, replace(card, facts=facts))
    rungs = [{"weights": str(tmp_path / "w.safetensors")}, {"weights": str(ladder / "b1000.safetensors")}]
    spec = load_spec(spec_file(tmp_path, ladder, backbones={"R-50": rungs}, seeds=[0, 1]))
    data = prepare_data(spec, tmp_path / "out")
    assert len(plan_cells(spec, data, "torchvision")) > 3
    assert caplog.text.count("assumed, not known, of backbone w: norm_eps 1e-05 (usual values)") == 1
    assert caplog.text.count("assumed, ") == 1
    described = describe_rungs(data.backbones)
    assert described["backbone R-50, 5 images"].endswith("; assumed: norm_eps")
    assert "assumed" not in described["backbone R-50, 1,000 images"]


def test_a_config_that_contradicts_a_card_is_refused(ladder: Path, tmp_path: Path) -> None:
    architectures = {"R-50": {"MODEL.RESNETS.DEPTH": 101}}
    with pytest.raises(UserError, match=r"contradicts the card of backbone b1000.*use MODEL\.RESNETS\.DEPTH 50"):
        plan(spec_file(tmp_path, ladder, architectures=architectures), tmp_path / "out")


def test_a_file_replaced_after_planning_fails_its_cell(ladder: Path, tmp_path: Path) -> None:
    from scaleprior.study.worker import _given_weights

    write_backbone(tmp_path / "x.safetensors", 5, seed=1)
    rungs = {"R-50": [{"weights": "x.safetensors"}]}
    (cell,) = plan(spec_file(tmp_path, ladder, backbones=rungs, scratch=False), tmp_path / "out")
    assert _given_weights(cell) == tmp_path / "x.safetensors"
    write_backbone(tmp_path / "x.safetensors", 5, seed=2)
    with pytest.raises(UserError, match="was replaced after this cell was planned"):
        _given_weights(cell)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ladder": [1]}, "has backbones and ladder; keep backbones"),
        ({"corpus": {"index": "x"}, "pretrain": {"config": "y"}}, "has backbones and corpus, pretrain"),
        ({"noise": {"rate": 0.1}}, "has backbones and noise"),
        ({"backbones": {"R-101": []}}, r"given for \['R-101'\], architectures are \['R-50'\]"),
        ({"backbones": {"R-50": []}}, "list at least one backbone"),
        ({"backbones": {"R-50": ["a.safetensors"]}}, "backbones.R-50 has 'a.safetensors'; write"),
        ({"backbones": {"R-50": [{"weight": "a"}]}}, "unknown key 'weight' in section .*; did you mean 'weights'"),
        ({"backbones": {"R-50": [{"images": 5}]}}, "weights is None, expected a path"),
        ({"backbones": {"R-50": [{"weights": "a", "images": 0}]}}, "images is 0"),
        ({"backbones": {"R-50": [{"weights": "a", "supervision": 3}]}}, "supervision is 3"),
        ({"backbones": [1]}, "backbones is .*, expected a section"),
        ({"detection": {"world": {"train": 1, "val": 1, "canvas": 64}}}, "detection.world needs corpus.world"),
    ],
)
def test_bad_specs_name_the_key(ladder: Path, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_spec(spec_file(tmp_path, ladder, **changes))
    assert "local.yaml" in str(caught.value)


def test_a_name_of_the_zoo_serves_as_model_weights(
    ladder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``MODEL.WEIGHTS scaleprior://NAME``: the detector starts from that very backbone."""
    from scaleprior.detect import get_engine

    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    add_backbone(ladder / "b10000.safetensors", "mine")
    sets = [[s, str(ladder / "detection" / s / "instances.json"), str(ladder / "detection" / s / "images")]
            for s in ("train", "val")]  # fmt: skip
    short = [x for k, v in TINY["finetune"]["overrides"].items() for x in (k, str(v))]
    models = [
        get_engine("torchvision").train(
            load_config("COCO-Detection/quickstart_FPN.yaml", [*short, "SCALEPRIOR.DATASETS", repr(sets), *weights]),
            path,
            tmp_path / str(number),
        )
        for number, (weights, path) in enumerate(
            [(["MODEL.WEIGHTS", "scaleprior://mine"], None), ([], ladder / "b10000.safetensors"), ([], None)]
        )
    ]
    by_name, by_path, scratch = (load_file(m)["backbone.bottom_up.res2.0.conv1.weight"] for m in models)
    assert torch.equal(by_name, by_path)
    assert not torch.equal(by_name, scratch)
