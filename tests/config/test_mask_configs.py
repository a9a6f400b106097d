"""The shipped Mask R-CNN configs: the Faster R-CNN ones with Detectron2's mask head, and nothing else."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from scaleprior.config import add_scaleprior_config, data_file, load_config
from scaleprior.config.dotted import flat_config
from scaleprior.detect.faster_rcnn.keys import check_keys
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names
from scaleprior.errors import UserError
from tests.config.test_detection_configs import DEPTHS, KINDS, laid_over

FOLDER = "COCO-InstanceSegmentation"
PLACE = data_file("configs", f"{FOLDER}/Base-Masks-FPN.yaml").parent
WEIGHTS = ("", "_imagenet", "_scratch")
GRID = [f"R_{depth}_{kind}{weights}" for depth, kind, weights in itertools.product(DEPTHS, KINDS, WEIGHTS)]
MASKS: dict[str, dict[str, Any]] = {
    "C4": {"MODEL.MASK_ON": True},
    "FPN": {"MODEL.MASK_ON": True, "MODEL.ROI_MASK_HEAD.NUM_CONV": 4},
}


def _values(name: str) -> dict[str, Any]:
    return dict(flat_config(load_config(name).cfg))


def test_the_grid_is_complete_and_there_is_nothing_else_like_it() -> None:
    leaves = {f"mask_rcnn_{name}" for name in GRID}
    assert {path.stem for path in PLACE.glob("*")} == leaves | {f"Base-Masks-{kind}" for kind in KINDS}


@pytest.mark.parametrize("name", GRID)
def test_masks_are_all_that_differs_from_faster_rcnn(name: str) -> None:
    plain, masks = (_values(f"{f}_rcnn_{name}.yaml") for f in ("COCO-Detection/faster", f"{FOLDER}/mask"))
    assert {key: value for key, value in masks.items() if value != plain[key]} == MASKS["C4" if "C4" in name else "FPN"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_lie_over_any_rung(kind: str, tmp_path: Any) -> None:
    rung = f"faster_rcnn_R_101_{kind}_jft30m"
    plain = _values(f"COCO-Detection/{rung}.yaml")
    masks = _values(str(laid_over(rung, f"../{FOLDER}/Base-Masks-{kind}", into=tmp_path)))
    assert {key: value for key, value in masks.items() if value != plain[key]} == MASKS[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_they_build_in_the_torchvision_engine(kind: str) -> None:
    cfg = load_config(f"{FOLDER}/mask_rcnn_R_50_{kind}.yaml").cfg
    check_keys(cfg)
    with torch.device("meta"):
        model = build_detector(cfg)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items() if ".mask_head." in name}
    convs = {"C4": 0, "FPN": 4}[kind]
    assert len(shapes) == 2 * (convs + 2)
    assert shapes["roi_heads.mask_head.deconv.weight"] == ({"C4": 2048, "FPN": 256}[kind], 256, 2, 2)
    assert shapes["roi_heads.mask_head.predictor.weight"] == (80, 256, 1, 1)


@pytest.mark.detectron2
@pytest.mark.parametrize(("name", "theirs"), [("R_50", "1x"), ("R_50", "3x"), ("R_101", "3x")])
@pytest.mark.parametrize("kind", KINDS)
def test_the_mask_head_is_that_of_detectron2s_zoo(name: str, theirs: str, kind: str) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from scaleprior.d2.plan import default_config
    from scaleprior.d2.zoo_files import zoo_file

    zoo = load_config(zoo_file(f"{FOLDER}/mask_rcnn_{name}_{kind}_{theirs}.yaml"), defaults=default_config()).cfg
    ours = load_config(f"{FOLDER}/mask_rcnn_{name}_{kind}.yaml", defaults=default_config()).cfg
    parts = ("MODEL.ROI_MASK_HEAD.", "MODEL.ROI_BOX_HEAD.", "MODEL.ROI_HEADS.", "INPUT.MASK_FORMAT", "MODEL.MASK_ON")
    for key, value in flat_config(zoo):
        if key.startswith(parts):
            assert dict(flat_config(ours))[key] == value, key


@pytest.mark.detectron2
@pytest.mark.parametrize("name", [name for name in GRID if name.startswith("R_50")])
def test_every_file_means_the_same_to_stock_detectron2(name: str) -> None:
    """The same values of all keys that both have, and the same parameters."""
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    theirs = get_cfg()
    add_scaleprior_config(theirs)
    theirs.merge_from_file(str(PLACE / f"mask_rcnn_{name}.yaml"))
    ours = load_config(f"{FOLDER}/mask_rcnn_{name}.yaml").cfg
    values = dict(flat_config(theirs))
    assert {k for k, v in flat_config(ours) if v != values[k]} == {"MODEL.DEVICE", "SEED"}
    if name.endswith("imagenet"):  # the same model as without weights
        return
    theirs.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        expected, model = build_model(theirs), build_detector(ours)
    names = model_names(model)
    shapes = {names[n]: tuple(p.shape) for n, p in model.named_parameters()}
    assert shapes == {n: tuple(p.shape) for n, p in expected.named_parameters()}


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", KINDS)
def test_detectron2s_own_files_load_as_they_are(kind: str) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from scaleprior.d2.zoo_files import zoo_file

    files = sorted(zoo_file(f"{FOLDER}/mask_rcnn_R_50_{kind}_1x.yaml").parent.glob(f"mask_rcnn_*_{kind}_[13]x.yaml"))
    assert len(files) >= 3
    for file in files:
        cfg = load_config(file).cfg
        check_keys(cfg)
        assert (True, {"C4": 0, "FPN": 4}[kind]) == (cfg.MODEL.MASK_ON, cfg.MODEL.ROI_MASK_HEAD.NUM_CONV)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.ROI_MASK_HEAD.NAME", "PointRendMaskHead", "is 'PointRendMaskHead'; that needs the detectron2 engine"),
        ("MODEL.ROI_MASK_HEAD.NORM", "LN", "is 'LN'; that needs the detectron2 engine"),
        ("MODEL.ROI_MASK_HEAD.POOLER_TYPE", "ROIPool", "is 'ROIPool'; that needs the detectron2 engine"),
        ("MODEL.ROI_MASK_HEAD.CONV_DIM", "0", "is 0; give a whole number of at least 1"),
        ("INPUT.MASK_FORMAT", "rle", "is 'rle'; take one of polygon, bitmask"),
    ],
)
def test_what_the_engine_has_not_is_refused_by_name_where_masks_are_on(key: str, value: str, message: str) -> None:
    with pytest.raises(UserError, match=f"{key} {message}"):
        check_keys(load_config(f"{FOLDER}/mask_rcnn_R_50_FPN.yaml", [key, value]).cfg)
    check_keys(load_config("COCO-Detection/faster_rcnn_R_50_FPN.yaml", [key, value]).cfg)  # there it does nothing


def test_keypoints_stay_refused() -> None:
    with pytest.raises(UserError, match=r"MODEL.KEYPOINT_ON: True .*needs the detectron2 engine"):
        load_config(f"{FOLDER}/mask_rcnn_R_50_FPN.yaml", ["MODEL.KEYPOINT_ON", "True"])
