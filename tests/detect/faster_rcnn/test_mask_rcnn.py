"""Mask R-CNN in the torchvision engine: it learns masks, goes on to the bit, and finds one for each detection."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from scaleprior.detect import get_engine
from scaleprior.detect.data.segmentation import Polygons
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.parts import roi_heads
from scaleprior.detect.faster_rcnn.trainer import METRICS
from tests.detect.conftest import add_outlines, data_overrides, make_coco, tiny_config

MASKS = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1"]


class _Stop(Exception):
    """Stands in for a kill within the process."""


@pytest.fixture
def outlined(tmp_path: Path) -> list[str]:
    """Overrides that train and evaluate a Mask R-CNN on one small set of squares."""
    return [*data_overrides(*make_coco(tmp_path / "data", change=add_outlines)), *MASKS]


def _train(
    kind: str, out: Path, words: list[str], *, stop_after: int = 0, resume: bool = False
) -> list[dict[str, Any]]:
    """The figures of every step."""
    figures: list[dict[str, Any]] = []

    def progress(done: int, total: int, numbers: Any) -> None:
        if done == stop_after:
            raise _Stop

    get_engine("torchvision").train(tiny_config(kind, words), None, out, resume=resume, progress=progress)
    figures += [json.loads(line) for line in (out / METRICS).open()]
    return figures


@pytest.mark.parametrize(("kind", "form"), [("FPN", "polygon"), ("C4", "bitmask")])
def test_a_run_that_was_interrupted_ends_with_the_same_bits(
    tmp_path: Path, outlined: list[str], kind: str, form: str
) -> None:
    words = [*outlined, "INPUT.MASK_FORMAT", form, "SOLVER.CHECKPOINT_PERIOD", "2", "SOLVER.MAX_ITER", "5"]
    whole = _train(kind, tmp_path / "whole", words)
    with pytest.raises(_Stop):
        _train(kind, tmp_path / "part", words, stop_after=3)
    assert _train(kind, tmp_path / "part", words, resume=True) == whole
    assert {"loss_rpn_cls", "loss_rpn_loc", "loss_cls", "loss_box_reg", "loss_mask"} < set(whole[-1])
    # a fresh predictor is near 0: -log(1/2) for each pixel
    assert whole[-1]["loss_mask"] == pytest.approx(math.log(2), abs=0.05)
    one, other = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "part"))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())
    assert "roi_heads.mask_head.mask_fcn1.weight" in one


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_results_have_the_ap_of_boxes_and_of_masks(tmp_path: Path, outlined: list[str], kind: str) -> None:
    """Of detections at random; those of a learnt mask are in ``test_masks_are_learnt``."""
    words = [*outlined, "SOLVER.MAX_ITER", "1", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"]
    engine, loaded = get_engine("torchvision"), tiny_config(kind, words)
    (result,) = engine.evaluate(loaded, engine.train(loaded, None, tmp_path), tmp_path).values()
    assert result.masks is not None
    written = json.loads((tmp_path / "results.json").read_text())
    assert (written["AP"], written["segm"]["AP"]) == (result.ap, result.masks["AP"])
    detections = json.loads((tmp_path / "detections_tiny.json").read_text())
    assert len(detections) == result.detections > 0
    assert all(d["segmentation"]["size"] == [64, 64] for d in detections)


def test_masks_are_learnt(tmp_path: Path, outlined: list[str]) -> None:
    """The objects fill their boxes."""
    quick = [
        "SOLVER.MAX_ITER",
        "40",
        "SOLVER.STEPS",
        "(99,)",
        "SOLVER.BASE_LR",
        "0.02",
        "SOLVER.CLIP_GRADIENTS.ENABLED",
        "True",
    ]
    words = [*outlined, *quick]
    rows = _train("FPN", tmp_path / "run", words)
    assert [row["step"] for row in rows] == [20, 40]
    assert rows[1]["loss_mask"] < rows[0]["loss_mask"] < math.log(2)
    run = tmp_path / "run"
    (result,) = get_engine("torchvision").evaluate(tiny_config("FPN", words), run / "model.safetensors", run).values()
    assert result.masks is not None
    assert result.masks["AP50"] == pytest.approx(result.ap50, abs=3)
    assert result.ap50 > 1


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_mixed_precision_is_near_full_precision(kind: str) -> None:
    model = build_detector(tiny_config(kind, [*MASKS, "MODEL.ROI_HEADS.NUM_CLASSES", "2"]).cfg).train()
    image = torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    square = Polygons.of([[8, 8, 40, 8, 40, 40, 8, 40]])
    truth = ([torch.tensor([[8.0, 8, 40, 40]])], [torch.tensor([1])], [[square]])
    full = model.losses([image], *truth)["loss_mask"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = model.losses([image], *truth)["loss_mask"]
    assert full.dtype == half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_gradients_lie_in_memory_as_their_weights_do(kind: str) -> None:
    """Or DistributedDataParallel copies them in every step, and warns of it in every process."""
    model = build_detector(tiny_config(kind, [*MASKS, "MODEL.ROI_HEADS.NUM_CLASSES", "2"]).cfg).train()
    square = Polygons.of([[8, 8, 40, 8, 40, 40, 8, 40]])
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    losses = model.losses([image], [torch.tensor([[8.0, 8, 40, 40]])], [torch.tensor([1])], [[square]])
    sum(losses.values(), torch.zeros(())).backward()
    strides = {name: (p.stride(), p.grad.stride()) for name, p in model.named_parameters() if p.grad is not None}
    assert {name: each for name, each in strides.items() if each[0] != each[1]} == {}
    assert "roi_heads.mask_head.predictor.weight" in strides


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_every_detection_has_a_mask_and_an_image_without_any_has_none(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*MASKS, "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_HEADS.SCORE_THRESH_TEST"]
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    for threshold, some in (("0.0", True), ("1.0", False)):
        model = build_detector(tiny_config(kind, [*words, threshold]).cfg).eval()
        for found in model.detect(images):
            assert found.masks is not None
            assert (len(found.scores) > 0) == some
            side = {"FPN": 28, "C4": 14}[kind]  # C4: half of 14 pooled cells behind the stride of res5, doubled
            assert found.masks.shape == (len(found.scores), side, side)
            assert ((found.masks > 0) & (found.masks < 1)).all()
        if some:  # in one pass or in several
            at_once = model.detect(images)
            monkeypatch.setattr(roi_heads, "_MASKS_AT_ONCE", 7)
            for one, other in zip(at_once, model.detect(images)):
                torch.testing.assert_close(one.masks, other.masks)
    assert build_detector(tiny_config(kind).cfg).eval().detect(images)[0].masks is None


def test_regions_without_an_object_take_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is over the pixels of objects; so it is with one class for all, and with images that have none."""
    words = [*MASKS, "MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.ROI_MASK_HEAD.CLS_AGNOSTIC_MASK", "True"]
    model = build_detector(tiny_config("FPN", words).cfg).train()
    seen: list[int] = []
    head = model.roi_heads.mask_head
    assert head is not None
    head.register_forward_hook(lambda module, args, out: seen.append(len(out)))
    images = [torch.zeros(3, 64, 64, dtype=torch.uint8)] * 2
    boxes = [torch.tensor([[8.0, 8, 40, 40]]), torch.zeros(0, 4)]
    classes = [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)]
    model.losses(images, boxes, classes, [[Polygons.of([[8, 8, 40, 8, 40, 40, 8, 40]])], []])
    assert 1 <= seen[0] <= 2  # the true box itself, and at most a quarter of 8 regions of the first image


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_a_gpu_has_the_same_losses_in_float32_and_near_ones_in_float16(kind: str) -> None:
    model = build_detector(tiny_config(kind, [*MASKS, "MODEL.ROI_HEADS.NUM_CLASSES", "2"]).cfg).train()
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    square = Polygons.of([[8, 8, 40, 8, 40, 40, 8, 40]])
    boxes = [torch.tensor([[8.0, 8, 40, 40]]), torch.zeros(0, 4)]
    truth = (boxes, [torch.tensor([1]), torch.zeros(0, dtype=torch.int64)], [[square], []])

    def losses() -> dict[str, float]:
        torch.manual_seed(3)
        found = model.losses(list(images), *truth)
        torch.stack(list(found.values())).sum().backward()
        gradients = [p.grad for p in model.roi_heads.parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
        return {name: value.item() for name, value in found.items()}

    here = losses()
    model.cuda().zero_grad()
    there = losses()
    assert there == {name: pytest.approx(value, rel=0.02, abs=1e-3) for name, value in here.items()}
    with torch.autocast("cuda", dtype=torch.float16):
        assert losses()["loss_mask"] == pytest.approx(here["loss_mask"], rel=0.02)
    with torch.autocast("cuda", dtype=torch.float16):
        found = model.eval().detect(list(images))
    assert all(each.masks is not None and each.masks.dtype == torch.float32 for each in found)
