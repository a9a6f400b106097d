"""Masks of objects: read from annotations, resized and flipped with their image."""

from __future__ import annotations

from typing import Any

import faster_coco_eval.core.mask as mask_api
import numpy as np
import pytest

from scaleprior.detect.data.segmentation import Bitmap, Polygons, RunLengths, read_mask, run_lengths, to_image

SQUARE = [2, 2, 6, 2, 6, 4, 2, 4]  # 4 wide, 2 high


def random_polygons(seed: int, count: int, side: float) -> list[list[float]]:
    """Stars about points of a square of ``side``, some of which reach out of it."""
    generator = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        angles = np.sort(generator.random(generator.integers(3, 30))) * 2 * np.pi
        radii = generator.uniform(0.02, 0.5, len(angles)) * side
        x, y = generator.random(2) * side
        found.append(np.stack([x + radii * np.cos(angles), y + radii * np.sin(angles)], axis=1).reshape(-1).tolist())
    return found


def test_polygons_scale_and_flip_with_their_image() -> None:
    mask = Polygons.of([SQUARE, [0, 0, 1, 0, 1.5, 3]])
    assert mask.counts == (4, 3)
    resized = to_image(mask, (10, 20), (5, 60), form="polygon")
    assert isinstance(resized, Polygons)
    assert resized.flat() == [[6, 1, 18, 1, 18, 2, 6, 2], [0, 0, 3, 0, 4.5, 1.5]]
    mirrored = to_image(mask, (10, 20), (5, 60), flip="horizontal", form="polygon")
    assert isinstance(mirrored, Polygons)
    assert mirrored.flat()[0] == [54, 1, 42, 1, 42, 2, 54, 2]
    down = to_image(mask, (10, 20), (5, 60), flip="vertical", form="polygon")
    assert isinstance(down, Polygons)
    assert down.flat()[0] == [6, 4, 18, 4, 18, 3, 6, 3]
    assert mask.flat()[0] == SQUARE


def _run_lengths(array: np.ndarray) -> RunLengths:
    return RunLengths(mask_api.encode(np.asfortranarray(array))["counts"], *array.shape)


def test_a_bitmap_takes_the_nearest_pixel_and_flips() -> None:
    array = np.zeros((4, 6), np.uint8)
    array[1, 2:5] = 1
    assert (Bitmap.of(array).array() == array).all()

    def moved(shape: tuple[int, int], flip: str) -> Bitmap:
        mask = to_image(_run_lengths(array), (4, 6), shape, flip=flip, form="bitmask")
        assert isinstance(mask, Bitmap)
        return mask

    assert (moved((8, 12), "none").array() == array.repeat(2, axis=0).repeat(2, axis=1)).all()
    assert np.argwhere(moved((4, 6), "horizontal").array()).tolist() == [[1, 1], [1, 2], [1, 3]]
    assert np.argwhere(moved((4, 6), "vertical").array()).tolist() == [[2, 2], [2, 3], [2, 4]]
    # of two rows of four, those whose centres are nearest are the second and the last
    assert moved((2, 6), "none").array()[0].tolist() == [0, 0, 1, 1, 1, 0]
    assert moved((2, 6), "none").visible
    assert not moved((1, 6), "none").visible


def test_run_lengths_are_read_compressed_and_not() -> None:
    # down the columns of 3 x 4: a column of nothing, then 2 pixels and 1 of nothing, the last two columns full
    plain = read_mask({"counts": [3, 2, 1, 6], "size": [3, 4]})
    assert isinstance(plain, RunLengths)
    assert plain.array().tolist() == [[0, 1, 1, 1], [0, 1, 1, 1], [0, 0, 1, 1]]
    again = read_mask({"counts": plain.counts.decode(), "size": [3, 4]})
    assert (again.array() == plain.array()).all()  # type: ignore[union-attr]


def test_run_lengths_are_those_that_were_compressed() -> None:
    generator = np.random.default_rng(0)
    for height, width in [(1, 1), (3, 5), (40, 30), (700, 900)]:
        for share in (0, 0.001, 0.5, 1):
            bitmap = (generator.random((height, width)) < share).astype(np.uint8)
            flat = np.concatenate([[0], bitmap.T.reshape(-1)])  # the first run is of 0
            edges = np.flatnonzero(np.diff(flat)).tolist()
            expected = np.diff([0, *edges, height * width]).tolist()
            counts = mask_api.encode(np.asfortranarray(bitmap))["counts"]
            found = run_lengths(counts)
            assert found is not None
            assert found.tolist() == expected
            assert (RunLengths(counts, height, width).array() == bitmap).all()
    assert run_lengths(b"`") is None  # says that more follows
    assert run_lengths(b"ooooooooo0") is None


def test_polygons_become_a_bitmap_of_the_new_size_where_the_config_wants_bitmaps() -> None:
    drawn = to_image(Polygons.of([SQUARE, [8, 8, 10, 8, 10, 10, 8, 10]]), (10, 10), (20, 10), form="bitmask")
    assert isinstance(drawn, Bitmap)
    inside = np.zeros((20, 10), np.uint8)
    inside[4:8, 2:6] = 1
    inside[16:20, 8:10] = 1
    assert (drawn.array() == inside).all()


@pytest.mark.detectron2
@pytest.mark.parametrize("flip", ["none", "horizontal", "vertical"])
@pytest.mark.parametrize("kind", ["polygons", "rle"])
def test_masks_move_as_in_detectron2(kind: str, flip: str) -> None:
    from detectron2.data import detection_utils, transforms

    size, shape = (48, 64), (75, 100)
    for seed in range(20):
        segmentation: Any = random_polygons(seed, 1 + seed % 3, 50)
        if kind == "rle":
            segmentation = mask_api.merge(list(mask_api.frPyObjects(segmentation, *size)))
        flips: dict[str, list[Any]] = {
            "none": [],
            "horizontal": [transforms.HFlipTransform(100)],
            "vertical": [transforms.VFlipTransform(75)],
        }
        moves = [transforms.ResizeTransform(*size, *shape), *flips[flip]]
        annotation = {"bbox": [0, 0, 9, 9], "bbox_mode": 0, "segmentation": segmentation, "category_id": 0}
        ours = to_image(read_mask(segmentation), size, shape, flip=flip, form="bitmask")
        moved = detection_utils.transform_instance_annotations(annotation, transforms.TransformList(moves), shape)
        theirs = detection_utils.annotations_to_instances([moved], shape, mask_format="bitmask").gt_masks.tensor[0]
        assert (ours.array() == theirs.numpy()).all()  # type: ignore[union-attr]
        if kind == "polygons":
            outline = to_image(read_mask(segmentation), size, shape, flip=flip, form="polygon")
            assert all(np.array_equal(a, b) for a, b in zip(outline.flat(), moved["segmentation"]))  # type: ignore[union-attr]
