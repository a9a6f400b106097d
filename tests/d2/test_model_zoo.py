"""Detectron2's own zoo configs around another backbone: built, and trained for a few steps."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

import scaleprior.model_zoo
from scaleprior.backbones import ResNetSpec
from scaleprior.d2 import add_scaleprior_config, register_coco
from scaleprior.d2.zoo_files import zoo_file
from scaleprior.errors import UserError
from tests.d2.conftest import NARROW, backbone_file
from tests.detect.conftest import make_coco

SMALL = [
    *("MODEL.FPN.OUT_CHANNELS", 8, "MODEL.ROI_BOX_HEAD.FC_DIM", 16, "MODEL.ROI_MASK_HEAD.CONV_DIM", 8),
    *("MODEL.RPN.POST_NMS_TOPK_TRAIN", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    *("INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64, "DATALOADER.NUM_WORKERS", 0),
    *("SOLVER.IMS_PER_BATCH", 2, "SOLVER.MAX_ITER", 3, "SOLVER.BASE_LR", 1e-5, "DATASETS.TEST", ()),
    *("MODEL.DEVICE", "cpu", "DATASETS.TRAIN", ("zoo_set",)),
]


def with_squares(data: dict[str, Any]) -> None:
    """Masks for Mask R-CNN: each box as a polygon."""
    for annotation in data["annotations"]:
        x, y, w, h = annotation["bbox"]
        annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.mark.parametrize(
    ("config", "losses"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", {"loss_cls", "loss_box_reg"}),
        ("COCO-Detection/faster_rcnn_R_101_C4_3x.yaml", {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}),
        (
            "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
            {"loss_cls", "loss_box_reg", "loss_mask", "loss_rpn_cls", "loss_rpn_loc"},
        ),
        (
            "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
            {*(f"loss_{part}_stage{i}" for part in ("cls", "box_reg") for i in range(3))}
            | {"loss_mask", "loss_rpn_cls", "loss_rpn_loc"},
        ),
    ],
    ids=["retinanet", "faster_rcnn_c4", "mask_rcnn", "cascade"],
)
def test_it_trains_under_the_stock_trainer(config: str, losses: set[str], tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data", change=with_squares)
    register_coco("zoo_set", path, root)
    backbone_file(tmp_path / "w.safetensors")
    cfg = scaleprior.model_zoo.with_backbone(config, tmp_path / "w.safetensors")
    assert cfg.MODEL.RESNETS.DEPTH == 50
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == 16
    assert (cfg.MODEL.PIXEL_STD, cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.STRIDE_IN_1X1) == ([127.5] * 3, "RGB", False)
    cfg.merge_from_list([*SMALL, "OUTPUT_DIR", str(tmp_path / "out")])
    trainer = DefaultTrainer(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()
    history = trainer.storage.histories()
    assert losses <= set(history)
    assert all(math.isfinite(history[name].latest()) for name in losses)


def test_only_what_the_card_speaks_of_changes(tmp_path: Path) -> None:
    card = backbone_file(tmp_path / "w.safetensors", ResNetSpec(depth=152))
    config = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml"
    cfg = scaleprior.model_zoo.with_backbone(config, tmp_path / "w.safetensors")
    stock = get_cfg()
    stock.merge_from_file(str(zoo_file(config)))
    from scaleprior.config.dotted import flat_config

    before, after = dict(flat_config(stock)), dict(flat_config(cfg))
    changed = {key for key, value in before.items() if after[key] != value}
    assert changed - {"MODEL.DEVICE"} == {
        "MODEL.WEIGHTS", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD", "INPUT.FORMAT", "MODEL.RESNETS.DEPTH",
        "MODEL.RESNETS.STRIDE_IN_1X1",
    }  # fmt: skip
    ours = {key for key in set(after) - set(before) if key.split(".")[0] not in ("SCALEPRIOR", "PRETRAIN")}
    assert all(".TIMM." in key or key == "MODEL.NORM_EPS" for key in ours)
    assert str(tmp_path / "w.safetensors") == cfg.MODEL.WEIGHTS
    assert card.arch.depth == cfg.MODEL.RESNETS.DEPTH


def test_a_norm_that_fits_stays_and_one_that_does_not_is_replaced(tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", ResNetSpec(depth=50, norm="GN"))
    config = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"
    assert scaleprior.model_zoo.with_backbone(config, tmp_path / "w.safetensors").MODEL.RESNETS.NORM == "GN"
    backbone_file(tmp_path / "w.safetensors")
    words = ["MODEL.RESNETS.NORM", "SyncBN"]
    assert scaleprior.model_zoo.with_backbone(config, tmp_path / "w.safetensors", words).MODEL.RESNETS.NORM == "SyncBN"


def test_bad_words_are_named(tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", NARROW)
    build = scaleprior.model_zoo.with_backbone
    with pytest.raises(UserError, match=r"has no file COCO-Detection/retinanet_R_50_FPN\.yaml; there are COCO-"):
        build("COCO-Detection/retinanet_R_50_FPN.yaml", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"INPUT\.FORMAT RGB"):
        build("COCO-Detection/retinanet_R_50_FPN_1x.yaml", tmp_path / "w.safetensors", ["INPUT.FORMAT", "BGR"])
    with pytest.raises(UserError, match="not found"):
        build("COCO-Detection/retinanet_R_50_FPN_1x.yaml", tmp_path / "nothing.safetensors")
    with pytest.raises(UserError, match=r"config retinanet\.txt is neither a YAML file nor a LazyConfig; name one"):
        build("retinanet.txt", tmp_path / "w.safetensors")
    with pytest.raises(UserError, match="config is a dict; give a name, a path, a CfgNode or a DictConfig"):
        build({"MODEL": {}}, tmp_path / "w.safetensors")


PROJECT = "InstanceSegmentation/pointrend_rcnn_R_50_FPN_1x_coco.yaml"


def test_a_projects_config_is_prepared_by_the_project(tmp_path: Path) -> None:
    """PointRend's own: its keys, its heads, its schedule; the trunk is another."""
    from detectron2.projects import point_rend

    file = Path(point_rend.__file__).parents[1] / "configs" / PROJECT
    if not file.is_file():
        pytest.skip(f"this Detectron2 came without its projects ({file})")
    backbone_file(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"unknown config key .* if it is a project's or your own: cfg = get_cfg\(\)"):
        scaleprior.model_zoo.with_backbone(file, tmp_path / "w.safetensors")
    prepared = get_cfg()
    point_rend.add_pointrend_config(prepared)
    prepared.merge_from_file(str(file))
    prepared.freeze()
    before = prepared.dump()
    overrides = {"MODEL": {"POINT_HEAD.NUM_CLASSES": 2, "DEVICE": "cpu"}, "SOLVER.MAX_ITER": 3}
    cfg = scaleprior.model_zoo.with_backbone(prepared, tmp_path / "w.safetensors", overrides, classes=2)
    assert prepared.dump() == before
    assert (cfg.MODEL.POINT_HEAD.NUM_CLASSES, cfg.MODEL.ROI_HEADS.NUM_CLASSES, cfg.SOLVER.MAX_ITER) == (2, 2, 3)
    assert cfg.MODEL.ROI_MASK_HEAD.NAME == "PointRendMaskHead"
    assert (cfg.SEED, cfg.INPUT.FORMAT, cfg.MODEL.RESNETS.RES2_OUT_CHANNELS) == (-1, "RGB", 16)
    again = get_cfg()  # Detectron2 with that project reads what a trainer writes
    point_rend.add_pointrend_config(again)
    again.merge_from_other_cfg(CfgNode.load_cfg(cfg.dump()))
    assert again.MODEL.POINT_HEAD == cfg.MODEL.POINT_HEAD
    cfg.merge_from_list(["MODEL.POINT_HEAD.FC_DIM", 32])
    DetectionCheckpointer(build_model(cfg)).load(cfg.MODEL.WEIGHTS)


def test_a_prepared_config_keeps_what_it_has(tmp_path: Path) -> None:
    """Our keys that are set, keys that nodes allow, and the class of one's own."""

    class Mine(CfgNode):
        pass

    backbone_file(tmp_path / "w.safetensors")
    prepared = get_cfg()
    add_scaleprior_config(prepared)
    prepared.SCALEPRIOR.DROP_BAD = "images"
    prepared.MODEL.MINE = CfgNode({"A": 1}, new_allowed=True)
    cfg = scaleprior.model_zoo.with_backbone(prepared, tmp_path / "w.safetensors")
    cfg.merge_from_other_cfg(CfgNode({"MODEL": {"MINE": {"B": 2}}}))
    assert (cfg.SCALEPRIOR.DROP_BAD, cfg.MODEL.MINE.A, cfg.MODEL.MINE.B) == ("images", 1, 2)
    assert prepared.INPUT.FORMAT == "BGR"
    own = scaleprior.model_zoo.with_backbone(Mine(get_cfg()), tmp_path / "w.safetensors")
    assert type(own) is Mine
    with pytest.raises(UserError, match=r"INPUT\.FORMAT is 'BGR'; use INPUT\.FORMAT RGB"):
        scaleprior.model_zoo.with_backbone(prepared, tmp_path / "w.safetensors", {"INPUT.FORMAT": "BGR"})


def test_classes_are_a_number_or_those_of_a_set(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data")
    register_coco("zoo_set", path, root)
    backbone_file(tmp_path / "w.safetensors")
    build, weights = scaleprior.model_zoo.with_backbone, tmp_path / "w.safetensors"
    mask, retinanet = (
        "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x.yaml",
        "COCO-Detection/retinanet_R_50_FPN_1x.yaml",
    )
    assert build(mask, weights, classes="zoo_set").MODEL.ROI_HEADS.NUM_CLASSES == 2
    assert build(retinanet, weights, classes=7).MODEL.RETINANET.NUM_CLASSES == 7
    assert build(mask, weights).MODEL.ROI_HEADS.NUM_CLASSES == 80
    with pytest.raises(UserError, match=r"NUM_CLASSES is in the overrides, and classes are given, too; give either"):
        build(mask, weights, {"MODEL.ROI_HEADS.NUM_CLASSES": 3}, classes=2)
    with pytest.raises(UserError, match=r"knows the key of MODEL\.META_ARCHITECTURE SemanticSegmentor; set it in the"):
        build("Misc/semantic_R_50_FPN_1x.yaml", weights, classes=2)


def test_every_resnet_of_the_coco_zoo_takes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All R-50/101 configs of Detectron2's COCO zoo: the trunk fills completely, or loading would raise."""
    # The numbers of new layers do not matter here, and drawing them takes most of the time.
    for name in ("normal_", "kaiming_uniform_", "xavier_uniform_", "kaiming_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)
    backbone_file(tmp_path / "w.safetensors")
    folder = zoo_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml").parents[1]
    paths = sorted(folder.glob("COCO-*/*_R_*_*x.yaml"))
    assert len(paths) > 20
    for path in paths:
        cfg = scaleprior.model_zoo.with_backbone(path, tmp_path / "w.safetensors")
        cfg.MODEL.DEVICE = "cpu"
        DetectionCheckpointer(build_model(cfg)).load(cfg.MODEL.WEIGHTS)
