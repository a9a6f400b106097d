"""Images that cannot be used: found before Detectron2 trains, and those that go bad later lose no step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.d2.data import loader as d2_loader
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.errors import UserError
from tests.d2.conftest import FEW_STEPS, TINY_FPN, backbone_file, tiny
from tests.d2.test_engine import same
from tests.d2.test_tool import CONFIG, PIXELS, tool
from tests.detect.conftest import make_coco


def _shrink(image: Path) -> None:
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("damage", [Path.unlink, _shrink])
def test_an_image_that_goes_bad_loses_no_step(tmp_path: Path, coco: list[str], damage: Callable[[Path], None]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "0", "DATALOADER.NUM_WORKERS", "0"])
    engine = Detectron2Engine()
    whole = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "whole")
    images = {image: image.read_bytes() for image in (tmp_path / "data" / "images").iterdir()}
    steps: list[int] = []

    def progress(done: int, total: int, numbers: Any) -> None:
        steps.append(done)
        if done == 3:
            for image in images:
                damage(image)

    with pytest.raises(
        UserError, match=r"image .* cannot be used: .*; the 3 steps before it are saved: .* resume=True$"
    ):
        engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "part", progress=progress)
    assert (tmp_path / "part" / "last_checkpoint").read_text() == "model_0000002.pth"
    for image, data in images.items():
        image.write_bytes(data)
    resumed = engine.train(
        loaded, tmp_path / "w.safetensors", tmp_path / "part", resume=True, progress=lambda d, t, n: steps.append(d)
    )
    assert steps == [1, 2, 3, 4, 5, 6]
    assert same(whole, resumed)


def test_an_image_that_is_bad_from_the_first_step_leaves_no_checkpoint(tmp_path: Path, coco: list[str]) -> None:
    for image in (tmp_path / "data" / "images").iterdir():
        _shrink(image)
    backbone_file(tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"cannot be used: [^;]*; replace the file or leave it out$"):
        Detectron2Engine().train(tiny("FPN", coco), tmp_path / "w.safetensors", tmp_path / "run")
    assert not list((tmp_path / "run").glob("model_*"))


def test_an_evaluation_on_the_way_loses_no_step(tmp_path: Path) -> None:
    """The step before it is done, and saved as done."""
    (path, root), (val, val_root) = make_coco(tmp_path / "data"), make_coco(tmp_path / "val", 2, seed=1)
    sets = [["mine", str(path), str(root)], ["other", str(val), str(val_root)]]
    words = ["SCALEPRIOR.DATASETS", repr(sets), "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('other',)"]
    loaded = tiny("FPN", [*words, "TEST.EVAL_PERIOD", "3", "SOLVER.CHECKPOINT_PERIOD", "0"])
    backbone_file(tmp_path / "w.safetensors")
    engine = Detectron2Engine()
    whole = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "whole")
    image = val_root / "001.png"
    sound = image.read_bytes()
    _shrink(image)
    with pytest.raises(UserError, match=r"001.png cannot be used: .*; the 3 steps before it are saved"):
        engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "part")
    image.write_bytes(sound)
    steps: list[int] = []
    resumed = engine.train(
        loaded, tmp_path / "w.safetensors", tmp_path / "part", resume=True, progress=lambda d, t, n: steps.append(d)
    )
    assert steps == [4, 5, 6]
    assert same(whole, resumed)


def test_the_tool_looks_first(tmp_path: Path, coco: list[str]) -> None:
    (tmp_path / "data" / "images" / "003.png").write_bytes(b"no image")
    backbone_file(tmp_path / "w.safetensors")
    words = [*TINY_FPN, *FEW_STEPS, *coco, *PIXELS, "MODEL.WEIGHTS", tmp_path / "w.safetensors"]
    done = tool(*CONFIG, *words, "OUTPUT_DIR", tmp_path / "run")
    assert done.returncode == 2
    assert "instances.json has 1 image that cannot be used, first: 003.png: " in done.stderr
    assert not (tmp_path / "run").exists()


def test_processes_agree_on_a_batch_that_one_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process whose own batch is fine must not begin a step that another will not come to."""
    monkeypatch.setattr(d2_loader.comm, "get_world_size", lambda: 2)
    monkeypatch.setattr(d2_loader.comm, "all_gather", lambda own: [own, "image b.png cannot be used"])
    with pytest.raises(d2_loader.UnusableImage, match=r"^image b\.png cannot be used$"):
        d2_loader._agreed([{"image": torch.zeros(1)}])
    monkeypatch.setattr(d2_loader.comm, "all_gather", lambda own: [own, None])
    batch = [{"image": torch.zeros(1)}]
    assert d2_loader._agreed(batch) is batch
    with pytest.raises(d2_loader.UnusableImage, match=r"^image a\.png$"):
        d2_loader._agreed([UserError("image a.png")])
