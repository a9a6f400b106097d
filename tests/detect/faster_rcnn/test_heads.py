"""Proposals, losses and detections of hand-made predictions (Detectron2 itself is compared in another file)."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid
from scaleprior.detect.faster_rcnn.parts.roi_heads import RoiHeads, RoiSettings
from scaleprior.detect.faster_rcnn.parts.rpn import Proposals, Rpn, RpnHead, RpnSettings
from scaleprior.detect.faster_rcnn.truth import Truth
from tests.detect.conftest import tiny_config

_SIZES = torch.tensor([[16.0, 16.0]])
_SEEDS = torch.zeros(2, dtype=torch.int64)


def _rpn(**settings: object) -> Rpn:
    """One map of 2 x 2 cells of 8 pixels, one 8-pixel anchor in the middle of each, predictions all zero."""
    base = replace(RpnSettings.from_config(tiny_config("FPN").cfg), **{"in_features": ("p3",), **settings})
    rpn = Rpn(RpnHead(1, 1), AnchorGrid([[8]], [[1.0]], [8], offset=0.5), base)
    for parameter in rpn.parameters():
        torch.nn.init.zeros_(parameter)
    return rpn


def test_rpn_losses_are_divided_by_the_configured_number() -> None:
    rpn = _rpn(batch_size_per_image=10, positive_fraction=0.5, beta=0.0, cls_weight=1.0, loc_weight=3.0)
    maps = {"p3": torch.zeros(2, 1, 2, 2)}
    # the first anchor, (0, 0, 8, 8), has IoU 56 / 72 with the object, the one right of it 8 / 120; 1 object, 7 not
    classes = [torch.zeros(1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)]
    truth = Truth.padded([torch.tensor([[1.0, 0.0, 9.0, 8.0]]), torch.zeros(0, 4)], classes)
    _, losses = rpn.train()(maps, _SIZES.repeat(2, 1), truth, _SEEDS)
    assert math.isclose(losses["loss_rpn_cls"].item(), 8 * math.log(2) / (10 * 2), rel_tol=1e-6)
    assert math.isclose(losses["loss_rpn_loc"].item(), 3 * (1 / 8) / (10 * 2), rel_tol=1e-6)


def _present(proposals: Proposals) -> list[list[float]]:
    """Of the one image."""
    return proposals.boxes[proposals.present].tolist()


def test_a_short_level_is_no_worse_for_the_places_behind_it() -> None:
    rpn = _rpn(in_features=("p2", "p3"), pre_nms=(50, 50), post_nms=(3, 3), nms_thresh=0.5).eval()
    anchors = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [0, 8, 8, 16], [0, 0, 8, 7], [0, 0, 8, 8]])
    logits = torch.tensor([[0.1, 0.2, -3.0, 0.3, -1.0]])  # the last is the other level's
    found = rpn._propose(anchors, logits, torch.zeros(1, 5, 4), [4, 1], _SIZES)
    # the first is suppressed by the fourth, that of the other level is not; then by score over both levels
    assert _present(found) == [[0.0, 0.0, 8.0, 7.0], [8.0, 0.0, 16.0, 8.0], [0.0, 0.0, 8.0, 8.0]]


def test_proposals_are_the_best_scored_without_overlap_or_empty_ones() -> None:
    rpn = _rpn(pre_nms=(3, 3), post_nms=(2, 2), nms_thresh=0.5).eval()
    (anchors,) = rpn.anchors([torch.zeros(1, 1, 2, 2)])
    logits, codes = torch.tensor([[0.1, 0.9, 0.5, 0.7]]), torch.zeros(1, 4, 4)
    assert _present(rpn._propose(anchors, logits, codes, [4], _SIZES)) == [
        [8.0, 0.0, 16.0, 8.0],
        [8.0, 8.0, 16.0, 16.0],
    ]
    codes[0, 3, 1] = -1.0  # the second best moves up by its height, onto the best
    assert _present(rpn._propose(anchors, logits, codes, [4], _SIZES)) == [[8.0, 0.0, 16.0, 8.0], [0.0, 8.0, 8.0, 16.0]]
    assert _present(rpn._propose(anchors, logits, codes, [4], _SIZES / 2)) == []  # all three lie outside this image


def _heads(**settings: object) -> RoiHeads:
    base = replace(RoiSettings.from_config(tiny_config("FPN").cfg), classes=2, **settings)
    return RoiHeads(torch.nn.Identity(), torch.nn.Identity(), torch.nn.Identity(), base)


def test_detections_are_thresholded_suppressed_by_class_and_limited() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 60]])[None, :, None].expand(-1, -1, 2, -1)
    scores, sizes = torch.tensor([[[0.9, 0.3], [0.8, 0.0], [0.04, 0.6]]]), torch.tensor([[50.0, 50.0]])
    (found,) = _heads(score_thresh=0.05, nms_thresh=0.5, per_image=100).select(boxes, scores, sizes)
    # the second box is the first one's duplicate in class 0; class 1 keeps the first box, since it is another class
    assert [round(s, 2) for s in found.scores.tolist()] == [0.9, 0.6, 0.3]
    assert found.classes.tolist() == [0, 1, 1]
    assert found.boxes[1].tolist() == [20.0, 20.0, 30.0, 50.0]
    assert len(_heads(per_image=2).select(boxes, scores, sizes)[0].scores) == 2
    # boxes that all classes share; and images of a batch do not suppress one another
    (shared, none, again) = _heads(score_thresh=0.05).select(
        boxes[:, :, :1].expand(3, -1, -1, -1), torch.stack([scores[0], scores[0] * 0, scores[0]]), sizes.expand(3, -1)
    )
    assert shared.boxes.tolist() == found.boxes.tolist() == again.boxes.tolist()
    assert len(none.boxes) == 0
    scores[0, 0, 0] = float("nan")
    assert len(_heads().select(boxes, scores, sizes)[0].scores) == 2


def test_roi_losses_by_hand() -> None:
    heads = _heads(append_truth=True, batch_size_per_image=4, positive_fraction=1.0, beta=0.0, loc_weight=2.0)
    heads._predict = lambda features, boxes, rows: (torch.zeros(len(rows), 3), torch.zeros(len(rows), 8), None)
    boxes = torch.tensor([[[0.0, 0.0, 8.0, 8.0], [50.0, 50.0, 60.0, 60.0], [0.0, 0.0, 10.0, 8.0]]])
    proposals = Proposals(boxes, torch.tensor([[True, True, False]]))  # the third is none
    truth = Truth.padded([torch.tensor([[0.0, 0.0, 10.0, 8.0]])], [torch.tensor([1])])
    losses = heads.losses({}, proposals, truth, _SEEDS[:1])
    assert math.isclose(losses["loss_cls"].item(), math.log(3), rel_tol=1e-6)
    # sampled: the proposal with IoU 0.8, the appended truth (code 0) and one background;
    # centre moves by 1 of 8 pixels (weight 10), width grows by 10/8 (weight 5)
    expected = (10 / 8 + 5 * math.log(10 / 8)) / 3 * 2.0
    assert math.isclose(losses["loss_box_reg"].item(), expected, rel_tol=1e-5)


def test_empty_places_change_nothing_when_they_go_through_the_head() -> None:
    """As on a GPU, where nobody waits to know them."""
    heads = _heads(append_truth=True, batch_size_per_image=6, positive_fraction=0.5)
    generator = torch.Generator().manual_seed(0)
    heads.box_predictor = torch.nn.Linear(4, 3 + 8)
    heads._predict = lambda features, boxes, rows: (
        *heads.box_predictor(boxes.flatten(0, 1)[rows] / 50).split([3, 8], 1),
        None,
    )
    corner, side = torch.rand(2, 2, 5, 2, generator=generator) * 40
    proposals = Proposals(torch.cat([corner, corner + side + 1], 2), torch.tensor([[True] * 5, [True] + [False] * 4]))
    truth = Truth.padded(
        [proposals.boxes[0, :2] + 1, torch.zeros(0, 4)], [torch.tensor([1, 0]), torch.tensor([]).long()]
    )
    found = []
    for rows in (heads._rows, lambda there: slice(None)):
        heads._rows = rows
        heads.zero_grad()
        losses = heads.losses({}, proposals, truth, _SEEDS)
        sum(losses.values()).backward()
        found.append([*losses.values(), heads.box_predictor.weight.grad.clone()])
    assert found[0][1] > 0
    for taken_out, weightless in zip(*found):
        torch.testing.assert_close(weightless, taken_out)
