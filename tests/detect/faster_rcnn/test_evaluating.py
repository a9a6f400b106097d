"""One set on several processes: the files of one process, byte by byte, and one message where an image is unusable."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from scaleprior.detect import DetectionResult, get_engine
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.model_file import fixed_values, save_model
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.provenance import created_by
from scaleprior.training.agreement import together
from scaleprior.training.processes import ProcessGroup
from tests import processes
from tests.detect.conftest import TINY_FPN, data_overrides, tiny_config
from tests.detect.faster_rcnn.test_predict import _mixed

WORK = """
import json, sys, torch
from pathlib import Path
from scaleprior.config import load_config
from scaleprior.detect import get_engine
from scaleprior.errors import ScalePriorError
torch.set_num_threads(1)
for run in json.loads(sys.argv[1]):
    told = []
    try:
        results = get_engine("torchvision").evaluate(
            load_config("COCO-Detection/Base-RCNN-FPN.yaml", run["words"]), Path(run["model"]), Path(run["out"]),
            progress=lambda done, total, numbers: told.append([done, total]))
        print(json.dumps([results["tiny"].to_dict(), told[-1:]]), flush=True)
    except ScalePriorError as e:
        print(json.dumps([type(e).__name__, str(e)]), flush=True)
"""
MASKS = ("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_MASK_HEAD.NUM_CONV", "1")


@dataclass(frozen=True)
class Runs:
    """Models, data, and what each of two processes said of "boxes", "masks" and "damaged"."""

    folder: Path
    words: dict[str, list[str]]
    said: dict[str, list[Any]]

    def out(self, name: str) -> Path:
        return self.folder / name


def _words(root: Path, *further: str) -> list[str]:
    own = [
        "MODEL.ROI_HEADS.SCORE_THRESH_TEST",
        "0.0",
        "MODEL.ROI_HEADS.NUM_CLASSES",
        "2",
        "DATALOADER.NUM_WORKERS",
        "1",
    ]
    return [*TINY_FPN, *own, *data_overrides(root / "instances.json", root / "images"), *further]


def _save(path: Path, words: Sequence[str]) -> Path:
    torch.manual_seed(0)
    cfg = tiny_config("FPN", words).cfg
    trained = TrainedDetector(
        class_names=("block", "square"), category_ids=(3, 7), config=fixed_values(cfg), card=None, seed=0, max_iter=0,
        fingerprint="0" * 16, created_by=created_by(), tuning={},
    )  # fmt: skip
    save_model(path, build_detector(cfg), trained)
    return path


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    """All in one start of two processes."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("runs")
    _mixed(folder / "data")
    _mixed(folder / "bad")
    (folder / "bad" / "images" / "010.png").write_bytes(b"no image")
    words = {
        "boxes": _words(folder / "data"),
        "masks": _words(folder / "data", *MASKS),
        "damaged": _words(folder / "bad"),
    }
    order = [
        {"words": each, "model": str(_save(folder / f"{name}.safetensors", each)), "out": str(folder / name)}
        for name, each in words.items()
    ]
    said = processes.in_two(WORK, order)
    return Runs(folder, words, dict(zip(words, map(list, zip(*said)))))


@pytest.mark.parametrize("name", ["boxes", "masks"])
def test_two_processes_write_what_one_writes(name: str, runs: Runs, tmp_path: Path) -> None:
    loaded = tiny_config("FPN", runs.words[name])
    model = runs.folder / f"{name}.safetensors"
    (alone,) = get_engine("torchvision").evaluate(loaded, model, tmp_path).values()
    files = [folder / "detections_tiny.json" for folder in (tmp_path, runs.out(name))]
    assert files[0].read_bytes() == files[1].read_bytes()
    rows = json.loads(files[0].read_text())
    assert len(rows) > 50
    assert all(("segmentation" in row) == (name == "masks") for row in rows)
    one, two = (json.loads((folder / "results.json").read_text()) for folder in (tmp_path, runs.out(name)))
    assert one.pop("seconds") > 0
    assert two.pop("seconds") > 0
    assert json.dumps(one) == json.dumps(two)
    of_main, of_other = runs.said[name]
    assert of_main[0] == of_other[0]  # every process has the results
    assert DetectionResult.from_dict(of_main[0]).per_class == alone.per_class
    assert (of_main[1], of_other[1]) == ([[11, 11]], [])  # the main process tells how far it is


def test_an_unusable_image_of_one_process_ends_both_with_its_words(runs: Runs) -> None:
    first, second = runs.said["damaged"]
    assert first == second
    assert first[0] == "UserError"
    assert "image 010.png: " in first[1]
    assert not runs.out("damaged").exists()


def test_work_of_one_process_is_its_own() -> None:
    alone = ProcessGroup(0, 1, torch.device("cpu"))
    assert together(alone, lambda: 3) == 3
    assert alone.to_main("all") == ["all"]

    def fail() -> None:
        raise UserError("not so", hint="otherwise")

    with pytest.raises(UserError, match="not so; otherwise"):
        together(alone, fail)
