"""Anchors against Detectron2's formula, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from scaleprior.detect.faster_rcnn.parts.anchors import AnchorGrid, cell_anchors
from scaleprior.errors import UserError


def test_cell_anchors_have_the_area_and_the_ratio_and_are_not_rounded() -> None:
    anchors = cell_anchors([32, 64], [0.5, 1.0])
    # height = ratio * width and height * width = 32^2: width = 32 / sqrt(0.5)
    w = 32 / math.sqrt(0.5)
    expected = [[-w / 2, -w / 4, w / 2, w / 4], [-16.0, -16.0, 16.0, 16.0], [-w, -w / 2, w, w / 2], [-32, -32, 32, 32]]
    torch.testing.assert_close(anchors, torch.tensor(expected))


def test_grid_order_is_rows_cells_shapes() -> None:
    grid = AnchorGrid([[8]], [[1.0]], [4], offset=0.5)
    (anchors,) = grid([torch.zeros(1, 3, 2, 3)])
    centres = ((anchors[:, :2] + anchors[:, 2:]) / 2).tolist()
    assert centres == [[2.0, 2.0], [6.0, 2.0], [10.0, 2.0], [2.0, 6.0], [6.0, 6.0], [10.0, 6.0]]


def test_another_size_is_not_served_from_the_kept_one() -> None:
    grid = AnchorGrid([[8], [16]], [[1.0]], [4, 8])
    assert [len(a) for a in grid([torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 1, 1)])] == [4, 1]
    assert [len(a) for a in grid([torch.zeros(1, 1, 4, 2), torch.zeros(1, 1, 2, 1)])] == [8, 2]


def test_bad_settings_name_the_key() -> None:
    with pytest.raises(UserError, match=r"MODEL\.ANCHOR_GENERATOR\.SIZES has 2 lists for 3 feature maps"):
        AnchorGrid([[8], [16]], [[1.0]], [4, 8, 16])
    with pytest.raises(UserError, match=r"OFFSET is 1\.0"):
        AnchorGrid([[8]], [[1.0]], [4], offset=1.0)


def test_anchors_of_inference_mode_are_not_kept_for_a_step_that_learns() -> None:
    """Autograd saves no tensor that inference mode made."""
    grid = AnchorGrid([[32]], [[1.0]], [16])
    with torch.inference_mode():
        (evaluated,) = grid([torch.zeros(1, 1, 3, 4)])
    (learning,) = grid([torch.zeros(1, 1, 3, 4)])
    assert evaluated.is_inference()
    assert not learning.is_inference()
    assert torch.equal(evaluated, learning)
