"""Crops: pure in (seed, epoch, key), inside the image, and right by hand on small ramps."""

from __future__ import annotations

import numpy as np
import pytest

from scaleprior.pretrain.data.augment import CropAugmentation, uniforms


def ramp(height: int, width: int) -> np.ndarray:
    """Pixel (y, x) has channels (y, x, 7)."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y, x, np.full_like(y, 7)], axis=2).astype(np.uint8)


def test_draws_depend_on_seed_epoch_and_key_alone() -> None:
    hashes = np.array([1, 2, 2**63 + 5], dtype=np.uint64)
    draws = uniforms(0, np.array([0, 0, 0]), hashes)
    assert draws.shape == (3, 5)
    assert np.array_equal(uniforms(0, np.array([0]), hashes[2:]), draws[2:])
    for other in (uniforms(1, np.array([0] * 3), hashes), uniforms(0, np.array([1] * 3), hashes)):
        assert not np.isin(other, draws).any()


def test_draws_are_uniform() -> None:
    draws = uniforms(3, np.zeros(4000, dtype=np.int64), np.arange(4000, dtype=np.uint64))
    assert draws.min() >= 0
    assert draws.max() < 1
    # standard error of a mean of 4,000: 0.0046; of a correlation: 0.016
    assert np.abs(draws.mean(axis=0) - 0.5).max() < 0.025
    assert np.abs(np.corrcoef(draws.T) - np.eye(5)).max() < 0.08


def test_resize_crop_takes_every_offset_and_mirrors() -> None:
    augmentation = CropAugmentation("resize_crop", size=4, resize=6)
    stored = augmentation.stored(ramp(6, 6))  # already 6 x 6: unchanged
    crop = augmentation.train(stored, np.array([0, 0, 0.99, 0.0, 0.9]))
    assert np.array_equal(crop, stored[2:6, 0:4])
    mirrored = augmentation.train(stored, np.array([0, 0, 0.99, 0.0, 0.4]))
    assert np.array_equal(mirrored, stored[2:6, 3::-1])
    corners = {
        tuple(augmentation.train(stored, np.array([0, 0, a, b, 0.9]))[0, 0, :2])
        for a in np.linspace(0, 0.999, 30)
        for b in np.linspace(0, 0.999, 30)
    }
    assert corners == {(y, x) for y in range(3) for x in range(3)}


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 2), (64, 64), (40, 90)])
def test_random_resized_crop_has_the_size_for_any_image(shape: tuple[int, int]) -> None:
    augmentation = CropAugmentation("random_resized_crop", size=16, resize=20)
    for draws in uniforms(0, np.zeros(50, dtype=np.int64), np.arange(50, dtype=np.uint64)):
        assert augmentation.train(augmentation.stored(ramp(*shape)), draws).shape == (16, 16, 3)
    assert augmentation.evaluate(ramp(*shape)).shape == (16, 16, 3)


def test_random_resized_crop_by_hand() -> None:
    # a quarter of the area of 8 x 8 at aspect 1: 4 x 4 pixels, here from (2, 4) of the offsets 0..4
    augmentation = CropAugmentation("random_resized_crop", size=4, resize=4, scale=(0.25, 0.25), ratio=(1.0, 1.0))
    crop = augmentation.train(ramp(8, 8), np.array([0.3, 0.3, 0.5, 0.99, 0.9]))
    assert np.array_equal(crop, ramp(8, 8)[2:6, 4:8])


def test_evaluation_takes_the_centre() -> None:
    augmentation = CropAugmentation("random_resized_crop", size=4, resize=8)
    assert np.array_equal(augmentation.evaluate(ramp(8, 8)), ramp(8, 8)[2:6, 2:6])
