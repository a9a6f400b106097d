"""The shipped detection configs: they load, build, and differ in nothing but what their names say."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from scaleprior.backbones import Card, ResNetSpec, check_contract
from scaleprior.backbones.zoo import load_catalogue
from scaleprior.config import add_scaleprior_config, data_file, load_config
from scaleprior.config.batch import settled
from scaleprior.config.dotted import flat_config
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names

FOLDER = data_file("configs", "COCO-Detection/Base-Common.yaml").parent
DEPTHS = (50, 101, 152)
KINDS = ("C4", "FPN")
JFT_IMAGES = {"jft10m": 10_000_000, "jft30m": 30_000_000, "jft100m": 100_000_000, "jft300m": 300_000_000}
LADDER = ("imagenet_paper", *JFT_IMAGES, "imagenet_jft300m")  # one recipe of pretraining, the paper's
WEIGHTS = ("scratch", "imagenet", *LADDER)
TORCHVISION: set[str] = set()  # models that were built
DETECTRON2: set[str] = set()
GRID = list(itertools.product(DEPTHS, KINDS, WEIGHTS))


def grid_name(depth: int, kind: str, weights: str) -> str:
    return f"faster_rcnn_R_{depth}_{kind}_{weights}"


def _values(name: str, *overrides: str) -> dict[str, Any]:
    return dict(flat_config(load_config(f"COCO-Detection/{name}.yaml", overrides).cfg))


def _difference(a: dict[str, Any], b: dict[str, Any]) -> set[str]:
    return {key for key in a if a[key] != b[key]}


def _every_file() -> list[Path]:
    """Those that are a config by themselves; an arm is one only over another."""
    return [path for path in sorted(FOLDER.glob("*.yaml")) if not path.stem.startswith("Arm-")]


def laid_over(leaf: str, *pieces: str, into: Path) -> Path:
    """A file of a user's own: a config of the grid with pieces over it."""
    path = into / "mine.yaml"
    path.write_text(f"_BASE_: {[str(FOLDER / f'{name}.yaml') for name in (leaf, *pieces)]}\n")
    return path


def test_the_grid_is_complete_and_there_is_nothing_else_like_it() -> None:
    plain = {f"faster_rcnn_R_{depth}_{kind}" for depth in DEPTHS for kind in KINDS}
    found = {path.stem for path in _every_file() if path.stem.startswith("faster_rcnn")}
    assert found == {grid_name(*point) for point in GRID} | plain
    assert len(GRID) == 48


@pytest.mark.parametrize("path", _every_file(), ids=lambda p: p.stem)
def test_every_file_builds_in_the_torchvision_engine(path: Path) -> None:
    cfg = load_config(path).cfg
    check_keys(cfg)
    if _is_new(cfg, TORCHVISION):
        with torch.device("meta"):
            build_detector(cfg)


def _is_new(cfg: CfgNode, built: set[str]) -> bool:
    """Whether no file before described such a model: rungs that differ in weights and pixels have one, built once."""
    values = {k: v for k, v in flat_config(cfg) if k.startswith("MODEL.")}
    model = repr([values[k] for k in sorted(values.keys() - {"MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"})])
    new = model not in built
    built.add(model)
    return new


@pytest.mark.detectron2
@pytest.mark.parametrize("path", _every_file(), ids=lambda p: p.stem)
def test_every_file_means_the_same_to_stock_detectron2(path: Path) -> None:
    """The same values of all keys that both have, and the same parameters."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    theirs = get_cfg()
    add_scaleprior_config(theirs)
    theirs.merge_from_file(str(path))
    ours = load_config(path).cfg
    values = dict(flat_config(theirs))
    differing = {"MODEL.DEVICE", "SEED"}  # "auto" here, "cuda" there; a negative seed is 0 here
    assert {k for k, v in flat_config(ours) if v != values[k]} == differing
    if not _is_new(ours, DETECTRON2):
        return
    theirs.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        expected, model = build_model(theirs), build_detector(ours)
    names = model_names(model)
    shapes = {names[n]: tuple(p.shape) for n, p in model.named_parameters()}
    assert shapes == _shapes(expected)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize("kind", KINDS)
def test_within_a_detector_only_depth_and_weights_differ(kind: str) -> None:
    reference = _values(grid_name(50, kind, "imagenet"))
    pixels = {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}
    for depth, weights in itertools.product(DEPTHS, WEIGHTS):
        expected = set() if (depth, weights) == (50, "imagenet") else {"MODEL.WEIGHTS"}
        expected |= set() if depth == 50 else {"MODEL.RESNETS.DEPTH"}
        if weights == "scratch":  # what random weights need; Base-Scratch.yaml says why
            expected |= {"MODEL.RESNETS.NORM", "MODEL.BACKBONE.FREEZE_AT"}
        elif weights != "imagenet":
            expected |= pixels
        assert _difference(_values(grid_name(depth, kind, weights)), reference) == expected, (depth, weights)


@pytest.mark.parametrize("kind", KINDS)
def test_on_the_papers_ladder_any_two_configs_differ_in_weights_and_depth_alone(kind: str) -> None:
    """What the gain of R-152 over R-50 with data is read from: nothing else may be different, pixels included."""
    rungs = {(d, w): _values(grid_name(d, kind, w)) for d, w in itertools.product(DEPTHS, LADDER)}
    for (a, first), (b, second) in itertools.combinations(rungs.items(), 2):
        depth = {"MODEL.RESNETS.DEPTH"} if a[0] != b[0] else set()
        assert _difference(first, second) == {"MODEL.WEIGHTS"} | depth, (a, b)
    assert len({values["MODEL.WEIGHTS"] for values in rungs.values()}) == len(rungs)


def test_the_public_imagenet_rung_differs_from_the_papers_in_pixels_too() -> None:
    """Said in docs/detect.md: torchvision's recipe brought its own pixel statistics, so it is no rung of the ladder."""
    public, ours = (_values(grid_name(50, "C4", weights)) for weights in ("imagenet", "imagenet_paper"))
    assert _difference(public, ours) == {"MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD"}


def test_the_ladders_pretraining_differs_in_depth_and_on_imagenet_in_the_papers_schedule() -> None:
    def read(depth: int, corpus: str) -> dict[str, Any]:
        return dict(flat_config(settled(load_config(f"Pretrain/R_{depth}_{corpus}.yaml").cfg)))  # on one GPU

    schedule = {"OPTIMIZER.BASE_LR", "BUDGET.UNIT", "BUDGET.AMOUNT", "SCHEDULE.UNIT", "SCHEDULE.DECAY_EVERY"}
    for depth in DEPTHS:
        ours, jft = read(depth, "imagenet_paper"), read(depth, "jft")
        assert _difference(ours, jft) == {f"PRETRAIN.{key}" for key in schedule}
        for corpus, values in (("imagenet_paper", ours), ("jft", jft)):
            assert _difference(values, read(50, corpus)) == ({"MODEL.RESNETS.DEPTH"} if depth != 50 else set())
    ours = read(50, "imagenet_paper")
    assert ours["PRETRAIN.BUDGET.AMOUNT"] * ours["PRETRAIN.BATCH_SIZE"] / 1_281_167 == pytest.approx(125, abs=0.2)


def test_between_detectors_only_the_detector_differs() -> None:
    """C4 and FPN see the same images at the same size for as many steps."""
    parts = ("MODEL.BACKBONE.NAME", "MODEL.RESNETS.OUT_FEATURES", "MODEL.FPN.", "MODEL.ANCHOR_GENERATOR.", "MODEL.RPN.")
    parts += ("MODEL.ROI_HEADS.", "MODEL.ROI_BOX_HEAD.")
    for depth, weights in itertools.product(DEPTHS, WEIGHTS):
        differing = _difference(_values(grid_name(depth, "C4", weights)), _values(grid_name(depth, "FPN", weights)))
        assert differing
        assert not [key for key in differing if not key.startswith(parts)]


@pytest.mark.parametrize(("depth", "kind", "weights"), GRID)
def test_names_and_contents_agree(
    depth: int, kind: str, weights: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path))  # no catalogue but the shipped one
    values = _values(grid_name(depth, kind, weights))
    assert values["MODEL.RESNETS.DEPTH"] == depth
    assert values["MODEL.BACKBONE.NAME"] == {"C4": "build_resnet_backbone", "FPN": "build_resnet_fpn_backbone"}[kind]
    if weights == "scratch":
        assert values["MODEL.WEIGHTS"] == ""
        return
    entry = load_catalogue().entries[values["MODEL.WEIGHTS"].removeprefix("scaleprior://")]
    assert (entry.depth, entry.trunk) == (depth, "resnet")
    if weights in JFT_IMAGES:
        assert (entry.corpus, entry.images) == ("JFT-300M", JFT_IMAGES[weights])
    else:
        both = 1_281_167 + 300_000_000
        expected = {"imagenet": 1_281_167, "imagenet_paper": 1_281_167, "imagenet_jft300m": both}
        assert entry.images == expected[weights]
    assert entry.kind == ("public" if weights == "imagenet" else "paper")
    card = Card(entry.name, ResNetSpec(depth=depth, norm="BN"), entry.pixel_mean, entry.pixel_std, "RGB")
    assert check_contract(load_config(f"COCO-Detection/{grid_name(depth, kind, weights)}.yaml").cfg, card) == []


def test_what_the_paper_says_of_its_detector_is_set() -> None:
    """Sun et al. 2017: the last conv4 map, conv5 as the head, 14x14 ROI features, a single scale."""
    for depth, weights in itertools.product(DEPTHS, WEIGHTS):
        values = _values(grid_name(depth, "C4", weights))
        assert values["MODEL.RESNETS.OUT_FEATURES"] == values["MODEL.ROI_HEADS.IN_FEATURES"] == ["res4"]
        assert values["MODEL.ROI_HEADS.NAME"] == "Res5ROIHeads"
        assert values["MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION"] == 14
        assert values["INPUT.MIN_SIZE_TRAIN"] == (values["INPUT.MIN_SIZE_TEST"],)


def test_a_schedule_or_the_papers_data_are_one_more_base(tmp_path: Path) -> None:
    leaf = grid_name(101, "C4", "jft300m")
    before = _values(leaf)
    assert (before["SOLVER.MAX_ITER"], before["SOLVER.STEPS"]) == (90_000, (60_000, 80_000))
    bases = [str(FOLDER / f"{name}.yaml") for name in (leaf, "Base-Schedule-3x", "Base-Data-paper")]
    (tmp_path / "mine.yaml").write_text(f"_BASE_: {bases}\n")
    after = dict(flat_config(load_config(tmp_path / "mine.yaml").cfg))
    changed = {"SOLVER.MAX_ITER", "SOLVER.STEPS", "DATASETS.TRAIN", "DATASETS.TEST"}
    assert _difference(before, after) == changed
    # Detectron2's rule: three times as long, and the last two stages as long as in 2x
    assert after["SOLVER.MAX_ITER"] == 3 * 90_000
    assert after["SOLVER.STEPS"] == (270_000 - 60_000, 270_000 - 20_000)
    assert after["DATASETS.TRAIN"] == ("coco_2014_train", "coco_2014_valminusminival_8k")
    assert after["DATASETS.TEST"] == ("coco_2014_minival_8k",)


def test_leaves_are_a_few_lines_and_name_their_schedule() -> None:
    for point in GRID:
        text = (FOLDER / f"{grid_name(*point)}.yaml").read_text()
        assert len(text.splitlines()) <= 6
        assert "Base-Schedule-1x.yaml" in text.splitlines()[0]
