"""Box codes, matching and sampling against values worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scaleprior.detect.faster_rcnn.parts.boxes import clip, decode, encode, match, sample, smooth_l1_sum
from scaleprior.detect.faster_rcnn.parts.draws import ANCHORS, random_keys
from scaleprior.detect.faster_rcnn.truth import Truth


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
    codes = torch.stack([encode(boxes, other, weights), encode(boxes, boxes, weights)], dim=1)
    decoded = decode(boxes[:, None], codes, weights)
    torch.testing.assert_close(decoded[:, 0], other, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(decoded[:, 1], boxes, rtol=1e-4, atol=1e-3)


def test_decode_bounds_wild_sizes_and_takes_none() -> None:
    wild = decode(torch.tensor([[0.0, 0.0, 16.0, 16.0]]), torch.tensor([[0.0, 0.0, 99.0, 99.0]]), (1, 1, 1, 1))
    torch.testing.assert_close(wild[0], torch.tensor([-492.0, -492.0, 508.0, 508.0]))  # 16 * 1000 / 16 wide
    assert decode(torch.zeros(0, 1, 4), torch.zeros(0, 2, 4), (1, 1, 1, 1)).shape == (0, 2, 4)


def test_clip() -> None:
    boxes = torch.tensor([-5.0, -6.0, 300.0, 40.0]).expand(2, 1, 1, 4)
    clipped = clip(boxes, torch.tensor([[30.0, 100.0], [35.0, 9.0]]))  # heights and widths
    assert clipped[:, 0, 0].tolist() == [[0.0, 0.0, 100.0, 30.0], [0.0, 0.0, 9.0, 35.0]]


def _truth(*boxes: list[list[float]]) -> Truth:
    return Truth.padded(
        [torch.tensor(each).view(-1, 4) for each in boxes],
        [torch.zeros(len(each), dtype=torch.int64) for each in boxes],
    )


def test_match_labels_by_iou() -> None:
    truth = _truth([[0.0, 0.0, 10.0, 10.0], [100.0, 100.0, 110.0, 110.0]])
    # IoU with the first: 1, 0.5, 0.25; with the second at most 0.1
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 2.5], [100, 100, 110, 101]])
    index, label = match(boxes, truth, (0.3, 0.7), keep_best=False)
    assert label.tolist() == [[1, -1, 0, 0]]
    assert index.tolist() == [[0, 0, 0, 1]]
    # the second object's best box counts although it overlaps little
    assert match(boxes, truth, (0.3, 0.7), keep_best=True)[1].tolist() == [[1, -1, 0, 1]]
    # a threshold itself is "from it on"
    assert match(boxes, truth, (0.5,), keep_best=False)[1].tolist() == [[1, 1, 0, 0]]


def test_match_without_objects_is_all_background_and_images_are_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 101]])
    index, label = match(boxes, _truth([], [[100.0, 100, 110, 101]]), (0.5,), keep_best=True)
    assert index.tolist() == [[0, 0], [0, 0]]
    assert label.tolist() == [[0, 0], [0, 1]]
    assert match(boxes.flip(0).expand(2, -1, -1), _truth([], [[100.0, 100, 110, 101]]), (0.5,), keep_best=False)[
        1
    ].tolist() == [[0, 0], [1, 0]]


@pytest.mark.parametrize(("positives", "expected"), [(100, (25, 75)), (4, (4, 96)), (0, (0, 100))])
def test_sample_fills_up_with_background(positives: int, expected: tuple[int, int]) -> None:
    label = torch.zeros(1, 1000, dtype=torch.int8)
    label[:, :positives] = 1
    label[:, 500:600] = -1
    index, kind = sample(label, 100, 0.25, random_keys(torch.tensor([7]), ANCHORS, 1000))
    assert kind.tolist() == [[1] * expected[0] + [0] * expected[1]]
    assert torch.equal(label.gather(1, index), kind)
    assert len(set(index[0].tolist())) == 100


def test_sample_says_where_there_is_nothing() -> None:
    label = torch.tensor([[1, -1, 0, 1], [-1, -1, -1, -1], [0, 0, 0, 0]], dtype=torch.int8)
    index, kind = sample(label, 9, 0.25, random_keys(torch.arange(3), ANCHORS, 4))
    assert kind.tolist() == [[1, 1, 0, -1], [-1] * 4, [0] * 4]
    assert torch.equal(label.gather(1, index)[kind >= 0], kind[kind >= 0])
    assert sample(label, 3, 0.2, random_keys(torch.arange(3), ANCHORS, 4))[1].tolist() == [
        [0, -1, -1],
        [-1] * 3,
        [0] * 3,
    ]


def test_every_place_is_as_likely_as_another() -> None:
    label = torch.zeros(4000, 10, dtype=torch.int8)
    label[:, :5] = 1
    index, kind = sample(label, 4, 0.5, random_keys(torch.arange(4000), ANCHORS, 10))
    for part, places in ((1, slice(0, 5)), (0, slice(5, 10))):
        # 8000 draws of 2 of 5 places: 1600 each, standard deviation sqrt(4000 * 0.4 * 0.6) = 31
        assert (torch.bincount(index[kind == part], minlength=10)[places] - 1600).abs().max() < 4 * 31


def test_smooth_l1_by_hand() -> None:
    prediction, target = torch.tensor([0.0, 3.0]), torch.tensor([0.5, 0.0])
    counts = torch.tensor([True, False])
    prediction, target = torch.stack([prediction, prediction + 7])[:, :, None], target.expand(2, -1)[:, :, None]
    prediction, target = prediction.expand(-1, -1, 2).flatten(1), target.expand(-1, -1, 2).flatten(1)  # [2, 4]
    target[1, 0] = float("nan")  # of a place that does not count
    prediction.requires_grad_()
    assert smooth_l1_sum(prediction, target, 0.0, counts).item() == 2 * 3.5
    # |d| 0.5 below beta 1: 0.5 * 0.25; |d| 3 above: 3 - 0.5
    loss = smooth_l1_sum(prediction, target, 1.0, counts)
    assert loss.item() == pytest.approx(2 * (0.125 + 2.5))
    loss.backward()
    assert prediction.grad[1].tolist() == [0.0] * 4
