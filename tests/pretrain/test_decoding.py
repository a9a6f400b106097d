"""Batches that a device decodes, here the CPU, against those of the CPU's loader: the same crops of the same images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from scaleprior.corpus import Corpus, build_index, open_source
from scaleprior.errors import UserError
from scaleprior.pretrain import plan, pretrain
from scaleprior.pretrain.data import decoding
from scaleprior.pretrain.data.augment import CropAugmentation
from scaleprior.pretrain.data.batches import LabelledBatch, TrainBatches, training_set
from scaleprior.pretrain.data.decoding import DeviceDecoder, decoded_batches
from scaleprior.pretrain.data.encoded import EncodedBatches
from scaleprior.pretrain.data.sizes import ImageSizes
from scaleprior.pretrain.loop import building
from scaleprior.training.positions import BatchPlan
from tests.corpus.images.files import exif, insert, save
from tests.pretrain.conftest import CLASSES, index_images, write_images

CPU = torch.device("cpu")
WORST, MEAN = 1, 0.2  # grey levels, of an image: OpenCV rounds sums to 11 bits and resizes in two steps
CROPS = {
    "resize_crop": ("PRETRAIN.INPUT.SIZE", "16", "PRETRAIN.INPUT.RESIZE", "20"),
    "random_resized_crop": ("PRETRAIN.INPUT.SIZE", "16", "PRETRAIN.INPUT.RESIZE", "16"),
}


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """uint8 [height, width, 3] with gradients and no symmetry, as smooth as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def jpegs(folder: Path) -> Path:
    """Six classes of ten JPEGs of many sizes and kinds; ``red`` holds what a device is not to be given."""
    write_images(folder, 1)
    for number, leaf in enumerate(leaf for leaves in CLASSES.values() for leaf in leaves):
        (folder / leaf / "0.png").unlink()
        for k in range(10):
            pixels = picture(10 * number + k, 17 + 5 * k, 61 - 4 * k + number)
            kinds = {"subsampling": k % 3, "progressive": k % 4 == 1, "exif": exif(1 + k % 8)}
            grey = {"pixels": pixels[..., 0]} if k == 9 else {"pixels": pixels}
            (folder / leaf / f"{k}.jpg").write_bytes(save(**grey, kind="JPEG", quality=95, **kinds))
    good = (folder / "red" / "0.jpg").read_bytes()
    deep = (picture(0, 30, 40)[..., 0].astype(np.uint16) * 257).astype(np.uint16)
    inks = np.dstack([picture(1, 20, 30), picture(2, 20, 30)[..., :1]])
    odd = {
        "deep.png": save(Image.fromarray(deep), "PNG"),
        "png.jpg": save(picture(3, 30, 40), "PNG"),
        "inks.jpg": save(Image.fromarray(inks, "CMYK"), "JPEG", quality=95),
        "spare.jpg": insert(good, len(good) - 2, b"\0" * 9),
        "cut.jpg": good[: len(good) // 2],
        "text.jpg": b"<html>not found</html>",
    }
    for name, data in odd.items():
        (folder / "red" / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jpegs")
    index_images(jpegs(folder / "images"), folder / "index")
    return folder / "index"


def train_batches(cfg, index: Path, batch: int = 66) -> TrainBatches:
    images = training_set(cfg, Corpus.open(index))
    augmentation = CropAugmentation.from_config(cfg)
    return TrainBatches(images, BatchPlan(len(images), batch, seed=3), augmentation, order=cfg.INPUT.FORMAT)


def check_same(found: LabelledBatch, expected: LabelledBatch) -> None:
    assert torch.equal(found.rows, expected.rows)
    assert sorted(found.unreadable) == sorted(expected.unreadable)
    assert torch.equal(found.targets.rows, expected.targets.rows)
    assert torch.equal(found.targets.labels, expected.targets.labels)
    assert found.images.dtype == torch.uint8
    apart = (found.images.int() - expected.images.int()).abs()
    assert apart.max() <= WORST
    assert apart.float().mean(dim=(1, 2, 3)).max() <= MEAN  # of every image: none is another crop


@pytest.mark.parametrize("order", ["RGB", "BGR"])
@pytest.mark.parametrize("crop", CROPS)
def test_every_kind_of_image_becomes_the_same_crop(crop: str, order: str, small_config: Callable, index: Path) -> None:
    cfg = small_config("PRETRAIN.INPUT.CROP", crop, *CROPS[crop], "INPUT.FORMAT", order).cfg
    dataset = train_batches(cfg, index)
    for step in range(3):
        expected = dataset[step]
        assert len(expected.unreadable) == 2  # cut short, and no image
        encoded = EncodedBatches(dataset)[step]
        assert len(encoded.encoded) == 61  # the one with spare bytes among them, which hide before its end
        assert len(encoded.places) == 3  # PNGs and inks
        check_same(next(decoded_batches(dataset, step, step + 1, workers=0, device=CPU)), expected)


def test_crops_grow_on_the_device_as_on_the_host(small_config: Callable, index: Path) -> None:
    """Progressive resizing: 2 steps of 12 pixels, then 16."""
    cfg = small_config("PRETRAIN.INPUT.PROGRESSIVE", "((0.5, 12),)").cfg
    dataset = train_batches(cfg, index)
    dataset.sizes = ImageSizes.from_config(cfg, total=4)
    found = list(decoded_batches(dataset, 0, 4, workers=0, device=CPU))
    assert [batch.images.shape[1] for batch in found] == [12, 12, 16, 16]
    for step, batch in enumerate(found):
        check_same(batch, dataset[step])


def test_strict_means_strict(small_config: Callable, index: Path) -> None:
    dataset = train_batches(small_config("SCALEPRIOR.STRICT_IMAGES", "True").cfg, index)
    expected = dataset[0]
    assert len(expected.unreadable) == 3  # spare bytes, too
    check_same(DeviceDecoder(EncodedBatches(dataset), CPU)(EncodedBatches(dataset)[0]), expected)


def test_an_index_that_does_not_turn_images_is_not_turned(small_config: Callable, index: Path) -> None:
    dataset = train_batches(small_config().cfg, index)
    del dataset.images.fraction.corpus.facts["orientation"]
    encoded = EncodedBatches(dataset)
    assert {image.orientation for image in encoded[0].encoded} == {1}
    check_same(DeviceDecoder(encoded, CPU)(encoded[0]), dataset[0])


def test_workers_hand_over_the_same_batches(small_config: Callable, index: Path) -> None:
    dataset = train_batches(small_config().cfg, index, batch=12)
    alone, helped = (list(decoded_batches(dataset, 2, 5, workers=workers, device=CPU)) for workers in (0, 1))
    for one, other in zip(alone, helped, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.rows, other.rows)


def test_what_a_device_cannot_decode_our_own_decoder_does(
    small_config: Callable, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torchvision refuses a whole batch for one image; a device may also refuse what libjpeg takes."""
    dataset = train_batches(small_config().cfg, index)
    encoded = EncodedBatches(dataset)
    decoder, batch = DeviceDecoder(encoded, CPU), encoded[0]
    real, refused = decoding.decode_jpeg, {image.stop - image.start for image in batch.encoded[::7]}

    def choosy(codes: list[torch.Tensor], **options: Any) -> Any:
        if any(len(code) in refused for code in codes):
            raise RuntimeError("image.cpp: Unknown chroma subsampling")
        return real(codes, **options)

    monkeypatch.setattr(decoding, "decode_jpeg", choosy)
    check_same(decoder(batch), dataset[0])


def test_an_image_that_shows_its_damage_on_the_device_is_counted(small_config: Callable, index: Path) -> None:
    dataset = train_batches(small_config().cfg, index)
    encoded = EncodedBatches(dataset)
    batch = encoded[0]
    first = batch.encoded[0]
    batch.code[first.start + 2 : first.stop - 2] = 0  # as if the disk had lost it since its header was read
    found = DeviceDecoder(encoded, CPU)(batch)
    lost = int(batch.rows[first.place])
    assert lost not in found.rows.tolist()
    assert dict(found.unreadable)[lost].startswith("truncated JPEG")
    whole = dataset[0]
    kept = whole.rows != lost
    expected = LabelledBatch(whole.images[kept], dataset.targets(whole.rows[kept].numpy()), whole.rows[kept])
    check_same(LabelledBatch(found.images, found.targets, found.rows), expected)


def test_out_of_memory_is_no_fault_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("no room")

    monkeypatch.setattr(decoding, "decode_jpeg", full)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        decoding._decoded_apart([torch.zeros(4, dtype=torch.uint8)], CPU)


def test_photographs_differ_by_rounding(shared_data: Path, small_config: Callable, tmp_path: Path) -> None:
    root = shared_data / "tinyimagenet"
    source = open_source(root)
    rows = [row for row, _ in zip(source.rows(), range(256))]
    facts = {"label_space": source.label_space, "root": source.root, "source": {"kind": source.kind}}
    build_index(rows, tmp_path / "index", name="photographs", verify=False, **facts)
    cfg = small_config("PRETRAIN.INPUT.SIZE", "48", "PRETRAIN.INPUT.RESIZE", "56").cfg
    dataset = train_batches(cfg, tmp_path / "index", batch=256)
    encoded = EncodedBatches(dataset)
    assert len(encoded[0].encoded) == 256
    check_same(DeviceDecoder(encoded, CPU)(encoded[0]), dataset[0])


def test_a_run_decodes_on_its_device(
    small_config: Callable, index: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = ("PRETRAIN.CORPUS", str(index), "PRETRAIN.LOADER.MAX_UNREADABLE", "0.2")
    on_host = pretrain(small_config(*keys), tmp_path / "host", check=False)
    loaded = small_config(*keys, "PRETRAIN.LOADER.DECODE", "gpu")
    with pytest.raises(
        UserError, match=r"PRETRAIN\.LOADER\.DECODE is 'gpu' on a CPU; use PRETRAIN\.LOADER\.DECODE cpu"
    ):
        pretrain(loaded, tmp_path / "device", check=False)
    assert not (tmp_path / "device").exists()
    for module in (plan, building):
        monkeypatch.setattr(module, "check_device", lambda cfg, device: None)
    on_device = pretrain(loaded, tmp_path / "device", check=False)
    assert on_device.metrics.images_seen == on_host.metrics.images_seen
    assert on_device.metrics.loss != on_host.metrics.loss
    assert on_device.metrics.loss == pytest.approx(on_host.metrics.loss, rel=0.05)


def test_a_torchvision_that_cannot_is_refused_in_one_line(
    small_config: Callable, index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise RuntimeError("decode_jpegs_cuda: torchvision not compiled with nvJPEG support")

    monkeypatch.setattr(decoding, "decode_jpeg", missing)
    encoded = EncodedBatches(train_batches(small_config().cfg, index))
    with pytest.raises(UserError, match=r"decodes no JPEGs on cpu: .*nvJPEG support; set it to cpu"):
        DeviceDecoder(encoded, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_crops(small_config: Callable, index: Path) -> None:
    """nvJPEG rounds and spreads colours in its own way; of smooth pictures little of that is left after resizing."""
    dataset = train_batches(small_config().cfg, index)
    found = next(decoded_batches(dataset, 0, 1, workers=0, device=torch.device("cuda", 0)))
    expected = dataset[0]
    assert found.images.is_cuda
    assert torch.equal(found.rows, expected.rows)
    assert (found.images.cpu().int() - expected.images.int()).abs().float().mean() < 3
