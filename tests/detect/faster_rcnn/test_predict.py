"""Detections of a set: in the original images' pixels, the same bits by threads and by shares, on the CPU and a GPU."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from scaleprior.detect.data.coco import DetectionSet, load_coco
from scaleprior.detect.data.segmentation import RunLengths
from scaleprior.detect.faster_rcnn.found import Found
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.parts.roi_heads import Detections
from scaleprior.detect.faster_rcnn.predict import BatchLimits, predict
from scaleprior.errors import UserError
from scaleprior.training.memory import OutOfMemory
from tests.detect.conftest import make_coco, tiny_config


class _Fixed(torch.nn.Module):
    """Finds the same two boxes in every resized image, and remembers the batches."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[tuple[int, ...]] = []

    def forward(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        assert torch.is_inference_mode_enabled()
        self.batches.append(tuple(images.shape))
        boxes = torch.tensor([[0.0, 8.0, 16.0, 32.0], [32.0, 32.0, 32.0, 40.0]])
        return [Detections(boxes, torch.tensor([0.9, 0.8]), torch.tensor([1, 0])) for _ in sizes]


def _predict(model: Any, data: DetectionSet, **further: Any) -> Found:
    return predict(model, data, **{"order": "RGB", "short": 32, "longest": 48, **further})


def _mixed(folder: Path) -> DetectionSet:
    """Eleven images of three shapes, mixed."""
    import cv2

    def change(data: dict[str, Any]) -> None:
        for number, image in enumerate(data["images"]):
            height, width = ((64, 64), (64, 96), (80, 64))[number % 3]
            pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / "images" / image["file_name"]), pixels)
            image.update(height=height, width=width)
        for annotation in data["annotations"]:
            x, y, w, h = annotation["bbox"]
            annotation["segmentation"] = [[x, y, x + w, y, x + w, y + h, x, y + h]]

    return load_coco(*make_coco(folder, images=11, change=change), name="mixed")


@pytest.fixture
def detector() -> Detector:
    torch.manual_seed(0)
    words = ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    return build_detector(tiny_config("FPN", words).cfg)


def test_boxes_come_back_in_original_pixels_and_empty_ones_go(tmp_path: Path) -> None:
    data = load_coco(*make_coco(tmp_path, images=3, side=64), name="tiny")
    found = _predict(_Fixed(), data, longest=32).rows(data)
    assert [d["image_id"] for d in found] == [100, 101, 102]
    assert found[0]["bbox"] == [0.0, 16.0, 32.0, 48.0]
    assert found[0]["category_id"] == 7


class _Outlined(_Fixed):
    """Finds, with a mask that fills the left half of its box, one square in each image of more than 32 rows."""

    def forward(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
        found = super().forward(images, sizes)
        masks = torch.zeros(2, 28, 28)
        masks[:, :, :14] = 1
        count = 2 if images.shape[2] > 32 else 0
        return [Detections(d.boxes[:count], d.scores[:count], d.classes[:count], masks[:count]) for d in found]


def test_masks_come_back_as_run_lengths_of_the_original_image(tmp_path: Path) -> None:
    """In 80 x 64 pixels, resized to 40 x 32: columns 0 to 15 of the box's 32, rows 16 to 63 of each."""
    data = _mixed(tmp_path)
    rows = _predict(_Outlined(), data).rows(data)
    assert [row["image_id"] for row in rows] == [102, 105, 108]
    for row in rows:
        assert row["bbox"] == [0.0, 16.0, 32.0, 48.0]
        assert row["segmentation"]["size"] == [80, 64]
        array = RunLengths(row["segmentation"]["counts"].encode(), 80, 64).array()
        assert array[16:64, :16].all()
        assert array.sum() == 48 * 16
    for processes in (2, 7):
        parts = [_predict(_Outlined(), data, share=(rank, processes), threads=rank) for rank in range(processes)]
        assert Found.joined(parts).rows(data) == rows


def test_batches_are_of_one_shape_and_no_larger_than_they_may_be(tmp_path: Path) -> None:
    """32 x 32, 32 x 48 and 40 x 32 after resizing; four, four and three images of each."""
    data = _mixed(tmp_path)
    model = _Fixed()
    rows = _predict(model, data, limits=BatchLimits(images=3, pixels=2 * 32 * 40)).rows(data)
    assert model.batches == [(2, 3, 32, 32)] * 2 + [(1, 3, 32, 48)] * 4 + [(2, 3, 40, 32), (1, 3, 40, 32)]
    assert [row["image_id"] for row in rows] == [100 + number for number in range(11)]
    _predict(model := _Fixed(), data, limits=BatchLimits(images=3))
    assert [batch[0] for batch in model.batches] == [3, 1, 3, 1, 3]


def test_threads_and_shares_change_no_bit(tmp_path: Path, detector: Detector) -> None:
    data = _mixed(tmp_path)
    limits = BatchLimits(images=3)
    whole = _predict(detector, data, limits=limits)
    assert len(whole.scores) > 50
    for threads in (1, 3):
        assert _same(_predict(detector, data, limits=limits, threads=threads), whole)
    for processes in (2, 3, 7):  # the last have nothing to do
        shares = [_predict(detector, data, limits=limits, share=(rank, processes)) for rank in range(processes)]
        assert _same(Found.joined(shares[::-1]), whole)
    assert len(shares[6].scores) == 0


def _same(a: Found, b: Found) -> bool:
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in Found.__dataclass_fields__)


def test_the_rows_are_what_the_detector_says_of_each_batch(tmp_path: Path, detector: Detector) -> None:
    """By the formula of one box: times the original side over the resized one, cut off at the image's edge."""
    data = load_coco(*make_coco(tmp_path, images=2, side=64), name="tiny")
    images = torch.stack([_image(data, index) for index in range(2)])
    detector.eval()
    expected = [
        (data.records[index].id, cls, max(x, 0) * 2, max(y, 0) * 2, min(x2 * 2, 64), min(y2 * 2, 64), score)
        for index, of_image in enumerate(detector.detect(list(images)))
        for (x, y, x2, y2), score, cls in zip(
            of_image.boxes.tolist(), of_image.scores.tolist(), of_image.classes.tolist()
        )
        if x2 > x and y2 > y
    ]
    rows = _predict(detector, data, longest=32).rows(data)
    assert len(rows) == len(expected) > 10
    for row, (image, cls, x, y, x2, y2, score) in zip(rows, expected):
        assert (row["image_id"], row["category_id"], row["score"]) == (image, data.category_ids[cls], score)
        assert row["bbox"] == pytest.approx([x, y, x2 - x, y2 - y], abs=1e-4)


def _image(data: DetectionSet, index: int) -> torch.Tensor:
    from scaleprior.detect.data.store.images import ImageStore

    return ImageStore(data, order="RGB", cache_bytes=0).load(index, 32, 32, keep=True)


def test_a_detector_that_was_evaluated_learns_on(tmp_path: Path, detector: Detector) -> None:
    """Nothing that inference mode made is in its way."""
    data = load_coco(*make_coco(tmp_path, images=2, side=64), name="tiny")
    images = [_image(data, 0), _image(data, 1)]
    boxes, classes = [torch.tensor([[2.0, 2.0, 20.0, 25.0]])] * 2, [torch.tensor([1])] * 2
    detector.train()
    _predict(detector, data, longest=32)
    assert detector.training
    sum(detector.losses(images, boxes, classes).values(), torch.zeros(())).backward()
    assert all(parameter.grad is not None for parameter in detector.roi_heads.parameters())


def test_progress_counts_every_image_of_the_set(tmp_path: Path) -> None:
    data = _mixed(tmp_path)
    told: list[tuple[int, int]] = []
    for share in ((0, 1), (1, 2)):
        limits = BatchLimits(images=3)
        _predict(_Fixed(), data, limits=limits, share=share, progress=lambda done, total, _: told.append((done, total)))
        assert told[-1] == (11, 11)
        assert told == sorted(told)
        told.clear()


@pytest.mark.parametrize("threads", [0, 2])
def test_an_unusable_image_ends_it_and_leaves_nothing_running(tmp_path: Path, threads: int) -> None:
    data = load_coco(*make_coco(tmp_path, images=9, side=64), name="tiny")
    (tmp_path / "images" / data.records[4].file_name).write_bytes(b"no image")
    model = _Fixed().train()
    with pytest.raises(UserError, match=r"image 004.png: .*; replace the file"):
        _predict(model, data, limits=BatchLimits(images=1), threads=threads)
    assert model.training
    assert not torch.is_inference_mode_enabled()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("ThreadPoolExecutor")]


def test_a_batch_that_does_not_fit_is_computed_in_halves(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As where other programs use the GPU, too. One image that does not fit is an error."""

    class Full(_Fixed):
        room = 2

        def forward(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
            if len(images) > self.room:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory")
            return super().forward(images, sizes)

    data = load_coco(*make_coco(tmp_path, images=7, side=64), name="tiny")
    assert _same(_predict(Full(), data), _predict(_Fixed(), data))
    assert "7 images of 32 x 32 do not fit into memory at once" in caplog.text
    _predict(model := Full(), data)
    assert [batch[0] for batch in model.batches] == [1, 2, 2, 2]
    Full.room = 0
    with pytest.raises(
        OutOfMemory, match=r"of one image of 32 x 32; lower INPUT\.MIN_SIZE_TEST or .*TOPK_TEST"
    ) as caught:
        _predict(Full(), data)
    assert caught.value.memory == "gpu"

    class Broken(_Fixed):
        def forward(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
            raise RuntimeError("of another kind")

    with pytest.raises(RuntimeError, match=r"^of another kind$"):
        _predict(Broken(), data)


def test_a_set_of_which_nothing_is_found(tmp_path: Path) -> None:
    class Blind(_Fixed):
        def forward(self, images: torch.Tensor, sizes: Sequence[tuple[int, int]]) -> list[Detections]:
            return [Detections(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)) for _ in sizes]

    data = load_coco(*make_coco(tmp_path, images=3, side=64), name="tiny")
    assert _predict(Blind(), data).rows(data) == []


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_a_gpu_finds_what_the_cpu_finds(tmp_path: Path, detector: Detector) -> None:
    data = _mixed(tmp_path)
    on_cpu = _predict(detector, data)
    detector.cuda()
    on_gpu = _predict(detector, data, threads=2)
    assert _same(on_gpu, _predict(detector, data, threads=0))
    assert np.array_equal(np.bincount(on_gpu.images), np.bincount(on_cpu.images))
    assert np.sort(on_gpu.scores) == pytest.approx(np.sort(on_cpu.scores), abs=1e-3)


def test_limits_follow_the_device_and_the_head() -> None:
    fpn, c4 = (tiny_config(kind).cfg for kind in ("FPN", "C4"))
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert BatchLimits.on(cpu, fpn) == BatchLimits.on(cpu, c4) == BatchLimits()
    assert [BatchLimits.on(gpu, cfg).images for cfg in (fpn, c4)] == [16, 8]
    assert BatchLimits.on(gpu, fpn).pixels // (800 * 1216) == 4
