"""Box codes, matching and sampling against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scaleprior.detect.faster_rcnn.parts.boxes import clip, decode, encode, match, sample, smooth_l1_sum


def test_codes_by_hand() -> None:
    # a 10x20 box centred at (5, 10) moved by (2, -4) and made twice as wide, half as high
    reference = torch.tensor([[0.0, 0.0, 10.0, 20.0]])
    target = torch.tensor([[-3.0, 1.0, 17.0, 11.0]])
    codes = encode(reference, target, (10.0, 10.0, 5.0, 5.0))
    torch.testing.assert_close(codes, torch.tensor([[2.0, -2.0, 5 * math.log(2), -5 * math.log(2)]]))


def test_decode_undoes_encode_and_keeps_classes_apart() -> None:
    generator = torch.Generator().manual_seed(0)
    corner, size = torch.rand(2, 30, 2, generator=generator) * 50
    boxes = torch.cat([corner, corner + size + 1], dim=1)
    other = boxes.flip(0)
    weights = (10.0, 10.0, 5.0, 5.0)
    codes = torch.cat([encode(boxes, other, weights), encode(boxes, boxes, weights)], dim=1)
    decoded = decode(boxes, codes, weights)
    torch.testing.assert_close(decoded[:, 0], other, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(decoded[:, 1], boxes, rtol=1e-4, atol=1e-3)


def test_decode_bounds_wild_sizes_and_takes_none() -> None:
    wild = decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]]), (1, 1, 1, 1))
    torch.testing.assert_close(wild[0, 0], torch.tensor([-492.0, -492.0, 508.0, 508.0]))  # 16 * 1000 / 16 wide
    assert decode(torch.zeros(0, 4), torch.zeros(0, 8), (1, 1, 1, 1)).shape == (0, 2, 4)


def test_clip() -> None:
    boxes = torch.tensor([[-5.0, -6.0, 300.0, 40.0]])
    assert clip(boxes, (30, 100)).tolist() == [[0.0, 0.0, 100.0, 30.0]]


def test_match_labels_by_iou() -> None:
    truth = torch.tensor([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]])
    # IoU with the first: 1, 0.5, 0.25; with the second at most 0.1
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2.5], [100, 100, 110, 101]])
    index, label = match(truth, boxes, (0.3, 0.7), keep_best=False)
    assert label.tolist() == [1, -1, 0, 0]
    assert index.tolist() == [0, 0, 0, 1]
    # the second object's best box counts although it overlaps little
    assert match(truth, boxes, (0.3, 0.7), keep_best=True)[1].tolist() == [1, -1, 0, 1]
    # a threshold itself is "from it on"
    assert match(truth, boxes, (0.5,), keep_best=False)[1].tolist() == [1, 1, 0, 0]


def test_match_without_objects_is_all_background() -> None:
    index, label = match(torch.zeros(0, 4), torch.zeros(3, 4), (0.5,), keep_best=True)
    assert index.tolist() == [0, 0, 0]
    assert label.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("positives", "expected"), [(100, (25, 75)), (4, (4, 96)), (0, (0, 100))])
def test_sample_fills_up_with_negatives(positives: int, expected: tuple[int, int]) -> None:
    label = torch.zeros(1000, dtype=torch.int8)
    label[:positives] = 1
    label[500:600] = -1
    torch.manual_seed(0)
    positive, negative = sample(label, 100, 0.25)
    assert (len(positive), len(negative)) == expected
    assert (label[positive] == 1).all()
    assert (label[negative] == 0).all()
    assert len(set(negative.tolist())) == len(negative)


def test_smooth_l1_by_hand() -> None:
    prediction, target = torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0])
    assert smooth_l1_sum(prediction, target, 0.0).item() == 3.5
    # |d| 0.5 below beta 1: 0.5 * 0.25; |d| 3 above: 3 - 0.5
    assert smooth_l1_sum(prediction, target, 1.0).item() == pytest.approx(0.125 + 2.5)
