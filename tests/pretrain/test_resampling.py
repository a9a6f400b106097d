"""Crops that are made by matrix products, against OpenCV's of the same rectangles."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from scaleprior.pretrain.data import resampling
from scaleprior.pretrain.data.resampling import Part, resampled


def opencv(image: np.ndarray, part: Part, size: int) -> np.ndarray:
    """The crop by OpenCV, as the loader of the CPU makes it."""
    pixels = image[part.top : part.top + part.height, part.left : part.left + part.width]
    shrinks = part.height > part.side or part.width > part.side
    whole = cv2.resize(pixels, (part.side, part.side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    crop = whole[part.row : part.row + size, part.column : part.column + size]
    return crop[:, ::-1] if part.mirrored else crop


def drawn(rng: np.random.Generator, size: int, count: int) -> tuple[list[np.ndarray], list[Part]]:
    """Images of any shape, down to one pixel, with a part and a place of the crop in each."""
    images, parts = [], []
    for number in range(count):
        side = int(rng.integers(size, 3 * size))
        shape = rng.integers(1, 5 * size, 2) if number % 4 else rng.integers(1, 4, 2) * side  # also whole multiples
        height, width = (int(rng.integers(1, n + 1)) for n in shape) if number % 3 else map(int, shape)
        top, left = int(rng.integers(shape[0] - height + 1)), int(rng.integers(shape[1] - width + 1))
        row, column = (int(n) for n in rng.integers(0, side - size + 1, 2))
        images.append(rng.integers(0, 256, (*shape, 3), dtype=np.uint8))
        parts.append(Part(top, left, height, width, side, row, column, bool(number % 2)))
    return images, parts


@pytest.mark.parametrize("size", [1, 7, 24])
def test_crops_are_opencvs_up_to_rounding(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resampling, "_TOGETHER", 40_000)  # several groups, some of one image
    images, parts = drawn(np.random.default_rng(size), size, 300)
    tensors = [torch.from_numpy(image).permute(2, 0, 1) for image in images]
    found = resampled(tensors, parts, size).numpy().astype(int)
    expected = np.stack([opencv(image, part, size) for image, part in zip(images, parts)])
    assert np.abs(found - expected).max() <= 1  # OpenCV's bilinear sums have 11 bits after the point
    assert np.abs(found - expected).mean() < 0.2


def test_an_image_of_the_right_size_passes_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 20, 20), dtype=np.uint8)
    crop = resampled([torch.from_numpy(image)], [Part(0, 0, 20, 20, 20, 3, 5)], 12)[0].numpy()
    assert np.array_equal(crop, image.transpose(1, 2, 0)[3:15, 5:17])


def test_means_are_taken_where_pixels_are_lost() -> None:
    """2 x 4 pixels to 1 x 1: the mean, 3.5, rounded to even as OpenCV does it."""
    image = torch.arange(8, dtype=torch.uint8).reshape(1, 2, 4).expand(3, 2, 4)
    assert resampled([image], [Part(0, 0, 2, 4, 1)], 1).tolist() == [[[[4, 4, 4]]]]
