"""The hash order is fixed for ever: its values are pinned, and its random numbers are checked for spread."""

from __future__ import annotations

import hashlib

import numpy as np

from scaleprior.corpus.hashing import hash64, mix64, unit_interval


def test_hash64_is_blake2b_of_salt_zero_key():
    expected = int.from_bytes(hashlib.blake2b(b"salt\0a/b.jpg", digest_size=8).digest(), "big")
    assert hash64(["a/b.jpg"], "salt").tolist() == [expected]


def test_hash64_values_are_pinned():
    # A change of any of these would change which images every fraction holds.
    assert hash64(["", "a", "ä/1.jpg"]).tolist() == [10734006239897485896, 13979747489410627944, 13952388664287918579]


def test_salt_and_key_cannot_be_confused():
    assert hash64(["bc"], "a")[0] != hash64(["c"], "ab")[0]


def test_mix64_is_splitmix64():
    # First output of SplitMix64 (Steele et al. 2014) seeded with its own increment xor 0 is the finaliser of 2 * gamma.
    gamma, mask = 0x9E3779B97F4A7C15, 2**64 - 1
    z = 2 * gamma & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    assert int(mix64(0)) == z ^ z >> 31


def test_mix64_broadcasts_and_depends_on_every_part():
    keys = np.arange(1000, dtype=np.uint64)
    first, second = mix64(keys, 1), mix64(keys, 2)
    assert len(np.unique(np.concatenate([first, second]))) == 2000
    assert int(mix64(keys, 1)[7]) == int(mix64(7, 1))


def test_unit_interval_is_uniform_and_below_one():
    assert unit_interval(np.array([2**64 - 1], dtype=np.uint64))[0] < 1
    values = unit_interval(mix64(np.arange(100_000, dtype=np.uint64)))
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    # 5000 expected in each bin, standard deviation 69: six of them
    assert np.abs(counts - 5000).max() < 6 * 69
