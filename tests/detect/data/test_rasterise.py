"""Polygons in small squares, against COCO's API, which walks along every edge."""

from __future__ import annotations

import itertools

import faster_coco_eval.core.mask as mask_api
import numpy as np
import pytest

from scaleprior.detect.data.rasterise import LARGEST, rasterise
from scaleprior.detect.data.segmentation import draw

Points = list[np.ndarray]


def _corners(seed: int, count: int, low: float, high: float, grid: float = 0) -> Points:
    """Polygons of 3 to 11 corners anywhere in a square, most of which cross themselves; on a ``grid`` where that is."""
    generator = np.random.default_rng(seed)
    found = [generator.uniform(low, high, (generator.integers(3, 12), 2)) for _ in range(count)]
    return [np.round(points / grid) * grid if grid else points for points in found]


def _as_the_api(polygons: Points, side: int) -> np.ndarray:
    flat = [points.reshape(-1).tolist() for points in polygons]
    return draw(flat, [1] * len(flat), side, side)


@pytest.mark.parametrize("side", [1, 5, 14, 28, LARGEST])
@pytest.mark.parametrize(
    ("low", "high", "grid"),
    [(0, 1, 0), (-1, 2, 0), (-60, 60, 0), (-0.2, 1.2, 1), (-0.2, 1.2, 0.2), (-0.2, 1.2, 0.1), (0.4, 0.6, 0.1)],
)
def test_every_pixel_is_the_apis(side: int, low: float, high: float, grid: float) -> None:
    """On its grid of fifths, edges pass middles and corners exactly; of what is large, most lies beyond the square."""
    polygons = _corners(side, 300, low * side, high * side, grid)
    points, counts = np.concatenate(polygons), [len(points) for points in polygons]
    assert (rasterise(points, counts, [1] * len(counts), side) == _as_the_api(polygons, side)).all()


def test_long_outlines_of_many_small_edges() -> None:
    generator = np.random.default_rng(0)
    walks = [np.cumsum(generator.normal(size=(400, 2)), axis=0) + 14 for _ in range(100)]
    points, counts = np.concatenate(walks), [400] * 100
    assert (rasterise(points, counts, [1] * 100, 28) == _as_the_api(walks, 28)).all()


def test_steps_at_which_division_and_multiplication_disagree() -> None:
    """Steep edges through the middle of a column at a whole step, where the last bit decides."""
    edges = [
        np.array([[x / 5, 0], [(x + a) / 5, b / 5], [40, 12]]) for x in range(0, 40, 3) for a in range(-9, 10) for b in
        range(10, 140, 7)
    ]  # fmt: skip
    points, counts = np.concatenate(edges), [3] * len(edges)
    assert (rasterise(points, counts, [1] * len(edges), 28) == _as_the_api(edges, 28)).all()


def test_an_object_is_the_union_of_its_polygons() -> None:
    polygons = _corners(3, 60, -5, 30)
    points, counts = np.concatenate(polygons), [len(points) for points in polygons]
    objects = [1, 3, 2, 10, 44]
    alone = _as_the_api(polygons, 28)
    starts = np.cumsum([0, *objects])
    expected = [alone[start:end].any(axis=0) for start, end in itertools.pairwise(starts)]
    assert (rasterise(points, counts, objects, 28) == np.stack(expected)).all()
    merged = mask_api.merge(list(mask_api.frPyObjects([p.reshape(-1).tolist() for p in polygons[1:4]], 28, 28)))
    assert (mask_api.decode(merged) == expected[1]).all()
