"""Parameters and operations that are counted without running, against published figures and torchvision's networks."""

from __future__ import annotations

import pytest
import torch
import torchvision

from scaleprior.backbones import TimmSpec
from scaleprior.backbones.trunks.family import TrunkSpec
from scaleprior.backbones.trunks.selection import spec_from_config
from scaleprior.config import load_config
from scaleprior.errors import UserError
from scaleprior.pretrain.costs.arithmetic import network_cost
from scaleprior.pretrain.network.pretrainer import Pretrainer

LABELS = 1000


def pretrainer(*keys: str, spec: TrunkSpec | None = None) -> Pretrainer:
    """The network of a config, or of ``spec``, on the meta device."""
    spec = spec or spec_from_config(load_config("Pretrain/Base-Pretrain.yaml", keys).cfg)
    with torch.device("meta"):
        return Pretrainer(spec, LABELS, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0)


# torchvision prints multiply-adds ("GFLOPS") and parameters of its networks, which stride in the 3x3 convolution.
@pytest.mark.parametrize("depth", [50, 101, 152])
def test_a_resnet_costs_what_torchvision_publishes(depth: int) -> None:
    published = getattr(torchvision.models, f"ResNet{depth}_Weights").IMAGENET1K_V1.meta
    cost = network_cost(
        pretrainer("MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.STRIDE_IN_1X1", "False"), [(1, 224)]
    )
    assert cost.trunk_parameters + cost.head_parameters == published["num_params"]
    assert cost.head_parameters == (2048 + 1) * LABELS
    assert cost.forward / 2e9 == pytest.approx(published["_ops"], abs=6e-4)  # which has three places


# He et al. 2015 (arXiv 1512.03385), table 1, stride in the first 1x1 convolution: 3.8, 7.6 and 11.3 billion.
@pytest.mark.parametrize(("depth", "billions"), [(50, 3.8), (101, 7.6), (152, 11.3)])
def test_detectron2s_form_costs_what_the_paper_says(depth: int, billions: float) -> None:
    cost = network_cost(
        pretrainer("MODEL.RESNETS.DEPTH", str(depth), "MODEL.RESNETS.STRIDE_IN_1X1", "True"), [(1, 224)]
    )
    assert cost.forward / 2e9 == pytest.approx(billions, abs=0.06)


def test_training_is_three_forward_passes_but_for_the_gradient_of_the_pixels() -> None:
    cost = network_cost(pretrainer("MODEL.RESNETS.RES2_OUT_CHANNELS", "32"), [(1, 64)])
    stem = 2 * 64 * 3 * 7 * 7 * 32 * 32  # 64 filters of 3 x 7 x 7 at 32 x 32 places
    assert cost.training == 3 * cost.forward - stem
    assert 2.9 < cost.multiple < 3


def test_a_frozen_trunk_has_no_backward_pass() -> None:
    model = pretrainer("MODEL.RESNETS.RES2_OUT_CHANNELS", "32").freeze_trunk()
    cost = network_cost(model, [(1, 64)])
    head = 2 * 256 * LABELS  # the gradient of its weights; none goes back to its 256 features
    assert cost.training == cost.forward + head


def test_growing_crops_cost_the_mean_over_the_images() -> None:
    model = pretrainer("MODEL.RESNETS.RES2_OUT_CHANNELS", "32")
    small, large = (network_cost(model, [(1, side)]).forward for side in (32, 64))
    assert network_cost(model, [(0.25, 32), (0.75, 64)]).forward == pytest.approx(small / 4 + large * 3 / 4, rel=1e-9)


def test_a_convnext_costs_what_torchvision_publishes() -> None:
    published = torchvision.models.ConvNeXt_Tiny_Weights.IMAGENET1K_V1.meta
    cost = network_cost(pretrainer(spec=TimmSpec("convnext_tiny")), [(1, 224)])
    assert cost.trunk_parameters + cost.head_parameters == published["num_params"]
    assert cost.forward / 2e9 == pytest.approx(published["_ops"], abs=6e-4)
    stem = 2 * 96 * 3 * 4 * 4 * 56 * 56
    assert cost.training == 3 * cost.forward - stem  # convolutions by channel, too


@pytest.mark.parametrize("model", ["resnetv2_50x1_bit", "resnet50_clip"])
def test_trunks_of_other_families_are_counted(model: str) -> None:
    cost = network_cost(pretrainer(spec=TimmSpec(model)), [(1, 64)])
    assert 2.9 < cost.multiple < 3


def test_an_operation_that_torch_cannot_count_is_named() -> None:
    model = pretrainer("MODEL.RESNETS.RES2_OUT_CHANNELS", "32")
    model.head.forward = torch.nonzero  # whose result has as many rows as the numbers say
    with pytest.raises(UserError, match=r"R-50.*cannot be counted"):
        network_cost(model, [(1, 32)])
