"""ROIAlign by kernel, forward and backward, against torchvision's in float32, level by level."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchvision.ops import roi_align

from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler

pytestmark = pytest.mark.gpu

# Sums are taken in another order than torchvision's; 16-bit types round the result once: to 2**-11 and 2**-8 of it.
TOLERANCE = {torch.float32: (1e-4, 1e-4), torch.float16: (2e-3, 2e-3), torch.bfloat16: (1e-2, 1e-2)}


def some_boxes(count: int, seed: int = 0) -> Tensor:
    """Boxes about an image of 164 x 192: within it, over its edges, outside, without extent, all of it."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 170 - 8
    boxes = torch.cat([corner, corner + torch.rand(count, 2, generator=generator) ** 2 * 150], dim=1)
    boxes[:5] = torch.tensor(
        [[0, 0, 0, 0], [9.3, 7, 9.3, 20], [-50, -50, -45, -45], [0, 0, 192, 164], [180, 150, 220, 170]]
    )
    return boxes


def some_maps(levels: int, channels: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(levels)
    sizes = [(41 // 2**i + 1, 48 // 2**i) for i in range(levels)]
    maps = [torch.rand(2, channels, *size, generator=generator).to(dtype) for size in sizes]
    return [m.contiguous(memory_format=torch.channels_last) for m in maps]


def check(
    device: str, pooler: RoiPooler, maps: list[Tensor], boxes: Tensor, *, levels: Tensor | None = None
) -> tuple[Tensor, list[Tensor]]:
    """Pool, go back, and compare both with torchvision's operator on float32 maps."""
    from scaleprior.detect.faster_rcnn.kernels.roi_align import Pooling, pool

    dtype = maps[0].dtype
    images = torch.arange(len(boxes)) % 2
    levels = pooler.levels(boxes) if levels is None else levels
    mine = [m.to(device).requires_grad_() for m in maps]
    pooling = Pooling(pooler.resolution, 1 / pooler.strides[0], pooler.sampling_ratio, pooler.aligned)
    pooled = pool(mine, boxes.to(device), images.to(device), levels.to(device), pooling)
    assert pooled.dtype == dtype
    assert pooled.is_contiguous(memory_format=torch.channels_last)
    slope = torch.rand(pooled.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    gradients = torch.autograd.grad(pooled, mine, slope.to(device))

    wide = [m.float().requires_grad_() for m in maps]
    wanted = torch.zeros(pooled.shape)
    for level, (feature, stride) in enumerate(zip(wide, pooler.strides)):
        rows = torch.nonzero(levels == level).squeeze(1)
        rois = torch.cat([images[rows, None].float(), boxes[rows]], dim=1)
        part = roi_align(feature, rois, pooler.resolution, 1 / stride, pooler.sampling_ratio, pooler.aligned)
        wanted = wanted.index_put((rows,), part)
    wanted_gradients = torch.autograd.grad(wanted, wide, slope.float())
    rtol, atol = TOLERANCE[dtype]
    torch.testing.assert_close(pooled.float().cpu(), wanted, rtol=rtol, atol=atol)
    for ours, theirs in zip(gradients, wanted_gradients):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.float().cpu(), theirs, rtol=rtol, atol=atol)
    return pooled, list(gradients)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize("levels", [1, 4])
@pytest.mark.parametrize("dtype", list(TOLERANCE), ids=str)
def test_pooled_squares_and_gradients_are_torchvisions(
    device: str, whole: bool, dtype: torch.dtype, levels: int, ratio: int, aligned: bool
) -> None:
    if not whole and (dtype != torch.float32 or levels == 1):
        pytest.skip("a GPU's share")
    strides = [(4 if whole else 32) * 2**i for i in range(levels)]
    pooler = RoiPooler(7 if whole else 2, strides, sampling_ratio=ratio, aligned=aligned)
    check(device, pooler, some_maps(levels, 24 if whole else 3, dtype), some_boxes(200 if whole else 6))


@pytest.mark.parametrize(("channels", "side"), [(1, 7), (3, 14), (256, 7), (300, 3), (1024, 14), (2048, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_any_number_of_channels(device: str, whole: bool, dtype: torch.dtype, channels: int, side: int) -> None:
    if not whole and (channels > 1 or dtype != torch.float16):
        pytest.skip("a GPU's sizes")
    pooler = RoiPooler(side if whole else 2, [16 if whole else 32], sampling_ratio=0, aligned=True)
    check(device, pooler, some_maps(1, channels, dtype), some_boxes(40 if whole else 6))


def test_maps_may_lie_in_memory_as_they_like(device: str) -> None:
    pooler = RoiPooler(2, [8, 16], sampling_ratio=1, aligned=False)
    maps = some_maps(2, 4, torch.float32)
    one, gradients = check(device, pooler, maps, some_boxes(6))
    other, others = check(device, pooler, [m.contiguous() for m in maps], some_boxes(6))
    assert torch.equal(one, other)
    for a, b in zip(gradients, others):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(("side", "step"), [(4, 2), (5, 2), (7, 3)])
def test_cells_that_are_left_out_change_no_other(device: str, whole: bool, side: int, step: int) -> None:
    if not whole and side > 4:
        pytest.skip("a GPU's sizes")
    from scaleprior.detect.faster_rcnn.kernels.roi_align import Pooling, pool

    feature = some_maps(1, 5 if whole else 1, torch.float32)[0].to(device).requires_grad_()
    boxes, scale = some_boxes(20 if whole else 6).to(device), 0.25 if whole else 1 / 32
    zeros = torch.zeros(len(boxes), dtype=torch.int64)
    found = []
    for pooling in (Pooling(side, scale, 0, aligned=True, step=step), Pooling(side, scale, 0, aligned=True)):
        pooled = pool([feature], boxes, zeros.to(device), zeros.to(device), pooling)
        pooled = pooled if pooling.step == step else pooled[:, :, ::step, ::step]
        assert pooled.shape[2:] == (-(-side // step),) * 2
        slope = torch.linspace(0, 1, pooled.numel(), device=device).view(pooled.shape)
        found.append((pooled.detach(), *torch.autograd.grad(pooled, feature, slope)))
    torch.testing.assert_close(found[0], found[1])


def test_five_levels_in_any_order(device: str, whole: bool) -> None:
    pooler = RoiPooler(1, [4, 8, 16, 32, 64], sampling_ratio=2, aligned=True)
    levels = torch.tensor([4, 0, 3, 3, 1, 2, 4, 0])
    check(device, pooler, some_maps(5, 2, torch.float32), some_boxes(8), levels=levels)


def test_a_box_that_is_not_finite_pools_zeros(device: str) -> None:
    from scaleprior.detect.faster_rcnn.kernels.roi_align import Pooling, pool

    boxes = torch.tensor([[torch.nan, 0, 9, 9], [0, 0, torch.inf, 9], [-torch.inf, 0, 9, 9]], device=device)
    maps = [m.to(device) for m in some_maps(1, 2, torch.float32)]
    none = torch.zeros(3, dtype=torch.int64, device=device)
    for ratio in (0, 2):
        assert not pool(maps, boxes, none, none, Pooling(2, 0.25, ratio, aligned=True)).any()


def test_no_boxes_keep_the_graph(device: str) -> None:
    from scaleprior.detect.faster_rcnn.kernels.roi_align import Pooling, pool

    maps = [m.to(device).requires_grad_() for m in some_maps(2, 2, torch.float32)]
    none = torch.zeros(0, dtype=torch.int64, device=device)
    pooled = pool(maps, torch.zeros(0, 4, device=device), none, none, Pooling(3, 0.25, 0, aligned=True))
    assert pooled.shape == (0, 2, 3, 3)
    assert not any(g.any() for g in torch.autograd.grad(pooled.sum(), maps))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_the_pooler_takes_the_kernel_and_makes_no_wider_copy(device: str, whole: bool, dtype: torch.dtype) -> None:
    if not whole:
        pytest.skip("no GPU here")
    pooler = RoiPooler(7, [4], sampling_ratio=0, aligned=True)
    feature = torch.rand(2, 64, 200, 200, dtype=dtype, device=device).contiguous(memory_format=torch.channels_last)
    boxes, images = some_boxes(100).to(device), torch.zeros(100, dtype=torch.int64, device=device)
    with torch.autocast(device, dtype=dtype):
        pooler([feature], boxes, images)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.set_sync_debug_mode("error")
        try:
            pooled = pooler([feature], boxes, images)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert pooled.dtype == dtype
    extra = torch.cuda.max_memory_allocated() - before
    assert extra < 1.2 * pooled.numel() * pooled.element_size()  # the maps in float32 would be 16 times that
