"""Objects of a batch, padded to one number."""

from __future__ import annotations

import torch

from scaleprior.detect.data.segmentation import Polygons, Segmentation
from scaleprior.detect.faster_rcnn.truth import Truth


def test_padding_keeps_every_object_and_adds_none() -> None:
    boxes = [torch.tensor([[1.0, 2, 3, 4]]), torch.zeros(0, 4), torch.tensor([[5.0, 6, 7, 8], [9, 10, 11, 12]])]
    classes = [torch.tensor([4]), torch.zeros(0, dtype=torch.int64), torch.tensor([0, 2])]
    truth = Truth.padded(boxes, classes)
    assert truth.boxes.shape == (3, 2, 4)
    assert truth.present.tolist() == [[True, False], [False, False], [True, True]]
    assert truth.boxes[0, 1].tolist() == [0.0] * 4
    for found, given in zip(truth.lists(), (boxes, classes)):
        assert [each.tolist() for each in found] == [each.tolist() for each in given]


def test_a_batch_without_any_object_has_an_empty_place() -> None:
    truth = Truth.padded([torch.zeros(0, 4)] * 2, [torch.zeros(0, dtype=torch.int64)] * 2)
    assert truth.boxes.shape == (2, 1, 4)
    assert not truth.present.any()


def test_masks_stay_with_the_host() -> None:
    boxes, classes = [torch.zeros(1, 4)], [torch.zeros(1, dtype=torch.int64)]
    masks: list[list[Segmentation]] = [[Polygons.of([[0, 0, 1, 0, 1, 1]])]]
    truth = Truth.padded(boxes, classes, masks).to(torch.device("meta"))
    assert truth.boxes.is_meta
    assert truth.masks is masks
    assert Truth.padded(boxes, classes).masks is None
