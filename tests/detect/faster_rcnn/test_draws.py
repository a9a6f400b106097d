"""Random numbers by hash: reproducible, independent of the company they are in, even."""

from __future__ import annotations

import torch

from scaleprior.detect.faster_rcnn.parts.draws import ANCHORS, KEYS, REGIONS, random_keys


def _lowbias32(x: int) -> int:
    """Wellons' published function, in Python's whole numbers."""
    x ^= x >> 16
    x = x * 0x7FEB352D % 2**32
    x ^= x >> 15
    x = x * 0x846CA68B % 2**32
    return x ^ x >> 16


def test_numbers_are_those_of_the_published_hash() -> None:
    seeds = [0, 1, 12345, 2**32 - 1]
    expected = [
        [_lowbias32(_lowbias32(index) ^ _lowbias32((seed + REGIONS * 0x9E3779B9) % 2**32)) for index in range(50)]
        for seed in seeds
    ]
    assert random_keys(torch.tensor(seeds), REGIONS, 50).tolist() == expected


def test_a_row_depends_on_its_seed_alone() -> None:
    seeds = torch.tensor([5, 99, 7])
    keys = random_keys(seeds, ANCHORS, 20)
    assert torch.equal(random_keys(seeds[1:2], ANCHORS, 30)[0, :20], keys[1])
    assert not torch.equal(random_keys(seeds, REGIONS, 20), keys)


def test_numbers_are_even_and_rows_unlike() -> None:
    keys = random_keys(torch.arange(64), ANCHORS, 4096)
    assert keys.min() >= 0 < KEYS - 1 - keys.max()
    assert len(torch.unique(keys)) > 64 * 4096 - 30  # 16 are expected to meet by chance
    counts = torch.histc((keys / KEYS).float(), 16, 0, 1)
    assert (counts / (64 * 4096 / 16) - 1).abs().max() < 0.04  # 5 standard deviations
    values = keys.double() - keys.double().mean()
    correlation = torch.corrcoef(values)
    assert (correlation - torch.eye(64)).abs().max() < 0.09  # sigma is 1 / 64
