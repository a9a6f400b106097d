"""The true box that each anchor overlaps most, against torchvision's whole matrix of overlaps."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import box_iou

from scaleprior.detect.faster_rcnn.parts import matching
from scaleprior.detect.faster_rcnn.parts.matching import best_overlaps


def some_boxes(*shape: int, seed: int) -> Tensor:
    """Boxes on whole pixels, so that many overlaps are equal."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 30, (*shape, 2), generator=generator)
    return torch.cat([corner, corner + torch.randint(1, 20, (*shape, 2), generator=generator)], dim=-1).float()


def expected(anchors: Tensor, truth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The answer for one image from ``box_iou``'s matrix."""
    if not len(truth):
        none = torch.zeros(len(anchors))
        return none - 1, none.long(), none.bool()
    matrix = box_iou(truth, anchors)
    iou, index = matrix.max(dim=0)
    return iou, index, (matrix == matrix.max(dim=1, keepdim=True).values).any(dim=0)


@pytest.mark.parametrize("part", [1, 4000, 2**26])
@pytest.mark.parametrize("own", [False, True], ids=["shared anchors", "anchors of each image"])
def test_every_image_equals_torchvisions_matrix(own: bool, part: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_PART", part)
    anchors = some_boxes(3, 57, seed=0) if own else some_boxes(57, seed=0)
    truth, counts = some_boxes(3, 6, seed=1), [6, 0, 2]
    present = torch.arange(6) < torch.tensor(counts)[:, None]
    found = best_overlaps(anchors, truth, present)
    for image, count in enumerate(counts):
        wanted = expected(anchors[image] if own else anchors, truth[image, :count])
        for mine, theirs in zip(found, wanted):
            assert torch.equal(mine[image], theirs)


def test_an_object_that_no_anchor_reaches_has_all_of_them() -> None:
    # as in Detectron2: the highest overlap is 0, and every anchor has it
    truth = torch.tensor([[[100.0, 100.0, 110.0, 110.0]]])
    iou, _, is_best = best_overlaps(some_boxes(5, seed=0), truth, torch.ones(1, 1, dtype=torch.bool))
    assert iou.tolist() == [[0.0] * 5]
    assert is_best.all()


def test_no_objects_and_no_anchors() -> None:
    iou, index, is_best = best_overlaps(torch.zeros(3, 4), torch.zeros(2, 0, 4), torch.zeros(2, 0, dtype=torch.bool))
    assert iou.tolist() == [[-1.0] * 3] * 2
    assert not index.any()
    assert not is_best.any()
    assert best_overlaps(torch.zeros(0, 4), torch.ones(2, 1, 4), torch.ones(2, 1, dtype=torch.bool))[0].shape == (2, 0)
