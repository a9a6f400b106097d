"""The LazyConfig twins: they load as users load them, and are the same as the YAML files."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import LazyConfig, get_cfg, instantiate
from detectron2.data import DatasetMapper
from detectron2.modeling import build_model
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.backbone.resnet import BottleneckBlock
from detectron2.solver import build_lr_scheduler, build_optimizer
from torch import nn

from scaleprior.config import data_file
from scaleprior.d2.zoo_files import zoo_file

pytestmark = pytest.mark.detectron2

TWINS = {"faster_rcnn_c4": "faster_rcnn_R_50_C4", "faster_rcnn_fpn": "faster_rcnn_R_50_FPN", "retinanet": None}


def _lazy(name: str) -> Any:
    return LazyConfig.load(str(data_file("configs", f"lazy/COCO-Detection/{name}.py")))


def _yaml(name: str) -> Any:
    cfg = get_cfg()
    if TWINS[name] is not None:
        cfg.merge_from_file(str(data_file("configs", f"COCO-Detection/{TWINS[name]}.yaml")))
    else:  # no YAML of ours: Detectron2's own with the shared settings
        cfg.merge_from_file(str(zoo_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")), allow_unsafe=True)
        cfg.merge_from_file(str(data_file("configs", "COCO-Detection/Base-Common.yaml")))
        cfg.MODEL.META_ARCHITECTURE = "RetinaNet"
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def _facts(model: nn.Module) -> dict[str, Any]:
    """What decides what a model makes of an image, besides its weights."""
    (resnet,) = (m for m in model.modules() if isinstance(m, ResNet))
    blocks = {n: m for n, m in model.named_modules() if isinstance(m, BottleneckBlock)}
    return {
        "parameters": {n: (tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()},
        "buffers": {n: tuple(b.shape) for n, b in model.named_buffers()},
        "types": {n: type(m).__name__ for n, m in model.named_modules()},
        "strides": {n: (m.conv1.stride, m.conv2.stride) for n, m in blocks.items()},
        "pixels": (model.pixel_mean.flatten().tolist(), model.pixel_std.flatten().tolist(), model.input_format),
        "stages": resnet._out_features,
    }


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_is_the_same_model(name: str) -> None:
    torch.set_num_threads(1)
    lazy, yaml = instantiate(_lazy(name).model), build_model(_yaml(name))
    theirs = _facts(yaml)
    for fact, value in _facts(lazy).items():
        assert value == theirs[fact], fact
    assert {s for pair in theirs["strides"].values() for s in pair} == {(1, 1), (2, 2)}
    assert all(conv1 == (1, 1) for conv1, _ in theirs["strides"].values())  # v1.5: the 3x3 strides
    assert theirs["pixels"][2] == "RGB"
    # the same weights, the same sight
    lazy.load_state_dict(yaml.state_dict())
    image = torch.randint(0, 256, (3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    with torch.no_grad():
        maps = [m.backbone(m.eval().preprocess_image([{"image": image}]).tensor) for m in (lazy, yaml)]
    for level, found in maps[0].items():
        assert torch.equal(found, maps[1][level])


def _sizes(mapper: DatasetMapper) -> list[tuple[Any, ...]]:
    """Augmentations with the sizes they choose from; test settings come as (low, high) from YAML."""
    return [
        (type(a).__name__, sorted(set(a.short_edge_length)), a.max_size)
        if hasattr(a, "short_edge_length")
        else (type(a).__name__,)
        for a in mapper.augmentations.augs
    ]


@pytest.mark.parametrize("name", TWINS)
def test_a_twin_trains_as_long_on_the_same_images(name: str) -> None:
    lazy, cfg = _lazy(name), _yaml(name)
    assert set(lazy) == {"model", "dataloader", "optimizer", "lr_multiplier", "train"}
    assert lazy.train.max_iter == cfg.SOLVER.MAX_ITER == 90_000
    assert lazy.train.init_checkpoint == ""
    assert lazy.dataloader.train.total_batch_size == cfg.SOLVER.IMS_PER_BATCH
    assert (lazy.dataloader.train.dataset.names,) == cfg.DATASETS.TRAIN
    assert (lazy.dataloader.test.dataset.names,) == cfg.DATASETS.TEST
    for train, section in ((True, lazy.dataloader.train), (False, lazy.dataloader.test)):
        ours, theirs = instantiate(section.mapper), DatasetMapper(cfg, is_train=train)
        assert ours.image_format == theirs.image_format == "RGB"
        assert ours.use_instance_mask == theirs.use_instance_mask
        assert _sizes(ours) == _sizes(theirs) == [("ResizeShortestEdge", [800], 1333), ("RandomFlip",)][: 1 + train]

    lazy.optimizer.params.model = model = nn.Linear(2, 2)
    optimizer, expected = instantiate(lazy.optimizer), build_optimizer(cfg, nn.Linear(2, 2))
    assert len(list(model.parameters())) == 2
    assert optimizer.defaults == {**expected.defaults, "foreach": optimizer.defaults["foreach"]}
    schedule, multiplier = build_lr_scheduler(cfg, expected), instantiate(lazy.lr_multiplier)
    for step in (0, 1, 500, 999, 1000, 59_999, 60_000, 79_999, 80_000, 89_999):
        schedule.last_epoch = step
        assert multiplier(step / 90_000) == pytest.approx(schedule.get_lr()[0] / cfg.SOLVER.BASE_LR), step


def test_a_depth_is_one_override() -> None:
    lazy = _lazy("faster_rcnn_c4")
    lazy.model.backbone.stages.depth = 152
    with torch.device("meta"):
        model = instantiate(lazy.model)
    assert len(model.backbone.res4) == 36
