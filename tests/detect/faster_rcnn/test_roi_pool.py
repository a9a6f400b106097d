"""ROIAlign on a ramp, its two ways of computing, and the choice of levels."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import roi_align

from scaleprior.detect.faster_rcnn import kernels
from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler, pool_by_matmul


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(("aligned", "shift"), [(True, 0.5), (False, 0.0)])
def test_a_ramp_is_pooled_to_the_cells_centres(aligned: bool, shift: float, ratio: int) -> None:
    # the map's value at cell x is x, so a pooled cell is the centre's x; ROIAlignV2 puts cell 0's centre at 0.5
    ramp = torch.arange(16.0).expand(1, 1, 16, 16)
    pooler = RoiPooler(2, [4], sampling_ratio=ratio, aligned=aligned)
    pooled = pooler([ramp], torch.tensor([[8.0, 8.0, 40.0, 24.0]]), torch.tensor([0]))
    # in cells the box is 2 to 10: two pooled cells with centres 4 and 8
    torch.testing.assert_close(pooled[0, 0], torch.tensor([[4.0, 8.0], [4.0, 8.0]]) - shift)


@pytest.mark.parametrize("aligned", [True, False])
@pytest.mark.parametrize("ratio", [0, 1, 2, 3])
def test_matmul_equals_torchvisions_kernel(aligned: bool, ratio: int) -> None:
    generator = torch.Generator().manual_seed(0)
    corner = torch.rand(40, 2, generator=generator) * 70 - 5  # some boxes leave the map
    size = torch.rand(40, 2, generator=generator) * 40
    image = torch.tensor([0] * 25 + [2] * 15)  # the second image has no box
    rois = torch.cat([image[:, None], corner, corner + size], dim=1).double()
    maps = [torch.rand(3, 5, 16, 20, generator=generator).double().requires_grad_() for _ in range(1)]
    outputs, gradients = [], []
    for function in (roi_align, pool_by_matmul):
        pooled = function(maps[0], rois, 3, 0.25, ratio, aligned)
        (gradient,) = torch.autograd.grad((pooled * torch.linspace(0, 1, pooled.numel()).view_as(pooled)).sum(), maps)
        outputs.append(pooled.detach())
        gradients.append(gradient)
    torch.testing.assert_close(outputs[1], outputs[0])
    torch.testing.assert_close(gradients[1], gradients[0])


def test_no_boxes_keep_the_graph() -> None:
    feature = torch.zeros(2, 4, 8, 8, requires_grad=True)
    pooled = RoiPooler(3, [4], sampling_ratio=2, aligned=True)(
        [feature], torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    )
    assert pooled.shape == (0, 4, 3, 3)
    pooled.sum().backward()


def test_levels_by_the_papers_equation() -> None:
    pooler = RoiPooler(7, [4, 8, 16, 32], sampling_ratio=0, aligned=True)
    sides = torch.tensor([10.0, 111, 112, 223, 224, 447, 448, 5000])
    boxes = torch.stack([torch.zeros(8), torch.zeros(8), sides, sides], dim=1)
    # 224 is pooled from p4 (index 2), twice the side one level up, half of it one down
    assert pooler.levels(boxes).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_rows_come_back_in_the_order_of_the_proposals() -> None:
    maps = [torch.full((2, 1, 64 // 2**i, 64 // 2**i), float(i)) for i in range(2)]
    pooler = RoiPooler(1, [4, 8], sampling_ratio=2, aligned=True)
    small, large = [10.0, 10, 40, 40], [10.0, 10, 200, 200]
    boxes = torch.tensor([large, small, small, large, large])
    pooled = pooler(maps, boxes, torch.tensor([0, 0, 1, 1, 1]))
    assert pooled.flatten().tolist() == [1, 0, 0, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("ratio", [0, 2])
def test_coordinates_stay_float32_where_maps_are_of_16_bits(ratio: int, dtype: torch.dtype) -> None:
    # in bfloat16 these corners would be 800 and 808: a ramp tells a box from its neighbour
    ramp = (torch.arange(64.0) % 32).expand(1, 1, 64, 64).to(dtype).requires_grad_()
    box, image = torch.tensor([[801.0, 801.0, 805.0, 805.0]]), torch.tensor([0])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        pooled = RoiPooler(1, [16], sampling_ratio=ratio, aligned=True)([ramp], box, image)
    assert pooled.dtype == dtype
    assert pooled.item() == pytest.approx(803 / 16 - 0.5 - 32, rel=2**-8)
    (gradient,) = torch.autograd.grad(pooled.sum(), [ramp])
    assert gradient.dtype == dtype


def test_images_may_come_in_any_order() -> None:
    maps = [torch.arange(3.0)[:, None, None, None].expand(3, 2, 8, 8)]
    boxes, images = torch.tensor([[0.0, 0.0, 16.0, 16.0]]).expand(4, 4), torch.tensor([2, 0, 1, 0])
    pooled = RoiPooler(1, [4], sampling_ratio=2, aligned=True)(maps, boxes, images)
    assert pooled[:, 0].flatten().tolist() == [2, 0, 1, 0]


def test_the_kernel_is_left_alone_where_bits_are_to_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "usable", lambda tensor: True)
    pooler, maps = RoiPooler(1, [4], sampling_ratio=2, aligned=True), [torch.ones(1, 1, 8, 8)]
    assert pooler._by_kernel(maps)
    assert not pooler._by_kernel([maps[0].double()])
    assert not pooler._by_kernel(maps * 6)
    torch.use_deterministic_algorithms(True)
    try:
        assert not pooler._by_kernel(maps)
    finally:
        torch.use_deterministic_algorithms(False)
