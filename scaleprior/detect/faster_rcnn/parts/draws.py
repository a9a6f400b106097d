"""Random numbers that depend on nothing but who asks: the same on every device and for any number of processes.

A sampler that drew from a generator would give an image other anchors when it stands elsewhere in the batch, on another
process or on a GPU. Here a number is a hash of (seed of the image in this step, purpose, index): counter-based, as
Philox is (Salmon et al., SC 2011), with a 32-bit finaliser of Wellons' (lowbias32, 2018).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["ANCHORS", "KEYS", "REGIONS", "random_keys"]

ANCHORS, REGIONS = 1, 2  # purposes
KEYS = 2**32
_MASK = KEYS - 1


def random_keys(seeds: Tensor, purpose: int, number: int) -> Tensor:
    """Whole numbers int64 [N, number] in [0, 2**32), one row for each of ``seeds`` int64 [N]."""
    rows = _mixed((seeds + purpose * 0x9E3779B9) & _MASK)
    # The index is mixed by itself first: rows would else be each other's numbers in another order.
    columns = _mixed(torch.arange(number, device=seeds.device))
    return _mixed(columns[None] ^ rows[:, None])


def _mixed(x: Tensor) -> Tensor:
    """A bijection of [0, 2**32) in int64; of a product that overflows the lower 32 bits are right."""
    x = ((x ^ (x >> 16)) * 0x7FEB352D) & _MASK
    x = ((x ^ (x >> 15)) * 0x846CA68B) & _MASK
    return x ^ (x >> 16)
