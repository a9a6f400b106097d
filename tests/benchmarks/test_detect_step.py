"""The benchmark of a detector's step: that both engines have the same weights and losses, its order and its targets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks.detect_pair import NARROW, SIZES, Row, random_images, tame
from benchmarks.detect_step import cpu_targets, gpu_targets, least, most, rows_of
from scaleprior.config import load_config
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import model_names

SMALL = Row("FPN", 50, "float32", 160, "train", 2)


@pytest.mark.detectron2
def test_both_engines_have_the_same_weights_and_detect_the_same() -> None:
    from benchmarks.detect_pair import Pair

    torch.set_num_threads(1)
    pair = Pair("FPN", 50, narrow=True)
    names = model_names(pair.ours)
    theirs = pair.peer.state_dict()
    assert all(
        torch.equal(theirs[names[name]], value) for name, value in pair.ours.state_dict().items() if name in names
    )
    found = pair.measure(SMALL, warm=0, blocks=1, steps=1, seconds=60)
    assert found["ratio"] == pytest.approx(found["detectron2_ms"] / found["torchvision_ms"])
    pair.ours.eval(), pair.peer.eval()
    images = random_images(SMALL)[0]
    with torch.no_grad():
        features = pair.peer.backbone(pair.peer.preprocess_image([{"image": image} for image in images]).tensor)
    from scaleprior.detect.data.transforms import pad_images

    with torch.no_grad():
        mine = pair.ours.backbone(pair.ours.batch(*pad_images(images)))
    for name in mine:
        torch.testing.assert_close(mine[name], features[name], rtol=1e-3, atol=1e-3)


def test_random_weights_of_152_layers_stay_in_the_range_of_float16() -> None:
    torch.manual_seed(0)
    model = build_detector(
        load_config("COCO-Detection/faster_rcnn_R_152_FPN.yaml", ["MODEL.DEVICE", "cpu", *NARROW]).cfg
    )
    image = random_images(Row("FPN", 152, "float32", 160, "train", 1))[0][0][None]
    largest: dict[bool, float] = {}
    names = model_names(model)
    for tamed in (False, True):
        if tamed:
            tame({names[name]: tensor for name, tensor in model.state_dict().items() if name in names})
        with torch.no_grad():
            maps = model.eval().backbone(model.batch(image, [SIZES[160]]))
        largest[tamed] = max(float(each.abs().max()) for each in maps.values())
    assert largest[False] > 65504  # so that the benchmark would have measured infinities
    assert largest[True] < 100


def test_boxes_lie_in_their_images_and_are_about_seven() -> None:
    images, boxes, classes = random_images(Row("C4", 50, "float16", 800))
    assert {tuple(image.shape) for image in images} == {(3, 800, 1216)}
    assert len(images) == 16
    assert sum(map(len, boxes)) / 16 == pytest.approx(7, abs=1)
    for box, cls in zip(boxes, classes):
        assert len(box) == len(cls)
        assert (box[:, :2] >= 0).all()
        assert (box[:, 2:] <= torch.tensor([1216, 800])).all()
        assert ((box[:, 2:] - box[:, :2]) > 10).all()


def test_the_more_important_rows_come_first_and_none_is_left_out() -> None:
    rows = rows_of(gpu=True)
    assert len(rows) == len(set(rows)) == 2 * 2 * 3 * 2 * 2
    said = [str(row) for row in rows]
    assert said[:4] == [
        "R-50 FPN float16 800 train", "R-50 C4 float16 800 train", "R-50 FPN float32 800 train",
        "R-50 C4 float32 800 train",
    ]  # fmt: skip
    assert {row.work for row in rows[:24]} == {"train"}
    assert {row.precision for row in rows[:16]} == {"float16", "float32"}
    assert {row.depth for row in rows[:8]} == {50}


def test_a_target_is_met_by_every_row_or_not_at_all() -> None:
    rows = rows_of(gpu=True)
    good = {"ratio": 1.4, "memory_ratio": 0.9, "by_baseline": 3.5}
    figures = {str(row): good for row in rows}
    assert all(target["met"] for target in gpu_targets(rows, figures).values())
    slow = figures | {"R-152 C4 float32 800 train": good | {"ratio": 0.99}}
    assert gpu_targets(rows, slow)["every row's ratio"] == {"figure": 0.99, "target": 1.0, "met": False}
    assert gpu_targets(rows, slow)["steps under AMP at 800 pixels, ratio"]["met"]
    cut = figures | {"R-50 FPN float16 800 train": {"failed": "no time was left"}}
    found = gpu_targets(rows, cut)["steps under AMP at 800 pixels, ratio"]
    assert not found["met"]
    assert found["unmeasured"] == ["R-50 FPN float16 800 train"]
    assert not most([SMALL], {str(SMALL): {"memory_ratio": 1.2}}, "memory_ratio", 1.0)["met"]
    assert not least([SMALL], {}, "ratio", 1.0)["met"]
    small = rows_of(gpu=False)
    assert cpu_targets(small, {str(row): {"ratio": 1.2} for row in small}) == {
        "steps, ratio": {"figure": 1.2, "target": 1.3, "met": False},
        "inference, ratio": {"figure": 1.2, "target": 1.0, "met": True},
    }


@pytest.mark.detectron2
@pytest.mark.slow
def test_a_process_answers_rows_and_says_why_it_cannot(tmp_path: Path) -> None:
    from benchmarks.detect_step import Worker

    worker = Worker("FPN", 50)
    try:
        worker.ready(120)
        assert worker.ask(SMALL, 120)["ratio"] > 0
        assert "KeyError" in worker.ask(Row("FPN", 50, "float32", 7), 120)["failed"]
        assert worker.ask(SMALL, -1)["failed"] == "no time was left"
    finally:
        worker.close()
    (tmp_path / "scaleprior").mkdir()
    (tmp_path / "scaleprior" / "__init__.py").write_text("raise ImportError('not here')")
    worker = Worker("FPN", 50, tmp_path)
    worker.ready(120)
    assert "not here" in worker.ask(SMALL, 10)["failed"]
    worker.close()
