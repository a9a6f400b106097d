"""The part of a network that overflows first, found by real float16 arithmetic on the CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names
from scaleprior.detect.overflow import first_overflow, label_of
from tests.detect.conftest import tiny_config


class _Block(nn.Module):
    """x + 300 x: float16 ends at 65,504, so of ones the second block overflows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1, bias=False)
        with torch.no_grad():
            self.conv.weight.copy_(300 * torch.eye(8).view(8, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x)


def _network() -> nn.Sequential:
    return nn.Sequential(_Block(), _Block(), _Block())


def test_the_first_map_that_float16_cannot_hold_is_named_with_its_size() -> None:
    network, ones = _network(), torch.ones(1, 8, 2, 2)
    found = first_overflow(network, lambda: network(ones), torch.float16)
    assert found is not None
    assert (found.module, found.goes_in, found.largest) == ("1.conv", False, 301.0 * 300)
    assert found.words("res4.12") == "float16 cannot hold what res4.12 puts out (largest 9e+04 in float32)"
    assert "AMP_DTYPE bfloat16" in found.hint
    assert first_overflow(network, lambda: network(ones), torch.bfloat16) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())


def test_a_sum_that_no_module_makes_is_that_of_the_module_around_it() -> None:
    network = _network()
    with torch.no_grad():
        for block in network:
            block.conv.weight.mul_(1 / 300)  # x + x
    value = torch.full((1, 8, 2, 2), 20_000.0)

    def run() -> Any:  # a block before would have put out float16, too
        return network(value.half() if torch.is_autocast_enabled("cpu") else value)

    found = first_overflow(network, run, torch.float16)
    assert found is not None
    assert (found.module, found.goes_in, found.largest) == ("1", False, 80_000.0)


def test_what_is_not_finite_in_float32_either_is_no_matter_of_the_number_type() -> None:
    network, value = _network(), torch.full((1, 8, 2, 2), math.nan)
    found = first_overflow(network, lambda: network(value), torch.float16)
    assert found is not None
    assert (found.module, found.goes_in, found.fits_float32) == ("0.conv", True, False)
    assert found.words("the stem") == "what goes into the stem is the first that is not finite, in float32, too"


def test_an_error_about_numbers_ends_the_pass_and_others_are_raised() -> None:
    network = _network()

    def run(error: type[Exception]) -> Any:
        network(torch.ones(1, 8, 2, 2))
        raise error("Predicted boxes or scores contain Inf/NaN.")

    found = first_overflow(network, lambda: run(FloatingPointError), torch.float16)
    assert found is not None
    assert found.module == "1.conv"
    with pytest.raises(KeyError):
        first_overflow(network, lambda: run(KeyError), torch.float16)


def test_modules_are_called_as_in_files() -> None:
    model = build_detector(tiny_config("FPN").cfg)
    names = model_names(model)
    said = {
        "backbone.bottom_up.trunk.body.layer3.5.conv2": "backbone.bottom_up.res4.5.conv2",
        "backbone.bottom_up.trunk.body.layer3.5.act3": "backbone.bottom_up.res4.5",
        "backbone.bottom_up.trunk.body.layer3.5": "backbone.bottom_up.res4.5",
        "backbone.bottom_up.trunk.body.conv1": "backbone.bottom_up.stem.conv1",
        "backbone.fpn.inner_blocks.1.0": "backbone.fpn_lateral3",
        "proposal_generator.rpn_head": "proposal_generator.rpn_head",
        "roi_heads.box_head.fc1": "roi_heads.box_head.fc1",
        "": "the network",
    }
    modules = dict(model.named_modules())
    assert set(said) <= set(modules)
    assert {module: label_of(module, names) for module in said} == said
