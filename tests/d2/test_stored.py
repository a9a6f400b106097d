"""Detectron2's mapper over stored images: what it makes without, decoded once, in training and in evaluation."""

from __future__ import annotations

import itertools
import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetMapper, detection_utils
from detectron2.utils.file_io import PathManager

from scaleprior.d2 import Trainer, register_datasets
from scaleprior.d2.data import stored as d2_stored
from scaleprior.d2.data.loader import ResumableLoader
from scaleprior.detect.data.store import stored
from scaleprior.errors import UserError
from tests.corpus.images.files import exif, noise, save
from tests.d2.conftest import tiny
from tests.detect.conftest import data_overrides, make_coco

IMAGES = 6


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Counter[str]:
    """How often Detectron2 read each file; what it is given decoded is no file."""
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(stored, "_SETTLED", -1)
    counts, read = Counter[str](), detection_utils.read_image

    def counting(file_name: str, format: str | None = None) -> Any:
        counts[Path(file_name).name] += not file_name.startswith(d2_stored._PREFIX)
        return read(file_name, format)

    monkeypatch.setattr(detection_utils, "read_image", counting)
    return counts


def _config(tmp_path: Path, megabytes: int, *overrides: str) -> Any:
    """Photographs among the images: one in grey, one that EXIF turns."""
    folder = tmp_path / "data"
    if not folder.exists():
        _, root = make_coco(folder, IMAGES)
        (root / "000.png").write_bytes(save(noise(64, 64)[..., 0], "PNG"))
        (root / "001.png").write_bytes(save(noise(64, 64), "JPEG", exif=exif(6), quality=90))
    words = [*data_overrides(folder / "instances.json", folder / "images"), "DATALOADER.NUM_WORKERS", "0", *overrides]
    cfg = tiny("FPN", [*words, "SCALEPRIOR.IMAGE_STORE_MB", str(megabytes)]).cfg
    register_datasets(cfg)
    return cfg


def _same(ours: list[list[dict[str, Any]]], theirs: list[list[dict[str, Any]]]) -> bool:
    pairs = [(a, b) for one, other in zip(ours, theirs, strict=True) for a, b in zip(one, other, strict=True)]
    return all(
        a.keys() == b.keys()
        and a["file_name"] == b["file_name"]
        and torch.equal(a["image"], b["image"])
        and ("instances" not in a or torch.equal(a["instances"].gt_boxes.tensor, b["instances"].gt_boxes.tensor))
        for a, b in pairs
    )


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_its_mapper_makes_the_same_of_stored_images_and_reads_each_once(
    tmp_path: Path, decoded: Counter[str], order: str
) -> None:
    def batches(megabytes: int) -> tuple[list[Any], list[Any]]:
        decoded.clear()
        words = ["INPUT.FORMAT", order, "INPUT.MIN_SIZE_TRAIN", "(48, 64)"]
        cfg = _config(tmp_path, megabytes, *words)
        train = list(itertools.islice(ResumableLoader.from_config(cfg), 9))
        return train, list(Trainer.build_test_loader(cfg, "tiny"))

    plain = batches(0)
    assert max(decoded.values()) > 2
    for times in (1, 0):
        found = batches(1)
        assert _same(found[0], plain[0])
        assert _same(found[1], plain[1])
        assert [decoded[f"{number:03d}.png"] for number in range(IMAGES)] == [times] * IMAGES


def test_worker_processes_share_it(tmp_path: Path, decoded: Counter[str]) -> None:
    plain = list(itertools.islice(ResumableLoader.from_config(_config(tmp_path, 0)), 6))
    cfg = _config(tmp_path, 1, "DATALOADER.NUM_WORKERS", "2")
    assert _same(list(itertools.islice(ResumableLoader.from_config(cfg), 6)), plain)
    decoded.clear()
    assert _same(list(itertools.islice(ResumableLoader.from_config(_config(tmp_path, 1)), 6)), plain)
    assert not sum(decoded.values())
    mapper = ResumableLoader.from_config(cfg)._loader.dataset._mapper._mapper
    assert isinstance(mapper, d2_stored.StoredMapper)
    mapper(dict(ResumableLoader.from_config(cfg).dataset._dataset[0]))
    assert pickle.loads(pickle.dumps(mapper))._found is None  # as loaders that spawn their workers send it


def test_a_changed_file_and_one_of_another_size_are_noticed(tmp_path: Path, decoded: Counter[str]) -> None:
    cfg = _config(tmp_path, 1)
    before = list(Trainer.build_test_loader(cfg, "tiny"))
    root = tmp_path / "data" / "images"
    (root / "002.png").write_bytes((root / "003.png").read_bytes())
    after = list(Trainer.build_test_loader(cfg, "tiny"))
    assert torch.equal(after[2][0]["image"], after[3][0]["image"])
    assert not torch.equal(before[2][0]["image"], after[2][0]["image"])
    (root / "002.png").write_bytes(save(noise(40, 64), "PNG"))
    with pytest.raises(UserError, match=r"002\.png cannot be used: Mismatched image shape for image .*002\.png"):
        list(Trainer.build_test_loader(cfg, "tiny"))
    assert not d2_stored._HELD._pixels


def test_other_mappers_and_runs_without_a_store_are_left_alone(tmp_path: Path, decoded: Counter[str]) -> None:
    class Mine(DatasetMapper):
        pass

    cfg = _config(tmp_path, 1)
    make: Any = Mine
    for mapper, settings in ((make(cfg, is_train=True), cfg), (None, _config(tmp_path, 0))):
        found = ResumableLoader.from_config(settings, mapper)._loader.dataset._mapper._mapper
        assert not isinstance(found, d2_stored.StoredMapper)
    assert PathManager.exists(str(tmp_path))
