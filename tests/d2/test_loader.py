"""The training loader: Detectron2's own order, from any step on."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import build_detection_train_loader

from scaleprior.d2 import register_datasets
from scaleprior.d2.data.loader import ResumableLoader
from scaleprior.errors import UserError
from tests.d2.conftest import tiny
from tests.detect.conftest import data_overrides, make_coco


def config(tmp_path: Path, *overrides: str) -> Any:
    """Images of two shapes, so that grouping has something to do."""

    def widen(data: dict[str, Any]) -> None:
        for number, image in enumerate(data["images"]):
            image["height"] = 64 if number % 3 else 48

    path, root = make_coco(tmp_path / "data", images=10, change=widen)
    import cv2

    for number in range(0, 10, 3):
        file = root / f"{number:03d}.png"
        cv2.imwrite(str(file), cv2.imread(str(file))[:48])
    loaded = tiny("FPN", [*data_overrides(path, root), "INPUT.MIN_SIZE_TRAIN", "(48, 56, 64)", *overrides])
    register_datasets(loaded.cfg)
    return loaded.cfg


def names(batches: Any, count: int) -> list[list[str]]:
    return [[Path(image["file_name"]).name for image in batch] for batch in itertools.islice(batches, count)]


@pytest.mark.parametrize("grouping", ["True", "False"])
def test_the_order_is_detectron2s(grouping: str, tmp_path: Path) -> None:
    cfg = config(tmp_path, "DATALOADER.ASPECT_RATIO_GROUPING", grouping)
    theirs = names(build_detection_train_loader(cfg), 12)
    assert names(ResumableLoader.from_config(cfg), 12) == theirs
    assert len({tuple(batch) for batch in theirs}) > 5


def test_it_starts_at_any_step_with_the_same_pixels(tmp_path: Path) -> None:
    """Flips and sizes too: what is random about an image follows from its place."""
    cfg = config(tmp_path)
    whole = list(itertools.islice(ResumableLoader.from_config(cfg), 9))
    late = ResumableLoader.from_config(cfg)
    late.go_to(5)
    torch.manual_seed(99)  # no generator's state matters
    for expected, found in zip(whole[5:], late):
        assert [image["file_name"] for image in found] == [image["file_name"] for image in expected]
        assert all(torch.equal(a["image"], b["image"]) for a, b in zip(found, expected))
    sizes = {tuple(image["image"].shape) for batch in whole for image in batch}
    assert len(sizes) > 2  # it does draw


def test_workers_change_nothing(tmp_path: Path) -> None:
    cfg = config(tmp_path)
    alone = list(itertools.islice(ResumableLoader.from_config(cfg), 4))
    cfg = cfg.clone()
    cfg.defrost()
    cfg.DATALOADER.NUM_WORKERS = 2
    for a, b in zip(alone, ResumableLoader.from_config(cfg)):
        assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b))


def test_a_sampler_without_a_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="RandomSubsetTrainingSampler"):
        ResumableLoader.from_config(config(tmp_path, "DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler"))
