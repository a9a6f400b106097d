"""Masks of boxes as run lengths of their image."""

from __future__ import annotations

import faster_coco_eval.core.mask as mask_api
import numpy as np
import pytest
import torch
from torch import Tensor

from scaleprior.detect.data.segmentation import run_lengths
from scaleprior.detect.faster_rcnn import paste
from scaleprior.detect.faster_rcnn.paste import paste_masks


def _runs(counts: str) -> list[int]:
    runs = run_lengths(counts.encode())
    assert runs is not None
    return runs.tolist()


def _detections(seed: int, count: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Blurred masks in boxes of any size within the image; some fill the whole of it."""
    generator = torch.Generator().manual_seed(seed)
    masks = torch.rand(count, 1, 7, 7, generator=generator)
    masks = torch.nn.functional.interpolate(masks, size=28, mode="bilinear")[:, 0]
    masks[::5] = masks[::5].clamp(min=0.5)
    sides = torch.tensor([width, height], dtype=torch.float32)
    corners = torch.rand(count, 2, 2, generator=generator) * sides
    boxes = torch.cat([corners.amin(dim=1), corners.amax(dim=1) + 0.01], dim=1)
    boxes[:6] = torch.cat([torch.zeros(2), sides])
    return masks, torch.minimum(boxes, torch.cat([sides, sides]))


def test_a_full_mask_is_its_box() -> None:
    boxes = torch.tensor([[1.0, 1, 3, 4], [0, 0, 4, 5], [2, 0, 4, 5]])
    found = paste_masks(torch.ones(3, 28, 28), boxes, 5, 4)
    # down columns of 5 pixels: one of nothing, then twice 1 of nothing, 3 of the object, 1 of nothing; one of nothing
    assert [_runs(counts) for counts in found] == [[6, 3, 2, 3, 6], [0, 20], [10, 10]]


def test_nothing_found_and_nothing_of_an_object() -> None:
    assert paste_masks(torch.zeros(0, 28, 28), torch.zeros(0, 4), 5, 4) == []
    assert [_runs(c) for c in paste_masks(torch.zeros(1, 28, 28), torch.tensor([[0.0, 0, 4, 5]]), 5, 4)] == [[20]]


@pytest.mark.parametrize(("height", "width"), [(37, 53), (1, 9), (9, 1)])
def test_many_at_once_are_each_alone(monkeypatch: pytest.MonkeyPatch, height: int, width: int) -> None:
    masks, boxes = _detections(0, 20, height, width)
    alone = paste_masks(masks, boxes, height, width)
    whole = ((0, 0), (width, height))
    monkeypatch.setattr(paste, "_windows", lambda *_: [(slice(0, 7), *whole), (slice(7, 20), *whole)])
    assert paste_masks(masks, boxes, height, width) == alone


@pytest.mark.detectron2
@pytest.mark.parametrize(("height", "width"), [(60, 80), (33, 20)])
def test_pixels_and_run_lengths_are_detectron2s(height: int, width: int) -> None:
    from detectron2.layers.mask_ops import paste_masks_in_image

    masks, boxes = _detections(1, 200, height, width)
    theirs = paste_masks_in_image(masks, boxes, (height, width))
    assert 0.02 < theirs.float().mean() < 0.5
    encoded = mask_api.encode(np.asfortranarray(theirs.permute(1, 2, 0).numpy().astype(np.uint8)))
    assert paste_masks(masks, boxes, height, width) == [each["counts"].decode() for each in encoded]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_the_same_pixels() -> None:
    masks, boxes = _detections(2, 100, 480, 640)
    here = mask_api.decode([{"counts": c, "size": [480, 640]} for c in paste_masks(masks, boxes, 480, 640)])
    there = paste_masks(masks.cuda(), boxes.cuda(), 480, 640)
    differing = mask_api.decode([{"counts": c, "size": [480, 640]} for c in there]) != here
    assert differing.mean() < 1e-5  # where a probability is a half but for its last bit
