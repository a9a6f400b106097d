"""The C4 head, whose first convolutions go before the pooling, against the stage on the pooled map."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.parts.res5_head import Res5Head
from scaleprior.detect.faster_rcnn.parts.roi_pool import RoiPooler
from tests.detect.conftest import tiny_config


def _head(norm: str, stride_in_1x1: bool) -> Res5Head:
    words = ["MODEL.RESNETS.NORM", norm, "MODEL.RESNETS.STRIDE_IN_1X1", str(stride_in_1x1)]
    if norm == "GN":
        words += ["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "32"]
    torch.manual_seed(0)
    head = build_detector(tiny_config("C4", words).cfg).roi_heads.box_head
    assert isinstance(head, Res5Head)
    for name, tensor in head.state_dict().items():
        if "bn" in name or "downsample.1" in name:
            nn.init.uniform_(tensor, 0.5, 1.5) if tensor.is_floating_point() else None
    return head.double()


@pytest.mark.parametrize("ratio", [0, 2])
@pytest.mark.parametrize(
    ("norm", "stride_in_1x1"), [("FrozenBN", False), ("FrozenBN", True), ("BN", False), ("GN", True)]
)
def test_what_comes_out_is_the_stage_on_the_pooled_map(norm: str, stride_in_1x1: bool, ratio: int) -> None:
    head = _head(norm, stride_in_1x1)
    channels = head.res5[0].conv1.in_channels
    generator = torch.Generator().manual_seed(1)
    feature = torch.randn(2, channels, 6, 8, generator=generator, dtype=torch.float64, requires_grad=True)
    corner, size = torch.rand(2, 5, 2, generator=generator, dtype=torch.float64) * 60
    boxes, images = torch.cat([corner - 8, corner + size], 1), torch.tensor([0, 0, 1, 1, 1])  # some leave the map
    pooler = RoiPooler(14, [16], sampling_ratio=ratio, aligned=True)
    asked: list[tuple[int, ...]] = []

    def pool(maps: Sequence[Tensor], step: int) -> Tensor:
        pooled = pooler(maps, boxes, images, step)
        asked.append(tuple(pooled.shape[1:]))
        return pooled

    found = []
    for mine in (True, False):
        head.zero_grad()
        out = head(head.maps([feature], pool) if mine else head.res5(pool([feature], 1)))
        (gradient,) = torch.autograd.grad((out * torch.linspace(0, 1, out.numel()).view_as(out)).sum(), feature)
        found.append((out.detach(), gradient))
    torch.testing.assert_close(found[0], found[1])
    # never the whole map of 14 x 14 cells and all channels
    width = head.res5[0].conv1.out_channels
    assert asked[0] == ((width, 7, 7) if stride_in_1x1 else (width, 14, 14))
    assert asked[1] == (head.out_channels, 7, 7)


def test_a_stage_of_other_blocks_is_taken_as_it_is() -> None:
    stage = nn.Sequential(nn.Conv2d(4, 6, 1, stride=2))
    head = Res5Head(stage, 6)
    feature = torch.randn(1, 4, 5, 5)
    pooled = RoiPooler(4, [1], sampling_ratio=2, aligned=True)(
        [feature], torch.tensor([[0.0, 0, 4, 4]]), torch.tensor([0])
    )
    torch.testing.assert_close(head.maps([feature], lambda maps, step: pooled[:, :, ::step, ::step]), stage(pooled))
