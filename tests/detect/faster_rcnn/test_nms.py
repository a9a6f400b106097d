"""Suppression by torchvision's operators, row by row; the kernel's decisions are compared in ``kernels/``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torchvision.ops import batched_nms, nms

from scaleprior.detect.faster_rcnn.parts.nms import keep_best


def test_the_better_of_two_stays_and_what_is_not_there_counts_for_nothing() -> None:
    twice = [0.0, 0.0, 10.0, 10.0]
    boxes = torch.tensor([[twice, twice, [20.0, 0, 30, 10]], [twice, twice, [torch.nan, 0, 30, 10]]])
    scores = torch.tensor([[0.1, 0.9, 0.5], [0.9, -torch.inf, 0.5]])
    assert keep_best(boxes, scores, 0.5).tolist() == [[False, True, True], [True, False, False]]
    scores[0, 1] = torch.nan
    assert keep_best(boxes, scores, 0.5)[0].tolist() == [True, False, True]


def test_of_equal_scores_the_first_stays() -> None:
    boxes, scores = torch.tensor([[[0.0, 0, 10, 10]] * 3]), torch.tensor([[0.5, 0.5, 0.5]])
    assert keep_best(boxes, scores, 0.5).tolist() == [[True, False, False]]


def test_groups_leave_each_other_alone_and_the_limit_is_of_a_row() -> None:
    boxes = torch.tensor([[[0.0, 0, 10, 10]] * 4])
    scores, groups = torch.tensor([[0.1, 0.2, 0.3, 0.4]]), torch.tensor([[0, 1, 2, 0]])
    assert keep_best(boxes, scores, 0.5, groups).tolist() == [[False, True, True, True]]
    assert keep_best(boxes, scores, 0.5, groups, limit=2).tolist() == [[False, False, True, True]]


def test_no_rows_and_no_boxes() -> None:
    for rows, count in ((0, 4), (2, 0)):
        assert keep_best(torch.zeros(rows, count, 4), torch.zeros(rows, count), 0.5).shape == (rows, count)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 40), threshold=st.sampled_from([0.0, 0.3, 0.5, 0.7, 1.0]))
def test_every_row_is_torchvisions(seed: int, count: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.randint(0, 12, (3, count, 2), generator=generator)
    boxes = torch.cat([corner, corner + torch.randint(0, 8, (3, count, 2), generator=generator)], dim=2).float()
    scores = torch.randint(0, 6, (3, count), generator=generator).float()
    groups = torch.randint(0, 3, (3, count), generator=generator)
    kept, of_groups = keep_best(boxes, scores, threshold), keep_best(boxes, scores, threshold, groups)
    for row in range(3):
        assert kept[row].nonzero().squeeze(1).tolist() == sorted(nms(boxes[row], scores[row], threshold).tolist())
        chosen = batched_nms(boxes[row], scores[row], groups[row], threshold)
        assert of_groups[row].nonzero().squeeze(1).tolist() == sorted(chosen.tolist())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_scores_may_be_of_16_bits(dtype: torch.dtype) -> None:
    boxes, scores = torch.tensor([[[0.0, 0, 10, 10], [0, 0, 10, 9]]]), torch.tensor([[0.25, 0.5]])
    assert keep_best(boxes, scores.to(dtype), 0.5).tolist() == [[False, True]]
