"""MODEL.NORM_EPS under the real Detectron2: our trainer builds it, others are refused, exports compute the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import FrozenBatchNorm2d

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import DefaultTrainer
from detectron2.modeling import build_model

import scaleprior.d2
from benchmarks.exactness import _staged
from scaleprior.backbones import Backbone
from scaleprior.config import LoadedConfig
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import plan_evaluation, plan_training, read_trained
from scaleprior.d2.weights.norm_eps import trunk_eps
from scaleprior.errors import UserError
from tests.backbones.test_norm_eps import ROUNDING, converted, difference, quiet
from tests.d2.conftest import tiny

WIDTHS = ["MODEL.RESNETS.RES2_OUT_CHANNELS", "256", "MODEL.RESNETS.NORM", "FrozenBN"]  # torchvision's narrow R-50
REFUSED = r"MODEL.NORM_EPS is 1e-05; use MODEL.NORM_EPS 0.0 with scaleprior.d2.Trainer or tools/train_net.py"


@pytest.fixture
def source(tmp_path: Path) -> tuple[nn.Module, Backbone]:
    """torchvision's, whose norms have eps 0 and variances from 1e-12 up; and what it was converted to."""
    torch.manual_seed(0)
    model = ResNet(Bottleneck, [3, 4, 6, 3], width_per_group=4, norm_layer=partial(FrozenBatchNorm2d, eps=0))
    return quiet(model), converted(model, tmp_path, norm_eps=0)


def config(kind: str, folder: Path, overrides: list[str]) -> LoadedConfig:
    return tiny(kind, [*overrides, *WIDTHS, "OUTPUT_DIR", str(folder / "out")])


def features(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """res2 to res5 of a detector of Detectron2's; in C4 the last is the head's, and the others are not handed on."""
    model.eval()
    with torch.inference_mode():
        if hasattr(model.backbone, "bottom_up"):
            return model.backbone.bottom_up(x)
        maps = model.backbone(x)
        return {**maps, "res5": model.roi_heads.res5(maps["res4"])}


@pytest.mark.parametrize("norm", ["FrozenBN", "BN"])
@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_our_trainer_builds_what_the_card_says_and_others_are_refused(
    kind: str, norm: str, source: tuple[nn.Module, Backbone], tmp_path: Path, coco: list[str]
) -> None:
    file, x = tmp_path / "ours.safetensors", torch.rand(1, 3, 64, 64)
    loaded = config(kind, tmp_path, [*coco, "MODEL.BACKBONE.FREEZE_AT", "2"])
    loaded = LoadedConfig(loaded.cfg.clone(), loaded.explicit, loaded.source)
    loaded.cfg.defrost()
    loaded.cfg.MODEL.RESNETS.NORM = norm
    cfg = plan_training(loaded, file, tmp_path / "out").cfg
    assert cfg.MODEL.NORM_EPS == 0
    model = scaleprior.d2.Trainer.build_model(cfg)
    DetectionCheckpointer(model).load(str(file))
    expected = _staged(source[0])(x)
    maps = features(model, x)
    assert set(maps) == ({"res2", "res3", "res4", "res5"} if kind == "FPN" else {"res4", "res5"})
    assert difference(maps, {name: expected[name] for name in maps}) <= ROUNDING
    heads = [m for m in model.modules() if isinstance(m, nn.GroupNorm)]
    assert all(m.eps == 1e-5 for m in heads)

    stock = build_model(cfg)
    with pytest.raises(UserError, match=REFUSED):
        DetectionCheckpointer(stock).load(str(file))
    with pytest.raises(UserError, match=REFUSED):
        DefaultTrainer(cfg).resume_or_load(resume=False)


def test_a_trained_detector_is_evaluated_as_it_was_trained(
    source: tuple[nn.Module, Backbone], tmp_path: Path, coco: list[str]
) -> None:
    # A step that moves a filter as small as its channel's variance moves that channel far: the trunk stays.
    slow = ["SOLVER.BASE_LR", "1e-6", "SOLVER.MAX_ITER", "2", "MODEL.BACKBONE.FREEZE_AT", "5"]
    engine, loaded = Detectron2Engine(), config("FPN", tmp_path, [*coco, *slow])
    model = engine.train(loaded, tmp_path / "ours.safetensors", tmp_path / "run")
    trained = read_trained(model)
    assert trained is not None
    assert trained.config["MODEL.NORM_EPS"] == 0
    cfg = plan_evaluation(loaded, model, tmp_path / "run").cfg  # nobody named the key
    assert cfg.MODEL.NORM_EPS == 0
    assert trunk_eps(scaleprior.d2.Trainer.build_model(cfg)) == {torch.finfo(torch.float32).tiny}
    engine.evaluate(loaded, model, tmp_path / "run")
    assert engine.train(loaded, tmp_path / "ours.safetensors", tmp_path / "run", resume=True) == model
    with pytest.raises(UserError, match=r"MODEL.NORM_EPS is 1e-05; use MODEL.NORM_EPS '0.0'"):
        plan_evaluation(config("FPN", tmp_path, [*coco, *slow, "MODEL.NORM_EPS", "1e-5"]), model, tmp_path / "run")
    # Detectron2's own way to evaluate, on the saved config
    said = r"trained with MODEL.NORM_EPS 0, the norms of this model's trunk have 1e-05; use MODEL.NORM_EPS 0"
    with pytest.raises(UserError, match=said):
        DetectionCheckpointer(DefaultTrainer.build_model(cfg)).load(str(model))
    DetectionCheckpointer(scaleprior.d2.Trainer.build_model(cfg)).load(str(model))


def test_trunks_of_timm_are_built_with_it_by_anybody(tmp_path: Path, coco: list[str]) -> None:
    words = ["MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", "resnet18", "MODEL.NORM_EPS", "1e-3"]
    cfg = config("FPN", tmp_path, [*coco, *words, "MODEL.DEVICE", "cpu"]).cfg
    assert trunk_eps(build_model(cfg)) == {1e-3}


def test_a_backbone_that_nobody_knows_is_refused(tmp_path: Path, coco: list[str]) -> None:
    words = ["MODEL.BACKBONE.NAME", "build_regnet_backbone", "MODEL.NORM_EPS", "1e-3"]
    cfg = config("FPN", tmp_path, [*coco, *words, "MODEL.DEVICE", "cpu"]).cfg
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8))
    with pytest.raises(
        UserError, match=r"MODEL.NORM_EPS is 0.001, and nobody here knows where .*build_regnet_backbone"
    ):
        scaleprior.d2.weights.norm_eps.build_norm_eps(model, cfg)


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_the_export_with_rescaled_gains_is_the_same_in_stock_detectron2(
    kind: str, source: tuple[nn.Module, Backbone], tmp_path: Path, coco: list[str]
) -> None:
    model, backbone = source
    card = backbone.export(tmp_path / "w.pkl", frozen_norms=True)
    assert card.norm_eps == 1e-5
    loaded = config(kind, tmp_path, coco)
    cfg = loaded.cfg.clone()
    cfg.defrost()
    scaleprior.d2.apply_card(cfg, card)
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.NORM_EPS == -1
    stock, x = build_model(cfg), torch.rand(1, 3, 64, 64)
    DetectionCheckpointer(stock).load(str(tmp_path / "w.pkl"))
    maps, expected = features(stock, x), _staged(model)(x)
    assert difference(maps, {name: expected[name] for name in maps}) <= ROUNDING
