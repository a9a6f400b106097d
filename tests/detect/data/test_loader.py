"""Order, augmentation and the cache: pure functions of (seed, step), whatever the threads."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.detect.data.coco import DetectionSet, load_coco
from scaleprior.detect.data.loader import TrainLoader, batch_order, usable
from scaleprior.detect.data.segmentation import Bitmap, MaskFormat, Polygons
from scaleprior.detect.data.store.images import ImageStore
from scaleprior.detect.data.transforms import ResizeAugmentation, mirror_boxes, paste, resize, resized_shape
from scaleprior.errors import UserError
from tests.corpus.images.files import TURNS, exif, noise, pillow, save
from tests.detect.conftest import add_outlines, data_overrides, make_coco, tiny_config

_AUGMENTATION = ResizeAugmentation(sizes=(32, 48), sampling="choice", longest=64, direction="horizontal")


def _loader(data: DetectionSet, **settings: Any) -> TrainLoader:
    return TrainLoader([data], _AUGMENTATION, **{"order": "RGB", "batch_size": 3, "seed": 1, **settings})


def _flat(loader: TrainLoader, first: int, steps: int) -> list[Any]:
    return [
        (b.ids, [i.tolist() for i in b.images], [x.tolist() for x in b.boxes]) for b in loader.batches(first, steps)
    ]


def test_a_resumed_order_goes_on_and_threads_change_nothing(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path), name="tiny")
    whole = _flat(_loader(data), 0, 7)
    assert whole[4:] == _flat(_loader(data), 4, 7)
    for threads in (1, 3, 11):
        assert whole == _flat(_loader(data, threads=threads, cache_bytes=10_000), 0, 7)
    assert whole != _flat(_loader(data, seed=2), 0, 7)


@pytest.mark.parametrize("threads", [0, 2])
def test_the_shares_of_processes_are_the_batch_of_one_padded_alike(tmp_path: Path, threads: int) -> None:
    data = load_coco(*make_coco(tmp_path), name="tiny")
    shares = [_loader(data, batch_size=4, rank=rank, processes=2, threads=threads).batches(1, 5) for rank in range(2)]
    alone = list(_loader(data, batch_size=4).batches(1, 5))
    for whole, *parts in zip(alone, *shares, strict=True):
        assert [part.slots for part in parts] == [[0, 2], [1, 3]]
        for part in parts:
            assert part.images.equal(whole.images[part.slots])  # of one height and width, too
            for place, slot in enumerate(part.slots):
                assert (part.ids[place], part.sizes[place]) == (whole.ids[slot], whole.sizes[slot])
                assert part.boxes[place].equal(whole.boxes[slot])
                assert part.classes[place].equal(whole.classes[slot])
    assert any(len({tuple(size) for size in batch.sizes}) > 1 for batch in alone)  # else any padding would do


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("threads", ["0", "2"])
def test_images_for_a_gpu_lie_where_it_copies_from(tmp_path: Path, threads: str) -> None:
    path, root = make_coco(tmp_path)
    words = [*data_overrides(path, root), "MODEL.DEVICE", "cuda", "DATALOADER.NUM_WORKERS", threads]
    data = load_coco(path, root, name="tiny")
    plain = _flat(TrainLoader.from_config(tiny_config("FPN", [*words, "MODEL.DEVICE", "cpu"]).cfg, [data]), 0, 4)
    loader = TrainLoader.from_config(tiny_config("FPN", words).cfg, [data])
    assert all(batch.images.is_pinned() for batch in loader.batches(0, 4))
    assert _flat(loader, 0, 4) == plain


def test_every_epoch_sees_every_image_once() -> None:
    batches = list(islice(batch_order([False] * 10, 5, 0, grouping=True), 6))
    epochs = [sorted(batches[i] + batches[i + 1]) for i in (0, 2, 4)]
    assert epochs == [list(range(10))] * 3
    assert batches[0] != batches[2]


def test_grouping_keeps_shapes_apart_and_loses_nothing() -> None:
    landscape = [i % 3 == 0 for i in range(12)]
    batches = list(islice(batch_order(landscape, 4, 0, grouping=True), 30))
    assert all(len({landscape[i] for i in batch}) == 1 for batch in batches)
    counts = np.bincount(np.concatenate(batches), minlength=12)
    assert counts.max() - counts.min() <= 1
    mixed = list(islice(batch_order(landscape, 4, 0, grouping=False), 3))
    assert sorted(np.concatenate(mixed).tolist()) == list(range(12))


def test_boxes_follow_the_resized_and_mirrored_image(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path), name="tiny")
    seen = set()
    for batch in _loader(data).batches(0, 12):
        for image, size, boxes, classes in zip(batch.images, batch.sizes, batch.boxes, batch.classes):
            seen.add(size[0])
            for (x0, y0, x1, y1), cls in zip(boxes.round().int().tolist(), classes.tolist()):
                # class 3 ("block", 0) was painted (200, 40, 40) in BGR, so blue is channel 2 of RGB
                middle = image[:, (y0 + y1) // 2, (x0 + x1) // 2].tolist()
                painted = [[40, 40, 200], [200, 40, 40]]
                assert middle in painted
                if len(boxes) == 1:
                    assert middle == painted[cls]
    assert seen == {32, 48}


def test_boxes_are_cut_to_the_image_and_those_outside_dropped(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"] = [-8, 16, 200, 16]
        data["annotations"][1]["bbox"] = [70, 0, 10, 10]

    data = load_coco(*make_coco(tmp_path, images=2, change=change), name="tiny")
    (batch,) = _loader(data, batch_size=2).batches(0, 1)
    boxes = dict(zip(batch.ids, batch.boxes))
    sides = {i: size[0] for i, size in zip(batch.ids, batch.sizes)}
    assert boxes[100].tolist() == [[0.0, sides[100] / 4, sides[100], sides[100] / 2]]
    assert len(boxes[101]) == 1  # of two


@pytest.mark.parametrize("interleaved", [True, False])
def test_mirrored_by_hand(interleaved: bool) -> None:
    image = torch.stack([torch.arange(6, dtype=torch.uint8).view(2, 3) + 10 * channel for channel in range(3)])
    if interleaved:  # as decoders write it
        image = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for mirrored, expected in (
        ("", [[0, 1, 2], [3, 4, 5]]),
        ("horizontal", [[2, 1, 0], [5, 4, 3]]),
        ("vertical", [[3, 4, 5], [0, 1, 2]]),
    ):
        row = torch.full((3, 3, 5), 99, dtype=torch.uint8)
        paste(image, row, mirrored=mirrored)
        assert row[:, :2, :3].tolist() == (torch.tensor(expected) + torch.tensor([0, 10, 20]).view(3, 1, 1)).tolist()
        assert (row[:, 2:] == 99).all()
        assert (row[:, :, 3:] == 99).all()
    box = np.array([[0.0, 0.0, 1.0, 2.0]], dtype=np.float32)
    assert mirror_boxes(box, (2, 3), "horizontal").tolist() == [[2.0, 0.0, 3.0, 2.0]]
    assert mirror_boxes(box - [0, 0, 0, 1], (2, 3), "vertical").tolist() == [[0.0, 1.0, 1.0, 2.0]]


def test_pixels_are_resized_to_the_same_bits_whatever_their_strides() -> None:
    """An image in the size of one run comes from channels apart, in that of another from pixels as they are decoded."""
    generator = np.random.default_rng(0)
    for _ in range(40):
        height, width, *shape = generator.integers(1, 90, 4).tolist()
        pixels = torch.from_numpy(generator.integers(0, 256, (height, width, 3), dtype=np.uint8)).permute(2, 0, 1)
        assert torch.equal(resize(pixels, (shape[0], shape[1])), resize(pixels.contiguous(), (shape[0], shape[1])))


@pytest.mark.parametrize(
    ("size", "limits", "expected"),
    [
        ((480, 640), (800, 1333), (800, 1067)),
        ((480, 1000), (800, 1333), (640, 1333)),
        ((640, 480), (0, 1333), (640, 480)),
        ((333, 500), (800, 1333), (800, 1201)),
    ],
)
def test_resized_shape_is_detectron2s(
    size: tuple[int, int], limits: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert resized_shape(*size, *limits) == expected


def test_resize_is_pillows() -> None:
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    pixels = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    theirs = np.asarray(image.fromarray(pixels).resize((33, 24), image.BILINEAR)).astype(int)
    ours = resize(torch.from_numpy(pixels).permute(2, 0, 1), (24, 33)).permute(1, 2, 0).numpy().astype(int)
    assert np.abs(ours - theirs).max() <= 1  # both round fixed-point sums, not quite alike


def test_range_is_inclusive() -> None:
    augmentation = ResizeAugmentation(sizes=(10, 12), sampling="range", longest=99, direction="none")
    draws = [augmentation.draw(np.random.default_rng(i)) for i in range(100)]
    assert {size for size, _ in draws} == {10, 11, 12}
    assert not any(mirrored for _, mirrored in draws)


def test_crowds_are_not_trained_on_and_empty_images_can_be_kept(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"] = [a for a in data["annotations"] if a["image_id"] != 100]
        for annotation in data["annotations"]:
            annotation["iscrowd"] = int(annotation["image_id"] == 101)

    data = load_coco(*make_coco(tmp_path, change=change), name="tiny")
    assert usable(data, filter_empty=True) == [2, 3, 4, 5]
    batches = list(_loader(data, filter_empty=False, batch_size=6).batches(0, 1))
    counts = dict(zip(batches[0].ids, map(len, batches[0].boxes)))
    assert counts[100] == counts[101] == 0
    with pytest.raises(UserError, match="no image of tiny has a box"):
        _loader(load_coco(*make_coco(tmp_path / "none", change=lambda d: d["annotations"].clear()), name="tiny"))


def test_the_cache_spares_reading_and_respects_its_budget(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, images=3)
    data = load_coco(path, root, name="tiny")
    store = ImageStore(data, order="RGB", cache_bytes=3 * 32 * 32)
    first = store.load(0, 32, 64, keep=True)
    store.load(1, 32, 64, keep=True)
    for file in root.iterdir():
        file.unlink()
    assert torch.equal(store.load(0, 32, 64, keep=True), first)
    with pytest.raises(UserError, match=r"image not found: .*001\.png"):
        store.load(1, 32, 64, keep=True)


def test_damaged_and_misdescribed_images_are_named(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, images=2)
    data = load_coco(path, root, name="tiny")
    (root / "000.png").write_bytes(b"not an image")
    (root / "001.png").write_bytes((make_coco(tmp_path / "other", side=40)[1] / "001.png").read_bytes())
    store = ImageStore(data, order="RGB", cache_bytes=0)
    with pytest.raises(UserError, match=r"image 000\.png: not an image of a known format"):
        store.load(0, 0, 64, keep=True)
    with pytest.raises(UserError, match=r"001\.png is 40x40, the annotations say 64x64"):
        store.load(1, 0, 64, keep=True)


def _photographs(tmp_path: Path, orientation: int, size: tuple[int, int]) -> ImageStore:
    """One photograph of 64 x 32 stored pixels with this tag, and annotations that say ``size`` (width, height)."""

    def change(data: dict[str, Any]) -> None:
        data["annotations"] = []
        data["images"][0] |= {"width": size[0], "height": size[1], "file_name": "000.jpg"}

    path, root = make_coco(tmp_path, images=1, change=change)
    (root / "000.jpg").write_bytes(save(noise(32, 64), "JPEG", exif=exif(orientation), quality=100))
    return ImageStore(load_coco(path, root, name="tiny"), order="RGB", cache_bytes=0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright_before_boxes_are_looked_at(tmp_path: Path, orientation: int) -> None:
    size = (32, 64) if orientation >= 5 else (64, 32)
    store = _photographs(tmp_path, orientation, size)
    expected = TURNS[orientation](pillow((tmp_path / "images" / "000.jpg").read_bytes()))
    assert np.array_equal(store.load(0, 0, 64, keep=True).permute(1, 2, 0).numpy(), expected)


def test_sizes_of_the_stored_pixels_are_explained_by_exif(tmp_path: Path) -> None:
    store = _photographs(tmp_path, 6, (64, 32))
    with pytest.raises(
        UserError, match=r"000\.jpg is 32x64 upright \(its EXIF orientation is 6\), the annotations say 64x32"
    ) as error:
        store.load(0, 0, 64, keep=True)
    assert "swap its width and height" in str(error.value.hint)
    assert "exiftool -Orientation=" in str(error.value.hint)
    store = _photographs(tmp_path / "other", 6, (50, 32))
    with pytest.raises(UserError, match=r"32x64 upright .* say 50x32") as error:
        store.load(0, 0, 64, keep=True)
    assert error.value.hint == "repair the annotations"


def test_images_out_of_order_are_read_told_of_once_a_kind_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, root = make_coco(tmp_path)
    for number in (0, 1, 3):
        file = root / f"{number:03d}.png"
        file.write_bytes(file.read_bytes() + b"x")
    data = load_coco(path, root, name="tiny")
    for threads in (0, 2):
        caplog.clear()
        loader = _loader(data, threads=threads)
        batches = loader.batches(0, 6)
        next(batches)
        assert len(caplog.messages) <= 1
        list(batches)
        assert loader.stores[0].oddities.counts() == {"bytes after the end": 3}
        first, total = caplog.messages
        assert "has bytes after the end; it is read, as others like it are" in first
        assert total.endswith("3 images in all have bytes after the end; they were read")
    with pytest.raises(UserError, match=r"00\d\.png: PNG with bytes after the end; replace the file"):
        list(_loader(data, strict=True).batches(0, 6))


def test_the_key_of_strictness_reaches_training_and_evaluation(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    for strict in (True, False):
        words = [*data_overrides(path, root), "SCALEPRIOR.STRICT_IMAGES", str(strict)]
        cfg = tiny_config("FPN", words).cfg
        loader = TrainLoader.from_config(cfg, [load_coco(path, root, name="tiny")])
        assert loader.stores[0].strict == strict


def test_masks_stay_with_their_boxes(tmp_path: Path) -> None:
    """Every polygon is its object's box, so that it stays so in each batch; crowds and what is invisible leave both."""

    def change(data: dict[str, Any]) -> None:
        outside = {**data["annotations"][0], "bbox": [70, 0, 10, 10]}
        crowd = {**data["annotations"][1], "iscrowd": 1}
        data["annotations"][:] = [outside, crowd, *data["annotations"]]
        add_outlines(data)
        data["annotations"][1]["segmentation"] = {"counts": [64 * 64], "size": [64, 64]}

    path, root = make_coco(tmp_path, change=change)
    augmentation = ResizeAugmentation((48, 100), "choice", 100, "horizontal")
    forms: list[MaskFormat] = ["polygon", "bitmask"]
    loaders = {}
    for form in forms:
        data = load_coco(path, root, name="tiny", masks=form)
        loader = TrainLoader([data], augmentation, order="RGB", batch_size=2, seed=0, mask_format=form)
        loaders[form] = list(loader.batches(0, 12))
    shapes = set()
    for outlined, drawn in zip(loaders["polygon"], loaders["bitmask"]):
        assert outlined.masks is not None
        assert drawn.masks is not None
        assert [len(each) for each in outlined.masks] == [len(each) for each in outlined.boxes]
        for size, boxes, masks, bitmaps in zip(outlined.sizes, outlined.boxes, outlined.masks, drawn.masks):
            shapes.add(size)
            for box, mask, bitmap in zip(boxes, masks, bitmaps):
                assert isinstance(mask, Polygons)
                assert isinstance(bitmap, Bitmap)
                points = mask.points.clip(0, [size[1], size[0]])
                assert np.allclose([*points.min(axis=0), *points.max(axis=0)], box, atol=1e-4)
                assert bitmap.array().shape == size
                rows, columns = bitmap.array().nonzero()
                edges = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
                assert np.allclose(edges, box, atol=0.51)
    assert shapes == {(48, 48), (100, 100)}


def test_a_bitmap_of_which_no_pixel_remains_leaves_with_its_box(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        add_outlines(data)
        data["annotations"][0]["segmentation"] = {"counts": [65, 1, 64 * 64 - 66], "size": [64, 64]}  # at (1, 1)

    data = load_coco(*make_coco(tmp_path, images=1, change=change), name="tiny", masks="bitmask")
    counts = {}
    for side in (64, 32, 16):
        loader = TrainLoader(
            [data], ResizeAugmentation((side,), "choice", side, "none"), order="RGB", batch_size=1, seed=0,
            mask_format="bitmask",
        )  # fmt: skip
        (batch,) = loader.batches(0, 1)
        assert batch.masks is not None
        counts[side] = (len(batch.masks[0]), len(batch.boxes[0]), len(batch.classes[0]))
    assert counts == {64: (1, 1, 1), 32: (1, 1, 1), 16: (0, 0, 0)}


def test_sets_without_masks_give_none(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path, change=add_outlines), name="tiny")
    (batch,) = TrainLoader(
        [data], ResizeAugmentation((64,), "choice", 64, "none"), order="RGB", batch_size=2, seed=0
    ).batches(0, 1)
    assert batch.masks is None
