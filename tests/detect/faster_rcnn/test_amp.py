"""Under autocast the arithmetic of boxes stays float32: anchors, proposals, targets, losses and detections."""

from __future__ import annotations

import pytest
import torch

from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from tests.detect.conftest import tiny_config

SIDES = (64, 1024)  # float16 tells no two coordinates above 512 apart that are closer than 0.5, bfloat16 not than 4


@pytest.fixture
def model() -> Detector:
    """With heads that say the same whatever the maps are, so that boxes alone make the losses."""
    # Anchors with sides and centres between two numbers of float16, matched from an overlap on that many of them have.
    odd = ("MODEL.ANCHOR_GENERATOR.OFFSET", "0.37", "MODEL.ANCHOR_GENERATOR.SIZES", "[[13],[27],[45],[91],[180]]")
    keep = (
        "MODEL.RPN.NMS_THRESH",
        "1.0",
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "0.01",
        "MODEL.RPN.IOU_THRESHOLDS",
        "[0.1, 0.2]",
    )
    torch.manual_seed(0)
    found = build_detector(tiny_config("FPN", ["MODEL.ROI_HEADS.NUM_CLASSES", "2", *odd, *keep]).cfg)
    rpn, predictor = found.proposal_generator.rpn_head, found.roi_heads.box_predictor
    with torch.no_grad():
        for layer in (rpn.objectness_logits, rpn.anchor_deltas, predictor.cls_score, predictor.bbox_pred):
            layer.weight.zero_()
            layer.bias.copy_(torch.linspace(-0.02, 0.03, len(layer.bias)).half().bfloat16())  # which all types hold
    return found


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_boxes_are_those_of_float32(model: Detector, dtype: torch.dtype) -> None:
    image = torch.randint(0, 256, (3, *SIDES), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor([[700.3, 4.6, 760.2, 50.9], [901.7, 10.3, 950.1, 44.4], [20.6, 5.2, 60.3, 60.8]])
    found = []
    for enabled in (False, True):
        torch.manual_seed(5)  # of the anchors and regions that are sampled
        with torch.autocast("cpu", dtype=dtype, enabled=enabled):
            losses = model.train().losses([image], [boxes], [torch.tensor([0, 1, 1])])
            (detections,) = model.eval().detect([image])
        assert {loss.dtype for loss in losses.values()} == {torch.float32}
        assert len(detections.scores) > 10
        assert float(detections.boxes.max()) > 512
        found.append((losses, detections))
    (single, plain), (mixed, half) = found
    for name, loss in single.items():
        assert float(loss.detach()) > 0, name
        assert torch.equal(loss, mixed[name]), name
    assert torch.equal(plain.boxes, half.boxes)
    assert torch.equal(plain.scores, half.scores)
