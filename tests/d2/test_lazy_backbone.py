"""LazyConfigs around another backbone: every place that the card speaks of, built, filled and trained."""

from __future__ import annotations

import copy
import json
import math
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import LazyCall as L, LazyConfig, instantiate
from detectron2.engine import default_argument_parser
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock, DeformBottleneckBlock
from detectron2.solver.build import get_default_optimizer_params
from omegaconf import DictConfig
from torch import nn

from scaleprior.backbones import ResNetSpec
from scaleprior.config import load_config
from scaleprior.d2 import register_coco
from scaleprior.d2.trunks.timm_backbones import TimmBackbone
from scaleprior.d2.zoo_files import zoo_file, zoo_folder
from scaleprior.errors import UserError
from scaleprior.model_zoo import with_backbone
from tests.d2.conftest import backbone_file, timm_file
from tests.detect.conftest import make_coco

RETINANET = "COCO-Detection/retinanet_R_50_FPN_1x.py"
MASK_C4 = "COCO-InstanceSegmentation/mask_rcnn_R_50_C4_1x.py"
MASK_FPN = "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.py"
CONFIGS = (
    RETINANET,
    "COCO-Detection/fcos_R_50_FPN_1x.py",  # its channel order stands in the mappers only
    MASK_C4,
    MASK_FPN,
    "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.py",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x.py",
    "new_baselines/mask_rcnn_R_50_FPN_100ep_LSJ.py",  # SyncBN, from scratch
)


@pytest.fixture
def _no_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """The numbers of new layers do not matter here, and drawing them takes most of the time."""
    for name in ("normal_", "kaiming_uniform_", "xavier_uniform_", "kaiming_normal_", "trunc_normal_"):
        monkeypatch.setattr(torch.nn.init, name, lambda tensor, *args, **kwargs: tensor)


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("narrow") / "w.safetensors"
    backbone_file(file)
    return file


def test_what_a_trunk_has_no_blocks_for_is_refused(tmp_path: Path) -> None:
    cfg = LazyConfig.load(str(zoo_file(RETINANET)))
    cfg.model.backbone.bottom_up.stages.block_class = DeformBottleneckBlock
    file = timm_file(tmp_path / "c.safetensors", "convnext_tiny")
    with pytest.raises(UserError, match=r"stages\.block_class is set, and timm's convnext_tiny has blocks of its own"):
        with_backbone(cfg, file)
    backbone_file(tmp_path / "r.safetensors", ResNetSpec(depth=18))
    with pytest.raises(UserError, match=r"stages has block_class, which are not for the basic blocks of backbone r"):
        with_backbone(cfg, tmp_path / "r.safetensors")
    backbone_file(tmp_path / "w.safetensors")
    stages = with_backbone(cfg, tmp_path / "w.safetensors").model.backbone.bottom_up.stages
    assert {stage.block_class for stage in stages} == {DeformBottleneckBlock}


def strides(model: nn.Module) -> set[tuple[int, int]]:
    blocks = [m for m in model.modules() if isinstance(m, BottleneckBlock)]
    return {(m.conv1.stride[0], m.conv2.stride[0]) for m in blocks if m.conv1.stride[0] * m.conv2.stride[0] > 1}


@pytest.mark.usefixtures("_no_draws")
@pytest.mark.parametrize("config", CONFIGS)
def test_every_place_follows_and_the_trunk_is_filled(config: str, narrow: Path) -> None:
    cfg = with_backbone(config, narrow)
    assert (cfg.model.pixel_mean, cfg.model.pixel_std) == ([127.5] * 3, [127.5] * 3)
    for mapper in (cfg.dataloader.train.mapper, cfg.dataloader.test.mapper):
        assert mapper.image_format == "RGB"
    assert cfg.model.get("input_format", "RGB") == "RGB"
    assert cfg.train.init_checkpoint == str(narrow)
    model = instantiate(cfg.model)
    assert strides(model) == {(1, 2)}  # in the 3x3, also in C4's head
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)  # fills the trunk completely, or raises


@pytest.mark.parametrize("depth", [18, 101])
def test_standard_depths_stay_one_call(depth: int, tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", ResNetSpec(depth=depth))
    cfg = with_backbone(RETINANET, tmp_path / "w.safetensors")
    stages = cfg.model.backbone.bottom_up.stages
    assert stages._target_ is ResNet.make_default_stages
    assert stages.depth == depth
    assert stages.get("stride_in_1x1") is (None if depth == 18 else False)
    with torch.device("meta"):
        model = instantiate(cfg.model)
    assert model.backbone.top_block.p6.in_channels == (512 if depth == 18 else 2048)


def test_only_what_the_card_speaks_of_changes_and_the_given_config_does_not(tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", ResNetSpec(depth=101, norm="GN"))
    given = LazyConfig.load(str(zoo_file(MASK_C4)))
    before = copy.deepcopy(given)
    cfg = with_backbone(given, tmp_path / "w.safetensors")
    assert given == before
    changed = {key for key, value in _flat(cfg).items() if value != _flat(given).get(key, "absent")}
    trunk = {"stem.norm", "stages.norm", "stages.depth", "stages.stride_in_1x1"}
    assert changed - {"model.roi_heads.res5.num_groups"} == {
        *(f"model.backbone.{key}" for key in trunk),
        *("model.roi_heads.res5.norm", "model.roi_heads.res5.stride_in_1x1"),
        *("model.pixel_mean", "model.pixel_std", "model.input_format"),
        *("dataloader.train.mapper.image_format", "dataloader.test.mapper.image_format"),  # which points to it
        "train.init_checkpoint",
    }
    # as Detectron2's tool saves it, by names, and reads it again
    LazyConfig.save(cfg, str(tmp_path / "saved.yaml"))
    saved = with_backbone(tmp_path / "saved.yaml", tmp_path / "w.safetensors")
    assert saved.model.roi_heads.res5.norm == "GN"
    with pytest.raises(UserError, match=r"saved\.yaml is a LazyConfig, and what runs here"):
        load_config(tmp_path / "saved.yaml")


def _flat(node: Any, prefix: str = "") -> dict[str, Any]:
    items: dict[str, Any] = {}
    for name in node:
        value = node[name]
        items |= _flat(value, f"{prefix}{name}.") if isinstance(value, DictConfig) else {f"{prefix}{name}": value}
    return items


def test_a_norm_that_fits_stays(narrow: Path) -> None:
    assert with_backbone(CONFIGS[-1], narrow).model.backbone.bottom_up.stem.norm == "SyncBN"
    overrides = {"model.backbone.bottom_up.stages.norm": "naiveSyncBN", "model.backbone.bottom_up.stem.norm": "GN"}
    with pytest.raises(UserError, match=r"stem\.norm is 'GN'; use model\.backbone\.bottom_up\.stem\.norm=FrozenBN$"):
        with_backbone(MASK_FPN, narrow, overrides)
    del overrides["model.backbone.bottom_up.stem.norm"]
    cfg = with_backbone(MASK_FPN, narrow, overrides)
    assert cfg.model.backbone.bottom_up.stages[0].norm == "naiveSyncBN"


@pytest.mark.usefixtures("_no_draws")
def test_a_trunk_of_timms_takes_the_place_of_the_resnet_in_a_pyramid(tmp_path: Path) -> None:
    file = timm_file(tmp_path / "w.safetensors", "convnext_tiny")
    cfg = with_backbone(RETINANET, file, {"model.backbone.bottom_up.out_features": ["res3", "res4", "res5"]})
    trunk = cfg.model.backbone.bottom_up
    assert (trunk._target_, trunk.model, trunk.norm, trunk.freeze_at) == (TimmBackbone, "convnext_tiny", "LN", 2)
    assert cfg.model.backbone.top_block.in_channels == 768
    model = instantiate(cfg.model)
    DetectionCheckpointer(model).load(cfg.train.init_checkpoint)
    with torch.no_grad():
        assert [m.shape[-1] for m in model.backbone(torch.zeros(1, 3, 64, 64)).values()] == [8, 4, 2, 1, 1]
    assert with_backbone(cfg, file).model.backbone.bottom_up.model == "convnext_tiny"  # again, on what it made
    with pytest.raises(UserError, match=r"C4's head is the res5 of a ResNet; take a config with a feature pyramid"):
        with_backbone(MASK_C4, file)


def test_classes_are_those_of_a_set(narrow: Path, tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data")
    register_coco("lazy_set", path, root)
    names = {"dataloader.train.dataset.names": "lazy_set"}
    cfg = with_backbone(MASK_FPN, narrow, names, classes="lazy_set")
    assert cfg.model.roi_heads.box_predictor.num_classes == cfg.model.roi_heads.num_classes == 2
    assert cfg.dataloader.train.dataset.names == "lazy_set"
    assert with_backbone(RETINANET, narrow, classes=7).model.head.num_classes == 7
    with pytest.raises(UserError, match="no data set of that name is registered; register it first"):
        with_backbone(MASK_FPN, narrow, classes="nobody's")


LAZY_FILE = """
from detectron2.layers import ShapeSpec
from scaleprior.model_zoo import with_backbone

cfg = with_backbone({config!r}, {weights!r}, {overrides!r}, classes="lazy_set")
cfg.model.head.input_shape = [ShapeSpec(channels=8)] * 5
cfg.model.head.conv_dims = [8]
model, dataloader, optimizer, lr_multiplier, train = (
    cfg[name] for name in ("model", "dataloader", "optimizer", "lr_multiplier", "train")
)
"""
TOOL = zoo_folder().parent / "tools" / "lazyconfig_train_net.py"


@pytest.mark.skipif(not TOOL.is_file(), reason=f"this Detectron2 came without its tools ({TOOL})")
@pytest.mark.usefixtures("detectron2_loggers")
def test_detectron2s_own_lazy_tool_trains_and_evaluates_it(narrow: Path, tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data", images=2)
    register_coco("lazy_set", path, root)
    overrides = {
        "dataloader.train": {"dataset.names": "lazy_set", "total_batch_size": 2, "num_workers": 0},
        "dataloader.train.mapper.augmentations": [],
        "dataloader.test": {"dataset.names": "lazy_set", "num_workers": 0, "mapper.augmentations": []},
        "model.backbone.out_channels": 8,
        "model.test_score_thresh": 0.0,
        "optimizer.lr": 1e-4,
        "train": {"max_iter": 2, "device": "cpu", "output_dir": str(tmp_path / "out")},
    }
    text = LAZY_FILE.format(config=RETINANET, weights=str(narrow), overrides=overrides)
    (tmp_path / "mine.py").write_text(text)
    words = ["--config-file", str(tmp_path / "mine.py")]
    main = runpy.run_path(str(TOOL))["main"]
    main(default_argument_parser().parse_args(words))
    lines = (tmp_path / "out" / "metrics.json").read_text().splitlines()
    said = {name: value for line in lines for name, value in json.loads(line).items()}
    assert math.isfinite(said["total_loss"])
    assert 0 <= said["bbox/AP"] <= 100
    trained = tmp_path / "out" / "model_final.pth"
    main(default_argument_parser().parse_args([*words, "--eval-only", f"train.init_checkpoint={trained}"]))


def _vitdet() -> Any:
    cfg = LazyConfig.load(str(zoo_file(MASK_FPN)))
    cfg.model = LazyConfig.load(str(zoo_file("common/models/mask_rcnn_vitdet.py")), "model")
    return cfg


def _without(section: str) -> Any:
    cfg = LazyConfig.load(str(zoo_file(MASK_FPN)))
    del cfg[section]
    return cfg


def _two_trunks() -> Any:
    cfg = LazyConfig.load(str(zoo_file(MASK_FPN)))
    cfg.model.teacher = copy.deepcopy(cfg.model.backbone)
    return cfg


def _no_mapper() -> Any:
    cfg = LazyConfig.load(str(zoo_file(MASK_FPN)))
    for split in ("train", "test"):
        cfg.dataloader[split].mapper = lambda row: row
    return cfg


@pytest.mark.parametrize(
    ("config", "overrides", "said"),
    [
        (_vitdet, {}, r"model\.backbone is a SimpleFeaturePyramid, model\.backbone\.net is a ViT; take a config with"),
        ("Misc/mmdet_mask_rcnn_R_50_FPN_1x.py", {}, r"ScalePrior's: model is a MMDetDetector; take a config with"),
        ("new_baselines/mask_rcnn_regnetx_4gf_dds_FPN_100ep_LSJ.py", {}, r"model\.backbone\.bottom_up is a RegNet"),
        (lambda: _without("dataloader"), {}, "the LazyConfig has no dataloader; give one with model, dataloader"),
        (_two_trunks, {}, r"has 2 trunks: model\.backbone\.bottom_up, model\.teacher\.bottom_up"),
        (_no_mapper, {}, "has no image_format under dataloader, so nobody here knows"),
        (
            MASK_FPN,
            {"model.pixel_mean": [1, 2, 3]},
            r"pixel_mean is \[1, 2, 3\]; use model\.pixel_mean=\[127\.5",
        ),
        (MASK_FPN, {"dataloader.train.mapper.image_format": "BGR"}, r"use dataloader\.train\.mapper\.image_format=RGB"),
        (
            MASK_FPN,
            {"model.backbone.bottom_up.stages.depth": 101},
            r"stages\.depth is set, and backbone w needs",
        ),
        (MASK_FPN, {"modell.pixel_mean": 1}, r"override modell\.pixel_mean: the LazyConfig has no modell; it has"),
        ("COCO-Detection/retinanet_R_50_FPN_2x.py", {}, r"has no file .*retinanet_R_50_FPN_2x\.py; there are COCO-"),
    ],
)
def test_what_it_does_not_know_is_refused(config: Any, overrides: dict[str, Any], said: str, narrow: Path) -> None:
    with pytest.raises(UserError, match=said):
        with_backbone(config() if callable(config) else config, narrow, overrides)


def test_norms_that_a_lazy_resnet_cannot_have_are_refused(tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors", norm_eps=1e-3)
    with pytest.raises(UserError, match=r"eps 0\.001; those of a LazyConfig's ResNet have 1e-05; `scaleprior backbone"):
        with_backbone(MASK_FPN, tmp_path / "w.safetensors")


def test_a_call_among_the_overrides_replaces_a_call(narrow: Path) -> None:
    adam = L(torch.optim.AdamW)(params=L(get_default_optimizer_params)(base_lr="${..lr}"), lr=1e-4)
    cfg = with_backbone(MASK_FPN, narrow, {"optimizer": adam, "train": {"max_iter": 7}})
    assert cfg.optimizer == adam
    assert (cfg.train.max_iter, cfg.train.eval_period) == (7, 5000)
    assert with_backbone(MASK_FPN, narrow, ["train.max_iter", "8"]).train.max_iter == 8


def test_a_file_that_fails_is_named(narrow: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import not_there\n")
    with pytest.raises(UserError, match=r"mine\.py cannot be loaded: ModuleNotFoundError: No module named 'not_there'"):
        with_backbone(tmp_path / "mine.py", narrow)
