"""Suppression by kernels: the same boxes as torchvision's operator on a CPU, to the last one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import nms

pytestmark = pytest.mark.gpu


def some_rows(rows: int, count: int, seed: int, *, crowded: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    """Boxes [B, K, 4] on whole pixels, scores [B, K] with ties and some that are not there, groups [B, K]."""
    generator = torch.Generator().manual_seed(seed)
    span = 8 + crowded * count**0.5
    corner = (torch.rand(rows, count, 2, generator=generator) * span).round()
    size = (torch.rand(rows, count, 2, generator=generator) * 12).round()  # some have no extent
    scores = (torch.rand(rows, count, generator=generator) * count).round()
    boxes = torch.cat([corner, corner + size], dim=2)
    scores[:, 3::11], scores[:, 5::13] = -torch.inf, torch.nan
    boxes[:, 7::17, 1] = torch.inf
    return boxes, scores, torch.randint(0, 3, (rows, count), generator=generator)


def expected(
    boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None, limit: int | None = None
) -> Tensor:
    """By torchvision on the CPU, row by row and group by group."""
    kept = torch.zeros(scores.shape, dtype=torch.bool)
    there = torch.isfinite(boxes).all(dim=2) & (scores > -torch.inf)
    for row in range(len(boxes)):
        of = torch.zeros_like(scores[row], dtype=torch.int64) if groups is None else groups[row]
        for group in of.unique():
            index = torch.nonzero(there[row] & (of == group)).squeeze(1)
            kept[row, index[nms(boxes[row, index], scores[row, index], threshold)]] = True
        order = scores[row].masked_fill(~kept[row], -torch.inf).argsort(descending=True, stable=True)
        kept[row, order[len(order) if limit is None else limit :]] = False
    return kept


def by_kernel(
    device: str, boxes: Tensor, scores: Tensor, threshold: float, groups: Tensor | None = None, limit: int | None = None
) -> Tensor:
    from scaleprior.detect.faster_rcnn.kernels.nms import suppress

    there = torch.isfinite(boxes).all(dim=2) & (scores > -torch.inf)
    given = [None if t is None else t.to(device) for t in (boxes, scores, there, groups)]
    return suppress(*given[:3], threshold, given[3], limit).cpu()


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(("rows", "count"), [(2, 1), (2, 33), (1, 100), (3, 1000), (2, 4000), (1, 12000)])
def test_boxes_are_torchvisions(device: str, whole: bool, rows: int, count: int, grouped: bool) -> None:
    if count not in (1, 100) and not whole:
        pytest.skip("a GPU's sizes")
    boxes, scores, groups = some_rows(rows, count, seed=count)
    # IoUs of whole pixels hit these exactly; 0.3 is above itself in float32, 0.7 below
    for threshold, limit in ((0.3, None), (0.7, None), (0.5, count // 4)):
        case = boxes, scores, threshold, groups if grouped else None, limit
        assert torch.equal(by_kernel(device, *case), expected(*case))


@pytest.mark.parametrize(("inter", "union", "kept"), [(3, 10, 1), (7, 10, 2), (1, 2, 2)])
def test_an_overlap_of_just_the_threshold(device: str, inter: int, union: int, kept: int) -> None:
    # torchvision compares the float32 IoU with the threshold in double: float32's 0.3 is above 0.3, its 0.7 below 0.7
    boxes, scores = torch.tensor([[[0.0, 0, union, 1], [0, 0, inter, 1]]]), torch.tensor([[1.0, 0.5]])
    case = boxes, scores, inter / union
    assert int(by_kernel(device, *case).sum()) == kept
    assert int(expected(*case).sum()) == kept


def test_rows_do_not_touch_each_other(device: str) -> None:
    boxes, scores, _ = some_rows(3, 40, seed=1)
    scores[1] = -torch.inf
    assert not by_kernel(device, boxes, scores, 0.5)[1].any()
    assert torch.equal(by_kernel(device, boxes, scores, 0.5), expected(boxes, scores, 0.5))


def test_parts_of_a_row_follow_each_other(device: str, whole: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from scaleprior.detect.faster_rcnn.kernels import nms as module

    monkeypatch.setattr(module, "_MASK_BYTES", 1)  # 64 boxes at once
    boxes, scores, groups = some_rows(2, 700 if whole else 140, seed=2, crowded=0.5)
    for limit in (None, 9) if whole else (9,):
        case = boxes, scores, 0.4, groups, limit
        assert torch.equal(by_kernel(device, *case), expected(*case))


def test_memory_is_bounded() -> None:
    pytest.importorskip("triton", reason="no Triton here")
    from scaleprior.detect.faster_rcnn.kernels.nms import _part

    for rows, count in ((80, 2000), (16, 12000), (16, 6000), (1, 2**16), (1000, 100)):
        words = -(-count // 32)
        part = _part(rows, count, words, limit=count)
        assert part % 64 == 0
        assert 4 * rows * words * part <= 2**28 or part == 64


def test_no_boxes(device: str) -> None:
    for rows, count in ((0, 5), (2, 0)):
        empty = torch.zeros(rows, count, 4), torch.zeros(rows, count)
        assert by_kernel(device, *empty, 0.5).shape == (rows, count)


def test_nothing_waits_for_the_device(device: str, whole: bool) -> None:
    if not whole:
        pytest.skip("no GPU here")
    from scaleprior.detect.faster_rcnn.parts.nms import keep_best

    boxes, scores, groups = (t.to(device) for t in some_rows(4, 500, seed=3))
    kept = keep_best(boxes, scores, 0.5, groups)  # what is compiled and looked up only once
    torch.cuda.set_sync_debug_mode("error")
    try:
        again = keep_best(boxes, scores, 0.5, groups)
        keep_best(boxes, scores, 0.5, limit=10)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.equal(kept, again)
