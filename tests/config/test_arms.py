"""The arms of a comparison: each changes what its name says, over every config of the grid, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from scaleprior.config import load_config
from scaleprior.config.dotted import flat_config
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.errors import UserError
from tests.config.test_detection_configs import FOLDER, GRID, grid_name, laid_over

FROZEN, NORM, RATE = "MODEL.BACKBONE.FREEZE_AT", "MODEL.RESNETS.NORM", "SOLVER.BASE_LR"
GN_HEADS = {"MODEL.FPN.NORM": "GN", "MODEL.ROI_BOX_HEAD.NUM_CONV": 4, "MODEL.ROI_BOX_HEAD.NUM_FC": 1}
GN_HEADS |= {"MODEL.ROI_BOX_HEAD.NORM": "GN"}
SCRATCH = {"MODEL.WEIGHTS": "", FROZEN: 0, NORM: "GN", "SOLVER.MAX_ITER": 270_000, "SOLVER.STEPS": (210_000, 250_000)}
ARMS: dict[str, dict[str, Any]] = {
    "FrozenBN": {FROZEN: 2, NORM: "FrozenBN"},
    "BN": {FROZEN: 0, NORM: "BN"},
    "SyncBN": {FROZEN: 0, NORM: "SyncBN"},
    "GN-heads": GN_HEADS,
    "Scratch-FPN": SCRATCH | GN_HEADS,
    "Scratch-C4": SCRATCH,
    "LR-half": {RATE: 0.01},
    "LR-base": {RATE: 0.02},
    "LR-double": {RATE: 0.04},
}
IT_IS_NOT_USED = (
    r"ROI_BOX_HEAD.NAME is 'FastRCNNConvFCHead' with .*Res5ROIHeads, whose head is res5: it would not be used"
)
FPN_ONLY, C4_ONLY = ("GN-heads", "Scratch-FPN"), ("Scratch-C4",)


def test_every_arm_is_here() -> None:
    assert {path.stem for path in FOLDER.glob("Arm-*.yaml")} == {f"Arm-{name}" for name in ARMS}


@pytest.mark.parametrize("name", ARMS)
def test_an_arm_sets_what_its_name_says_over_every_config_of_the_grid(name: str, tmp_path: Path) -> None:
    for depth, kind, weights in GRID:
        if depth != 50:  # the grid's own test: depths differ in MODEL.RESNETS.DEPTH and weights only
            continue
        if (kind == "C4" and name in FPN_ONLY) or (kind == "FPN" and name in C4_ONLY):
            continue
        leaf = grid_name(depth, kind, weights)
        before = dict(flat_config(load_config(f"COCO-Detection/{leaf}.yaml").cfg))
        after = dict(flat_config(load_config(laid_over(leaf, f"Arm-{name}", into=tmp_path)).cfg))
        changed = {key: value for key, value in after.items() if value != before[key]}
        assert changed == {key: value for key, value in ARMS[name].items() if value != before[key]}, leaf


def test_the_named_defaults_change_nothing_over_a_pretrained_rung(tmp_path: Path) -> None:
    """A table of arms has a row for what Detectron2 does by itself; that row is the grid's own."""
    plain = load_config("COCO-Detection/faster_rcnn_R_50_C4_jft10m.yaml").cfg
    for name in ("FrozenBN", "LR-base"):
        assert load_config(laid_over("faster_rcnn_R_50_C4_jft10m", f"Arm-{name}", into=tmp_path)).cfg == plain


def test_the_rates_are_half_and_double_of_the_schedules() -> None:
    base = load_config("COCO-Detection/Base-Schedule-1x.yaml").cfg.SOLVER.BASE_LR
    assert base == load_config("COCO-Detection/Base-Schedule-3x.yaml").cfg.SOLVER.BASE_LR
    assert [ARMS[f"LR-{name}"][RATE] / base for name in ("half", "base", "double")] == [0.5, 1.0, 2.0]


@pytest.mark.parametrize("name", [name for name in ARMS if name not in C4_ONLY])
def test_arms_build_in_the_torchvision_engine(name: str, tmp_path: Path) -> None:
    cfg = load_config(laid_over("faster_rcnn_R_50_FPN_jft10m", f"Arm-{name}", into=tmp_path)).cfg
    with torch.device("meta"):
        build_detector(cfg)


@pytest.mark.parametrize("name", FPN_ONLY)
def test_what_is_for_a_pyramid_is_refused_over_c4(name: str, tmp_path: Path) -> None:
    """Its arm would be a repetition of the plain one under another name."""
    cfg = load_config(laid_over("faster_rcnn_R_50_C4_scratch", f"Arm-{name}", into=tmp_path)).cfg
    with pytest.raises(UserError, match=IT_IS_NOT_USED):
        check_keys(cfg)


@pytest.mark.detectron2
def test_so_it_is_by_the_plugin(tmp_path: Path) -> None:
    from scaleprior.d2.checks import check_builders
    from scaleprior.d2.plan import default_config, open_copy

    path = laid_over("faster_rcnn_R_50_C4_jft10m", "Arm-GN-heads", into=tmp_path)
    with pytest.raises(UserError, match=IT_IS_NOT_USED):
        check_builders(open_copy(load_config(path, defaults=default_config()).cfg))


@pytest.mark.detectron2
def test_scratch_is_detectron2s_own_recipe_but_for_what_the_file_says(tmp_path: Path) -> None:
    from detectron2.config import get_cfg

    from scaleprior.config import add_scaleprior_config
    from scaleprior.d2.zoo_files import zoo_file

    def read(path: Path) -> dict[str, Any]:
        cfg = get_cfg()
        add_scaleprior_config(cfg)
        cfg.merge_from_file(str(path), allow_unsafe=True)
        return dict(flat_config(cfg))

    theirs = read(zoo_file("Misc/scratch_mask_rcnn_R_50_FPN_3x_gn.yaml"))
    ours = read(laid_over("faster_rcnn_R_50_FPN_scratch", "Arm-Scratch-FPN", into=tmp_path))
    masks = {key for key in theirs if key.startswith("MODEL.ROI_MASK_HEAD.")} | {"MODEL.MASK_ON"}
    pixels = {"MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT"}
    differing = {key for key in theirs if theirs[key] != ours[key]} - masks
    assert differing == pixels | {"INPUT.MIN_SIZE_TRAIN"}
    # the same means, in the other order of the channels
    assert theirs["MODEL.PIXEL_MEAN"] == ours["MODEL.PIXEL_MEAN"][::-1]
