"""Matching by kernel: the same overlaps, bits and all, as torch's on a CPU."""

from __future__ import annotations

import pytest
import torch

from scaleprior.detect.faster_rcnn.parts.matching import best_overlaps
from tests.detect.faster_rcnn.test_matching import some_boxes

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("own", [False, True], ids=["shared anchors", "anchors of each image"])
@pytest.mark.parametrize(("objects", "count"), [(6, 57), (1, 1), (40, 30_000)])
def test_overlaps_are_torchs(device: str, whole: bool, objects: int, count: int, own: bool) -> None:
    from scaleprior.detect.faster_rcnn.kernels.matching import best_of_all

    if count > 100 and not whole:
        pytest.skip("a GPU's sizes")
    anchors = some_boxes(4, count, seed=0) if own else some_boxes(count, seed=0)
    truth = some_boxes(4, objects, seed=1) + torch.rand(4, objects, 4, generator=torch.Generator().manual_seed(2))
    truth[3, 0] = torch.tensor([500.0, 500.0, 510.0, 510.0])  # which no anchor reaches
    present = torch.arange(objects) < torch.tensor([objects, 0, 2, 1])[:, None]
    found = best_of_all(anchors.to(device), truth.to(device), present.to(device))
    for mine, theirs in zip(found, best_overlaps(anchors, truth, present)):
        assert torch.equal(mine.cpu(), theirs)


def test_no_objects_and_no_anchors(device: str) -> None:
    from scaleprior.detect.faster_rcnn.kernels.matching import best_of_all

    none = torch.zeros(2, 0, dtype=torch.bool, device=device)
    iou, index, is_best = best_of_all(torch.ones(3, 4, device=device), torch.zeros(2, 0, 4, device=device), none)
    assert iou.tolist() == [[-1.0] * 3] * 2
    assert not index.any()
    assert not is_best.any()
    one = torch.ones(2, 1, 4, device=device), torch.ones(2, 1, dtype=torch.bool, device=device)
    assert best_of_all(torch.zeros(0, 4, device=device), *one)[0].shape == (2, 0)
