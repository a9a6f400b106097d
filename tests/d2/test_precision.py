"""Detectron2's mixed precision with our data: its numbers, its scale in checkpoints, and overflow that is named."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from scaleprior.config import load_config
from scaleprior.detect import get_engine
from scaleprior.errors import FailureError
from tests.d2.conftest import FEW_STEPS, NARROW, backbone_file
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.engine import AMPTrainer, SimpleTrainer
from detectron2.modeling.poolers import ROIPooler
from detectron2.structures import Boxes, Instances

from scaleprior.d2.plan import default_config
from scaleprior.d2.precision import LossScale, overflow_in, set_precision, with_scaler

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
_AMP = ("SOLVER.AMP.ENABLED", "True")
_BFLOAT16 = (*_AMP, "SCALEPRIOR.AMP_DTYPE", "bfloat16")


def _cfg(*words: str) -> Any:
    return load_config("COCO-Detection/Base-RCNN-FPN.yaml", [*TINY_FPN, *words], defaults=default_config()).cfg


def _trainer(kind: type[SimpleTrainer], model: nn.Module | None = None) -> Any:
    model = nn.Linear(1, 1) if model is None else model
    options = {"grad_scaler": torch.amp.GradScaler("cpu")} if kind is AMPTrainer else {}
    return kind(model, [], torch.optim.SGD(model.parameters(), lr=0.1), **options)


def test_bfloat16_is_not_scaled_and_float16_is() -> None:
    half, brain, plain = _trainer(AMPTrainer), _trainer(AMPTrainer), _trainer(SimpleTrainer)
    for trainer, words in ((half, (*_AMP, "SCALEPRIOR.AMP_DTYPE", "float16")), (brain, _BFLOAT16), (plain, ())):
        set_precision(trainer, _cfg(*words))
    assert (half.precision, half.grad_scaler.is_enabled()) == (torch.float16, True)
    assert (brain.precision, brain.grad_scaler.is_enabled()) == (torch.bfloat16, False)
    assert brain.state_dict()["grad_scaler"] == {}
    assert not hasattr(plain, "precision")


@pytest.mark.parametrize(("said", "dtype"), [("float16", torch.float16), ("bfloat16", torch.bfloat16)])
def test_regions_are_pooled_where_they_are(said: str, dtype: torch.dtype) -> None:
    pooler = ROIPooler(7, scales=(1 / 4, 1 / 8), sampling_ratio=0, pooler_type="ROIAlignV2")
    maps = [torch.randn(1, 2, side, side, generator=torch.Generator().manual_seed(side)) for side in (250, 125)]
    maps = [each.to(dtype).float() for each in maps]
    boxes = [Boxes(torch.tensor([[701.3, 704.6, 760.2, 790.9], [620.7, 510.3, 950.1, 844.4]]))]
    expected = pooler(maps, boxes)
    set_precision(
        _trainer(AMPTrainer, nn.Sequential(nn.Linear(1, 1), pooler)), _cfg(*_AMP, "SCALEPRIOR.AMP_DTYPE", said)
    )
    with torch.autocast("cpu", dtype=dtype):
        found = pooler([each.to(dtype) for each in maps], boxes)
    assert found.dtype == dtype
    assert torch.equal(found, expected.to(dtype))
    assert torch.equal(pooler(maps, boxes), expected)


def test_a_state_without_a_scale_goes_on_with_a_new_one_and_any_other_with_its_own() -> None:
    saved = _trainer(AMPTrainer)
    saved.grad_scaler.load_state_dict({**saved.grad_scaler.state_dict(), "scale": 128.0, "_growth_tracker": 7})
    brain, plain = _trainer(AMPTrainer), _trainer(SimpleTrainer)
    set_precision(brain, _cfg(*_BFLOAT16))
    for source, scale in ((saved, 128.0), (brain, 2.0**16), (plain, 2.0**16)):
        trainer = _trainer(AMPTrainer)
        trainer.load_state_dict(with_scaler({"_trainer": source.state_dict()}, trainer)["_trainer"])
        assert trainer.grad_scaler.get_scale() == scale
    for target in (brain, plain):  # nobody needs it there
        target.load_state_dict(with_scaler({"_trainer": saved.state_dict()}, target)["_trainer"])


def test_a_scale_that_has_fallen_to_nothing_is_an_error_and_where_none_is_there_is_nothing_to_look_at() -> None:
    trainer, brain = _trainer(AMPTrainer), _trainer(AMPTrainer)
    trainer.grad_scaler = torch.amp.GradScaler("cpu", init_scale=1e-6)
    set_precision(brain, _cfg(*_BFLOAT16))
    for quiet in (brain, _trainer(SimpleTrainer)):
        LossScale(quiet).look(3)
    with pytest.raises(FailureError, match=r"gradients of step 3 .* do not fit float16"):
        LossScale(trainer).look(3)


def test_what_float16_cannot_hold_is_named_as_in_detectron2s_files() -> None:
    from detectron2.modeling import build_model

    cfg = _cfg("MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RESNETS.DEPTH", "152", "MODEL.ROI_HEADS.NUM_CLASSES", "2")
    torch.manual_seed(0)
    model = build_model(cfg).train()
    with torch.no_grad():  # Detectron2's fresh blocks grow less than ours
        model.backbone.bottom_up.stem.conv1.weight.mul_(1e4)
    instances = Instances((64, 64))
    instances.gt_boxes, instances.gt_classes = Boxes(torch.tensor([[4.0, 6.0, 40.0, 50.0]])), torch.tensor([1])
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batch = [{"image": image, "height": 64, "width": 64, "instances": instances}]
    words, hint = overflow_in(model, torch.float16, batch, 5)
    # A convolution of Detectron2's has its norm inside: what goes into that is what the convolution puts out.
    said = (
        r"; float16 cannot hold what goes into backbone\.bottom_up\.res2\.0\.conv1\.norm \(largest .*e\+04 in float32\)"
    )
    assert re.fullmatch(said, words)
    assert "AMP_DTYPE bfloat16" in hint
    assert overflow_in(model, None, batch, 5) == overflow_in(model, torch.float16, None, 5) == ("", "")


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("words", [_AMP, _BFLOAT16])
def test_on_a_gpu_it_trains_resumes_and_evaluates(tmp_path: Path, words: tuple[str, ...]) -> None:
    class Stop(Exception):
        pass

    def stop(done: int, total: int, numbers: Any) -> None:
        if done == 4:
            raise Stop

    engine: Any = get_engine("detectron2")
    backbone = tmp_path / "backbone.safetensors"
    backbone_file(backbone, NARROW)
    more = [
        *data_overrides(*make_coco(tmp_path / "data")),
        *FEW_STEPS,
        *words,
        "MODEL.DEVICE",
        "cuda",
        "SOLVER.CHECKPOINT_PERIOD",
        "2",
    ]
    config = "COCO-Detection/Base-RCNN-FPN.yaml"
    loaded = load_config(config, [*TINY_FPN, *more], defaults=engine.default_config())
    whole = engine.train(loaded, backbone, tmp_path / "whole")
    with pytest.raises(Stop):
        engine.train(loaded, backbone, tmp_path / "part", progress=stop)
    saved = torch.load(tmp_path / "part" / "model_0000003.pth", map_location="cpu", weights_only=False)
    scaler = saved["trainer"]["_trainer"]["grad_scaler"]
    assert (scaler == {}) == (words is _BFLOAT16)
    resumed = engine.train(loaded, backbone, tmp_path / "part", resume=True)
    losses = []
    for name in ("whole", "part"):
        rows = [json.loads(line) for line in (tmp_path / name / "metrics.json").open()]
        losses.append(rows[-1]["total_loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    for model in (whole, resumed):
        (found,) = engine.evaluate(loaded, model, tmp_path / "e").values()
        assert math.isfinite(found.ap)


@GPU
@pytest.mark.gpu
def test_on_a_gpu_a_loss_that_is_not_finite_names_step_images_and_cause(tmp_path: Path) -> None:
    engine: Any = get_engine("detectron2")
    more = [
        *data_overrides(*make_coco(tmp_path / "data")),
        *FEW_STEPS,
        *_AMP,
        "MODEL.DEVICE",
        "cuda",
        "MODEL.RESNETS.NORM",
        "FrozenBN",
    ]
    pixels = ["MODEL.PIXEL_STD", "[1e-4, 1e-4, 1e-4]"]  # what comes in is 10,000 times as large as it should be
    config = "COCO-Detection/Base-RCNN-FPN.yaml"
    loaded = load_config(config, [*TINY_FPN, *more, *pixels], defaults=engine.default_config())
    with pytest.raises(FailureError, match=r"step 0: .*; images .*; float16 cannot hold what .* \(largest .*bfloat16"):
        engine.train(loaded, None, tmp_path / "out")
