"""The FPN's box head: the same of maps however they lie in memory."""

from __future__ import annotations

import pytest
import torch

from scaleprior.detect.faster_rcnn.parts.box_head import BoxHead


@pytest.mark.parametrize("regions", [3, 20])  # fewer and more than the layer has outputs
@pytest.mark.parametrize("conv_dims", [(), (6,)])
def test_where_channels_lie_in_memory_changes_nothing(regions: int, conv_dims: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    head = BoxHead(4, 3, conv_dims, (8, 5)).double()
    maps = torch.randn(regions, 4, 3, 3, dtype=torch.float64)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        x = maps.clone(memory_format=layout).requires_grad_()
        head.zero_grad()
        out = head(x)
        (out * torch.linspace(0, 1, out.numel(), dtype=torch.float64).view_as(out)).sum().backward()
        found.append((out.detach(), x.grad, *(p.grad.clone() for p in head.parameters())))
    assert found[0][0].shape == (regions, 5)
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)


def test_the_gradient_of_maps_with_channels_last_is_no_copy() -> None:
    head = BoxHead(4, 3, (), (8,))
    maps = torch.randn(20, 4, 3, 3).contiguous(memory_format=torch.channels_last).requires_grad_()
    head(maps).sum().backward()
    assert maps.grad is not None
    assert maps.grad.is_contiguous(memory_format=torch.channels_last)
