"""What tells results apart: the shipped grid is one comparison, and every arm and override is another one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.backbones.zoo import load_catalogue
from scaleprior.config import get_cfg, load_config
from scaleprior.detect.identity import TUNING, detector_words, ladder_of, settings_of_test, tuning_of
from scaleprior.pretrain.recipe import recipe_of

GRID = sorted(Path("configs/COCO-Detection").glob("faster_rcnn_*.yaml"))
MASKS = "COCO-InstanceSegmentation"
HALF = (127.5, 127.5, 127.5)


def identity(cfg: Any) -> tuple[Any, ...]:
    return (detector_words(cfg), *tuning_of(cfg).values(), settings_of_test(cfg))


def pretrained(images: int, depth: int = 50, *, seed: int = 0, words: tuple[Any, ...] = (), **card: Any) -> Card:
    cfg = get_cfg()
    cfg.merge_from_list(["PRETRAIN.FRACTION.IMAGES", images, "SEED", seed, "MODEL.RESNETS.DEPTH", depth, *words])
    facts = {"corpus": {"name": "jft", "fingerprint": str(images)}, "images": images, "steps": images, **card}
    return Card(f"R-{depth}_{images}_seed{seed}", ResNetSpec(depth), HALF, HALF, "RGB", recipe=recipe_of(cfg), **facts)


def test_the_grid_of_depths_and_weights_is_one_comparison_of_each_detector() -> None:
    """Scratch differs in what it must: nothing frozen, GroupNorm."""
    assert len(GRID) >= 48
    found: dict[tuple[Any, ...], set[str]] = {}
    for path in GRID:
        kind = "C4" if "C4" in path.stem else "FPN"
        found.setdefault(identity(load_config(str(path)).cfg), set()).add(
            f"{kind} scratch" if "scratch" in path.stem else kind
        )
    assert sorted(map(sorted, found.values())) == [["C4"], ["C4 scratch"], ["FPN"], ["FPN scratch"]]


def test_masks_are_said_by_the_detector_and_how_they_are_found_by_its_settings() -> None:
    """Of a detector without masks no word of the mask head counts."""
    plain, masks = (load_config(f"{name}_rcnn_R_50_C4.yaml").cfg for name in ("COCO-Detection/faster", f"{MASKS}/mask"))
    assert detector_words(masks) == f"{detector_words(plain)}+masks"
    assert tuning_of(masks) == tuning_of(plain)  # C4's mask head is all at its defaults
    described = ["MODEL.ROI_MASK_HEAD.NUM_CONV", 4, "INPUT.MASK_FORMAT", "bitmask"]
    changed = load_config(f"{MASKS}/mask_rcnn_R_50_C4.yaml", described).cfg
    assert {c for c, v in tuning_of(changed).items() if v != tuning_of(masks)[c]} == {"settings", "detector_settings"}
    assert identity(load_config("COCO-Detection/faster_rcnn_R_50_C4.yaml", described).cfg) == identity(plain)


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["C4", "FPN"])
def test_two_engines_say_the_same_of_the_same_mask_rcnn(kind: str) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from scaleprior.d2.plan import default_config

    ours, theirs = (
        load_config(f"{MASKS}/mask_rcnn_R_50_{kind}.yaml", ["MODEL.DEVICE", "cpu"], defaults=defaults).cfg
        for defaults in (get_cfg(), default_config())
    )
    assert identity(ours) == identity(theirs)


@pytest.mark.parametrize(
    ("words", "column"),
    [
        (["SOLVER.IMS_PER_BATCH", 8], "batch_size"),
        (["SOLVER.BASE_LR", 0.01], "base_lr"),
        (["MODEL.BACKBONE.FREEZE_AT", 0], "freeze_at"),
        (["MODEL.RESNETS.NORM", "BN"], "norm"),
        (["DATASETS.TRAIN", ("coco_2014_train",)], "trained_on"),
        (["SOLVER.WEIGHT_DECAY", 0.0], "settings"),
        (["SOLVER.STEPS", (1, 2)], "settings"),
        (["INPUT.MIN_SIZE_TRAIN", (640, 800)], "settings"),
        (["MODEL.FPN.NORM", "GN"], "detector_settings"),
        (["MODEL.RPN.POST_NMS_TOPK_TRAIN", 500], "detector_settings"),
    ],
)
def test_a_setting_of_the_fine_tuning_changes_one_column(words: list[Any], column: str) -> None:
    plain, other = (tuning_of(load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", w).cfg) for w in ([], words))
    assert tuple(plain) == TUNING
    assert [name for name in TUNING if plain[name] != other[name]] == [column]


@pytest.mark.parametrize(
    "words",
    [
        ["SEED", 7],
        ["MODEL.WEIGHTS", "w.safetensors"],
        ["MODEL.RESNETS.DEPTH", 152],
        ["MODEL.RESNETS.STRIDE_IN_1X1", False],
        ["MODEL.PIXEL_STD", [58.0, 57.0, 57.0], "INPUT.FORMAT", "RGB"],
        ["SCALEPRIOR.DATASETS", [["mine", "/a/train.json", "/a/images"]]],
        ["MODEL.ROI_HEADS.NUM_CLASSES", 3],
        ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", 0, "OUTPUT_DIR", "elsewhere"],
        ["SCALEPRIOR.RESULTS", "all.csv", "SOLVER.CHECKPOINT_PERIOD", 5],
        ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", "resnet50"],
    ],
)
def test_what_a_comparison_varies_and_bookkeeping_change_nothing(words: list[Any]) -> None:
    plain, other = (load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", w).cfg for w in ([], words))
    assert identity(plain) == identity(other)


def test_another_measurement_is_told_apart_from_another_training() -> None:
    plain = load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml").cfg
    for words in (
        ["INPUT.MIN_SIZE_TEST", 400],
        ["TEST.DETECTIONS_PER_IMAGE", 300],
        ["MODEL.RPN.POST_NMS_TOPK_TEST", 9],
    ):
        other = load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", words).cfg
        assert tuning_of(other) == tuning_of(plain)
        assert settings_of_test(other) != settings_of_test(plain)


def test_rungs_of_one_recipe_are_one_ladder_over_depths_and_seeds() -> None:
    start = {"name": "R-50_imagenet-1000_seed0", "tensors_sha256": "ff"}
    one = ladder_of(pretrained(1000, parent=start))
    assert (one["corpus"], one["comparable"]) == ("jft", "yes")
    assert one["recipe"].startswith("custom-")
    assert one == ladder_of(pretrained(4000, seed=3, parent={**start, "name": "R-50_imagenet-1000_seed3"}))
    assert one == ladder_of(pretrained(4000, depth=152, parent={**start, "name": "R-152_imagenet-1000_seed0"}))


@pytest.mark.parametrize(
    "other",
    [
        pretrained(1000, words=("PRETRAIN.BUDGET.AMOUNT", 8.0)),
        pretrained(1000, words=("PRETRAIN.NOISE.RATE", 0.2)),
        pretrained(1000, words=("PRETRAIN.RECIPE", "paper")),
        pretrained(1000, parent={"name": "R-50_imagenet-1000_seed0", "tensors_sha256": "ff"}),
        replace(pretrained(1000), pixel_std=(58.0, 57.0, 57.0)),
    ],
    ids=["longer", "noisy", "named", "another start", "other pixels"],
)
def test_another_recipe_is_another_ladder(other: Card) -> None:
    assert ladder_of(other)["recipe"] != ladder_of(pretrained(1000))["recipe"]


def test_a_public_backbone_is_not_comparable_and_one_that_nobody_knows_is_unknown() -> None:
    entry = load_catalogue().find("R-50-imagenet-1k")
    card = Card(entry.name, ResNetSpec(50), entry.pixel_mean, entry.pixel_std, "RGB", images=entry.images)
    assert ladder_of(replace(card, corpus={"name": "ImageNet-1k"})) == {
        "corpus": "ImageNet-1k", "recipe": "", "comparable": "no",
    }  # fmt: skip
    assert ladder_of(replace(card, arch=ResNetSpec(152)))["comparable"] == ""  # a namesake
    assert ladder_of(replace(card, name="mine")) == {"corpus": "", "recipe": "", "comparable": ""}
    assert ladder_of(None) == {"corpus": "", "recipe": "", "comparable": ""}


def test_an_entry_of_one_s_own_group_says_whether_it_is_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path))
    text = """schema: 1
public:
  ours-{}: {{trunk: resnet, depth: 50, url: "https://example.org/a.pth", corpus: ours, images: 5000000,
    supervision: class labels, comparable: "{}", licence: mit, source: us, pixel_mean: [1, 1, 1], pixel_std: [1, 1, 1]}}
"""
    card = Card("ours-a", ResNetSpec(50), HALF, HALF, "RGB")
    for said, answer in (("Yes, a rung of ours", "yes"), ("no: another loss", "no"), ("Nobody knows", "no")):
        (tmp_path / "zoo.yaml").write_text(text.format("a", said))
        assert ladder_of(card)["comparable"] == answer
    (tmp_path / "zoo.yaml").write_text("[")  # the row of a finished run is not lost for that
    assert ladder_of(card)["comparable"] == ""
