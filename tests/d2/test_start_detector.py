"""Starting from a whole detector, as Detectron2's balloon tutorial does: deliberate, complete, and on record."""

from __future__ import annotations

import csv
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from scaleprior.config.fingerprint import training_settings
from scaleprior.d2 import Trainer
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import plan_training, read_trained
from scaleprior.detect.check import check_detection
from scaleprior.detect.start import start_from
from scaleprior.errors import UserError
from tests.d2.conftest import backbone_file, tiny
from tests.detect.conftest import data_overrides, make_coco, tiny_config

ONE_STEP = ["SOLVER.MAX_ITER", "1", "SOLVER.STEPS", "()"]
START = ["SCALEPRIOR.START", "detector"]
HEADS = {
    f"roi_heads.box_predictor.{layer}.{part}" for layer in ("cls_score", "bbox_pred") for part in ("weight", "bias")
}
PIXELS = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``ours.pth``, a detector of two classes; ``theirs.pkl``, the same as of Detectron2's zoo; data of
    three classes."""
    folder = tmp_path_factory.mktemp("detectors")
    torch.set_num_threads(1)
    backbone_file(folder / "w.safetensors")
    path, root = make_coco(folder / "coco", images=4)
    made = Detectron2Engine().train(
        tiny("FPN", [*data_overrides(path, root), *ONE_STEP]), folder / "w.safetensors", folder / "run"
    )
    made.rename(folder / "ours.pth")
    tensors = torch.load(folder / "ours.pth", weights_only=True)["model"]
    zoo = {"model": {name: t.numpy() for name, t in tensors.items()}, "__author__": "Detectron2 Model Zoo"}
    (folder / "theirs.pkl").write_bytes(pickle.dumps(zoo))
    make_coco(folder / "balloon", images=4, change=lambda data: data["categories"].append({"id": 9, "name": "balloon"}))
    for catalogue in (DatasetCatalog, MetadataCatalog):
        catalogue.remove("tiny")
    return folder


def balloon(folder: Path, *words: str) -> list[str]:
    return [*data_overrides(folder / "balloon" / "instances.json", folder / "balloon" / "images"), *ONE_STEP, *words]


def test_all_that_fits_is_taken_and_the_rest_is_named(
    detectors: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    results = tmp_path / "all.csv"
    weights = detectors / "theirs.pkl"
    loaded = tiny("FPN", balloon(detectors, *START, *PIXELS, "SCALEPRIOR.RESULTS", str(results)))
    report = check_detection(loaded, weights, tmp_path / "run", engine=Detectron2Engine())
    report.refuse()
    assert report.facts["weights"] == f"not looked at: a whole detector, {weights}"
    named, nothing = start_from(loaded, weights, Detectron2Engine())  # as the command and sp.detect hand it on
    assert (named.cfg.MODEL.WEIGHTS, nothing) == (str(weights), None)
    model = Detectron2Engine().train(named, None, tmp_path / "run")
    log = (tmp_path / "run" / "log.txt").read_text()
    (line,) = [line for line in log.splitlines() if "start fresh" in line]
    assert f"detector {weights} fills " in line
    assert set(line.rsplit(": ", 1)[1].split(", ")) == HEADS
    assert "4 start fresh" in line
    assert "could not check INPUT.FORMAT, MODEL.PIXEL_MEAN" in log
    trained = read_trained(model)
    assert trained is not None
    assert trained.card is None
    assert trained.start["detector"] == "theirs.pkl"
    assert trained.class_names == ("block", "square", "balloon")
    Detectron2Engine().evaluate(loaded, model, tmp_path / "run")
    (row,) = csv.DictReader(results.open())
    assert (row["images"], row["backbone"], row["comparable"]) == ("", "", "")


def test_the_model_starts_with_the_detectors_own_numbers(detectors: Path, tmp_path: Path) -> None:
    """By ``Trainer`` alone, as the tutorial has it; the file of another one is another run."""
    words = balloon(detectors, *START, *PIXELS, "MODEL.WEIGHTS", str(detectors / "theirs.pkl"))
    cfg = tiny("FPN", [*words, "OUTPUT_DIR", str(tmp_path), "MODEL.ROI_HEADS.NUM_CLASSES", "3"]).cfg
    trainer: Any = Trainer(cfg)
    trainer.resume_or_load(resume=False)
    theirs = torch.load(detectors / "ours.pth", weights_only=True)["model"]
    found = trainer.model.state_dict()
    assert {name for name, tensor in found.items() if not torch.equal(tensor, theirs[name])} <= HEADS | {
        name for name in found if name.endswith("num_batches_tracked")
    }
    plans = [
        plan_training(tiny("FPN", balloon(detectors, *START, *PIXELS)), detectors / name, tmp_path).trained
        for name in ("theirs.pkl", "ours.pth")
    ]
    assert len({plan.fingerprint for plan in plans if plan is not None}) == 2


def test_a_detector_of_ours_is_held_against_the_config(detectors: Path, tmp_path: Path) -> None:
    """It says what its trunk saw: what nobody set follows it, what contradicts it is refused."""
    plan = plan_training(tiny("FPN", balloon(detectors, *START)), detectors / "ours.pth", tmp_path)
    assert list(plan.cfg.MODEL.PIXEL_MEAN) == [127.5] * 3
    with pytest.raises(UserError, match=r"contradicts the trained model: INPUT\.FORMAT is 'BGR'; use"):
        plan_training(tiny("FPN", balloon(detectors, *START, "INPUT.FORMAT", "BGR")), detectors / "ours.pth", tmp_path)


def test_it_has_to_be_asked_for_and_to_be_one(detectors: Path, tmp_path: Path) -> None:
    engine = Detectron2Engine()

    def train(file: str, *words: str) -> None:
        weights = ["MODEL.WEIGHTS", str(detectors / file)]
        engine.train(tiny("FPN", balloon(detectors, *PIXELS, *weights, *words)), None, tmp_path / "run")

    with pytest.raises(UserError, match="trained detector, not a backbone"):
        train("ours.pth")
    with pytest.raises(UserError, match="is a backbone, not a trained detector"):
        train("w.safetensors", *START)
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty, and SCALEPRIOR\.START is 'detector'"):
        train("ours.pth", *START, "MODEL.WEIGHTS", "")
    with pytest.raises(UserError, match="model not found"):
        train("gone.pth", *START)
    with pytest.raises(UserError, match=r"SCALEPRIOR\.START is 'whole'; take one of backbone, detector"):
        train("ours.pth", "SCALEPRIOR.START", "whole")
    with pytest.raises(UserError, match=r"does not fill \d+ tensors of the model's trunk, first: backbone\.fpn"):
        train("theirs.pkl", *START, "MODEL.FPN.OUT_CHANNELS", "16")
    assert not (tmp_path / "run" / "model_final.pth").exists()
    cfg = tiny("FPN", balloon(detectors, "MODEL.WEIGHTS", str(detectors / "ours.pth"), "OUTPUT_DIR", str(tmp_path))).cfg
    with pytest.raises(UserError, match=r"SCALEPRIOR\.START detector goes on from all of it"):
        Trainer(cfg).resume_or_load(resume=False)
    empty = tiny("FPN", balloon(detectors, *START, "OUTPUT_DIR", str(tmp_path))).cfg
    with pytest.raises(UserError, match=r"MODEL\.WEIGHTS is empty, and SCALEPRIOR\.START is 'detector'"):
        Trainer(empty).resume_or_load(resume=False)


def test_it_is_not_the_torchvision_engines(tmp_path: Path) -> None:
    from scaleprior.detect import get_engine

    loaded = tiny_config("FPN", START)
    with pytest.raises(UserError, match=r"SCALEPRIOR\.START is 'detector'; that needs the detectron2 engine"):
        get_engine("torchvision").check_config(loaded.cfg)


def test_the_key_at_its_default_enters_no_fingerprint() -> None:
    usual, asked = tiny("FPN").cfg, tiny("FPN", START).cfg
    assert "SCALEPRIOR.START" not in training_settings(usual)
    assert training_settings(asked)["SCALEPRIOR.START"] == "detector"
