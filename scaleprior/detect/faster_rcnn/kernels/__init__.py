"""Kernels in Triton for what torch and torchvision do only image by image or after waiting for the GPU.

Triton comes with torch's builds for CUDA. Nothing here imports it before :func:`usable` said yes; who has no use for it
(a CPU, another GPU, no Triton) takes torchvision's operators, in ``parts/``.
"""

from __future__ import annotations

import logging
from functools import cache

import torch
from torch import Tensor

from scaleprior.training.memory import is_out_of_memory

__all__ = ["usable"]

logger = logging.getLogger(__name__)


def usable(tensor: Tensor) -> bool:
    """Whether the kernels run where ``tensor`` is: on an NVIDIA GPU, with a Triton that can build them."""
    return tensor.is_cuda and _builds(tensor.device)


@cache
def _builds(device: torch.device) -> bool:
    """Whether Triton makes and starts a first kernel on ``device``; what it lacks is told in a warning, once."""
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        return False  # written for, and tried on, NVIDIA's from Ampere on, the first that have bfloat16
    try:
        from scaleprior.detect.faster_rcnn.kernels.probe import doubled

        return doubled(21, device) == 42
    except Exception as e:  # no Triton, no C compiler, no headers of Python, a cache that cannot be written, ...
        if is_out_of_memory(e):  # of a GPU that others fill at the moment, which says nothing about Triton
            raise
        said = " ".join(f"{type(e).__name__}: {e}".split())[:200]
        logger.warning("no Triton kernels here, so torchvision's slower operators are used (%s)", said)
        return False
