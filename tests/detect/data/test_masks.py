"""What a mask head learns of an object in a box."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from scaleprior.detect.data.masks import mask_targets
from scaleprior.detect.data.segmentation import Bitmap, Polygons, Segmentation, to_image
from tests.detect.data.test_segmentation import random_polygons

SIZE = (60, 80)


def _boxes(seed: int, count: int) -> Tensor:
    """Boxes in and across SIZE, some of them thinner than a tenth of a pixel."""
    generator = np.random.default_rng(seed)
    low = generator.uniform(-4, 50, (count, 2))
    extent = np.where(generator.random((count, 2)) < 0.1, 0.05, generator.uniform(0.1, 50, (count, 2)))
    return torch.tensor(np.concatenate([low, low + extent], axis=1), dtype=torch.float32)


def test_a_square_in_its_box() -> None:
    square = Polygons.of([[20, 10, 40, 10, 40, 20, 20, 20]])
    # a quarter beyond on each side: of 8 x 8 the inner 4 x 4; the box itself: all; its right half: all; beside it: none
    boxes = torch.tensor([[10.0, 5, 50, 25], [20, 10, 40, 20], [30, 10, 40, 20], [50, 30, 60, 40]])
    targets = mask_targets([square] * 4, boxes, 8)
    assert targets.dtype == torch.bool
    expected = torch.zeros(4, 8, 8, dtype=torch.bool)
    expected[0, 2:6, 2:6] = True
    expected[1:3] = True
    assert (targets == expected).all()
    array = np.zeros(SIZE, np.uint8)
    array[10:20, 20:40] = 1
    assert (mask_targets([Bitmap.of(array)] * 4, boxes, 8) == expected).all()


def test_parts_of_an_object_are_drawn_together_and_objects_apart() -> None:
    two = Polygons.of([[0, 0, 4, 0, 4, 8, 0, 8], [2, 0, 8, 0, 8, 2, 2, 2]])
    one = Polygons.of([[0, 4, 8, 4, 8, 8, 0, 8]])
    box = torch.tensor([[0.0, 0, 8, 8]])
    targets = mask_targets([one, two, one], box.repeat(3, 1), 8)
    both = torch.zeros(8, 8, dtype=torch.bool)
    both[:, :4] = True
    both[:2] = True
    assert (targets[1] == both).all()
    assert targets[0].nonzero()[:, 0].unique().tolist() == [4, 5, 6, 7]
    assert (targets[2] == targets[0]).all()


def test_no_boxes_and_both_kinds_at_once() -> None:
    assert mask_targets([], torch.zeros(0, 4), 28).shape == (0, 28, 28)
    square = Polygons.of([[0, 0, 4, 0, 4, 4, 0, 4]])
    bitmap = to_image(square, (8, 8), (8, 8), form="bitmask")
    masks: list[Segmentation] = [bitmap, square, bitmap]
    boxes = torch.tensor([[0.0, 0, 8, 8], [0, 0, 8, 8], [2, 2, 6, 6]])
    apart = [mask_targets([mask], box[None], 14)[0] for mask, box in zip(masks, boxes)]
    assert (mask_targets(masks, boxes, 14) == torch.stack(apart)).all()


@pytest.mark.detectron2
@pytest.mark.parametrize("side", [14, 28, 64])
def test_polygons_are_drawn_as_in_detectron2(side: int) -> None:
    from detectron2.structures import PolygonMasks

    outlines = [random_polygons(seed, 1 + seed % 3, 70) for seed in range(300)]
    boxes = _boxes(0, 300)
    theirs = PolygonMasks([[np.array(p) for p in outline] for outline in outlines]).crop_and_resize(boxes, side)
    assert 0.05 < theirs.float().mean() < 0.95
    assert (mask_targets([Polygons.of(outline) for outline in outlines], boxes, side) == theirs).all()


@pytest.mark.detectron2
def test_bitmaps_are_cut_out_as_in_detectron2() -> None:
    from detectron2.structures import BitMasks

    drawn = [to_image(Polygons.of(random_polygons(seed, 2, 70)), SIZE, SIZE, form="bitmask") for seed in range(12)]
    masks = [drawn[i] for i in np.random.default_rng(1).integers(0, 12, 200)]
    boxes = _boxes(2, 200).clamp(min=0)
    boxes[:40] = boxes[:40].round()  # where pixels of a target hold just a half
    boxes[:, 0::2].clamp_(max=SIZE[1])
    boxes[:, 1::2].clamp_(max=SIZE[0])
    arrays = torch.from_numpy(np.stack([mask.array() for mask in masks]))  # type: ignore[union-attr]
    theirs = BitMasks(arrays).crop_and_resize(boxes, 28)
    assert 0.05 < theirs.float().mean() < 0.95
    assert (mask_targets(masks, boxes, 28) == theirs).all()
