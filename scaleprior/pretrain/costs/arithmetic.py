"""Parameters of a network and its floating-point operations an image, counted and not run.

B images, S pixels a side. Counted are convolutions and matrix products by torch's ``FlopCounterMode`` on its meta
device, two operations for each multiply-add. Papers and torchvision call a multiply-add one "FLOP": R-50 at 224 pixels
is 4.09e9 of theirs (torchvision's page of ``ResNet50_Weights``, "GFLOPS") and 8.18e9 of these. Norms, activations,
pooling, the loss and the optimiser are not counted; next to the convolutions they are few, but they move memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from scaleprior.errors import UserError
from scaleprior.pretrain.network.pretrainer import Pretrainer

__all__ = ["NetworkCost", "network_cost"]

_IMAGES = 2  # a norm over the batch has no variance of one value


def _convolution_backward(
    gradient: Sequence[int],
    pixels: Sequence[int],
    weight: Sequence[int],
    _bias: Any,
    _stride: Any,
    _padding: Any,
    _dilation: Any,
    transposed: bool,
    _output_padding: Any,
    _groups: int,
    wanted: Sequence[bool],
    **_: Any,
) -> int:
    """Operations of a convolution's backward pass, from shapes: each of the two gradients takes the products of the
    forward pass. torch's own count takes no notice of groups: ConvNeXt's would be three times as much as they are."""
    once = conv_flop_count(list(pixels), list(weight), list(gradient), transposed=transposed)
    return once * sum(map(bool, wanted[:2]))


_OURS = {torch.ops.aten.convolution_backward: _convolution_backward}


@dataclass(frozen=True)
class NetworkCost:
    """What a network is and does.

    Attributes:
        trunk_parameters, head_parameters: numbers that are learned or could be.
        forward: floating-point operations of an image's forward pass, two for each multiply-add.
        training: of its forward and backward pass.
    """

    trunk_parameters: int
    head_parameters: int
    forward: int
    training: int

    @property
    def multiple(self) -> float:
        """Operations of training as a multiple of the forward pass: nearly 3, as no gradient goes back to pixels."""
        return self.training / self.forward

    def to_dict(self) -> dict[str, float]:
        """JSON-ready."""
        return {**asdict(self), "multiple": self.multiple}


def network_cost(model: Pretrainer, sides: Sequence[tuple[float, int]]) -> NetworkCost:
    """Count ``model``, which lies on torch's meta device; nothing is computed.

    Args:
        sides: (share of the images, S), as crops grow in the course of a run; of all one for most. Operations are the
            mean over the images.

    Raises:
        UserError: the network has an operation that torch cannot count so; names it.
    """
    forward = training = 0.0
    for share, side in sides:
        once, twice = _operations(model, side)
        forward, training = forward + share * once, training + share * twice
    return NetworkCost(_numbers(model.trunk), _numbers(model.head), round(forward), round(training))


def _numbers(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _operations(model: Pretrainer, side: int) -> tuple[float, float]:
    """Operations of an image forward, and forward and backward."""
    images = torch.empty(_IMAGES, side, side, 3, dtype=torch.uint8, device="meta")
    model.train()
    try:
        with FlopCounterMode(display=False, custom_mapping=_OURS) as counter:
            logits: Tensor = model(images)
            forward = counter.get_total_flops()
            logits.sum().backward()
            both = counter.get_total_flops()
    except NotImplementedError as e:  # what torch raises for an operation without a meta kernel
        raise UserError(f"the operations of {model.trunk.arch.name} cannot be counted: {e}") from e
    finally:
        model.zero_grad(set_to_none=True)
    return forward / _IMAGES, both / _IMAGES
