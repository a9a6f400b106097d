"""``TEST.AUG``: Detectron2's test-time augmentation, beside the evaluation without it and never in its place."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.evaluation import inference_on_dataset
from detectron2.modeling import GeneralizedRCNNWithTTA

from scaleprior.d2 import Trainer
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.evaluation.augmented import split_augmented
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.plan import plan_evaluation, plan_training
from scaleprior.d2.weights.checkpoint import load_detector
from scaleprior.errors import UserError
from tests.d2.conftest import backbone_file, tiny

AUG = ["TEST.AUG.ENABLED", "True", "TEST.AUG.MIN_SIZES", "(48, 96)", "TEST.AUG.MAX_SIZE", "128"]


def test_engine_evaluates_both_ways(tmp_path: Path, coco: list[str]) -> None:
    """AP stays what it is without augmentation; with it is Detectron2's own, in a row of its own."""
    weights, rows = tmp_path / "w.safetensors", tmp_path / "results.csv"
    backbone_file(weights)
    engine, words = Detectron2Engine(), [*coco, "SCALEPRIOR.RESULTS", str(rows), "SOLVER.MAX_ITER", "2"]
    model = engine.train(tiny("FPN", [*words, *AUG]), weights, tmp_path / "run")
    (plain,) = engine.evaluate(tiny("FPN", words), model, tmp_path / "plain").values()
    (once,) = csv.DictReader(rows.open())
    (both,) = engine.evaluate(tiny("FPN", [*words, *AUG]), model, tmp_path / "both").values()
    assert plain.augmented is None
    assert both.augmented is not None
    assert both.named() == plain.named()

    plan = plan_evaluation(tiny("FPN", [*words, *AUG]), model, tmp_path / "by_hand")
    detector = Trainer.build_model(plan.cfg)
    load_detector(detector, str(model))
    loader, evaluator = Trainer.build_test_loader(plan.cfg, "tiny"), Trainer.build_evaluator(plan.cfg, "tiny")
    theirs = inference_on_dataset(GeneralizedRCNNWithTTA(plan.cfg, detector), loader, evaluator)["bbox"]
    assert both.augmented.ap == theirs["AP"] != both.ap
    written = json.loads((tmp_path / "both" / "results.json").read_text())
    assert written["TTA"]["AP"] == written["metrics"]["bbox_TTA"]["AP"] == theirs["AP"]
    assert written["AP"] == written["metrics"]["bbox"]["AP"]

    found = list(csv.DictReader(rows.open()))
    assert found[0] == once  # the same row as without, replaced
    assert [row["detector"].endswith("+TTA") for row in found] == [False, True]
    assert found[1]["test_settings"] != found[0]["test_settings"]
    assert float(found[1]["ap"]) == pytest.approx(theirs["AP"], abs=1e-6)


def test_trainer_evaluates_with_it_once_at_the_end(tmp_path: Path, coco: list[str]) -> None:
    """As Detectron2's tool: ``bbox_TTA`` in ``metrics.json`` and beside ``bbox`` in the trainer's results."""
    backbone_file(tmp_path / "w.safetensors")
    words = [*coco, *AUG, "SOLVER.MAX_ITER", "2", "TEST.EVAL_PERIOD", "1"]
    trainer = Trainer(plan_training(tiny("FPN", words), tmp_path / "w.safetensors", tmp_path / "run").cfg)
    trainer.resume_or_load(False)
    trainer.train()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert [line["iteration"] for line in lines if "bbox_TTA/AP" in line] == [2]
    assert {"bbox", "bbox_TTA"} == set(trainer._last_eval_results)
    assert (tmp_path / "run" / "inference_TTA" / "tiny" / "coco_instances_results.json").is_file()


def test_several_sets_are_told_apart() -> None:
    """Detectron2's tool puts the suffix behind the name of the set then."""
    found = {"a": {"bbox": {"AP": 1.0}}, "b": {"bbox": {"AP": 2.0}}, "b_TTA": {"bbox": {"AP": 3.0}}}
    assert split_augmented(found, "b", alone=False) == ({"bbox": {"AP": 2.0}}, {"bbox": {"AP": 3.0}})
    assert split_augmented(found, "a", alone=False) == ({"bbox": {"AP": 1.0}}, {})
    found = {"bbox": {"AP": 1.0}, "bbox_TTA": {"AP": 2.0}}
    assert split_augmented(found, "a", alone=True) == ({"bbox": {"AP": 1.0}}, {"bbox": {"AP": 2.0}})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["MODEL.META_ARCHITECTURE", "RetinaNet"], "with MODEL.META_ARCHITECTURE RetinaNet"),
        (["MODEL.KEYPOINT_ON", "True"], "with MODEL.KEYPOINT_ON True"),
        (["MODEL.LOAD_PROPOSALS", "True"], "with MODEL.LOAD_PROPOSALS True"),
    ],
)
def test_what_detectron2_does_not_augment(words: list[str], said: str) -> None:
    """It asserts the same, once the training is over."""
    cfg = tiny("FPN", [*AUG, *words, "DATASETS.TEST", "('later',)"]).cfg
    with pytest.raises(UserError, match=f"TEST.AUG.ENABLED is True {said}; Detectron2 augments R-CNNs of boxes and"):
        check_evaluation(cfg)
    if "RetinaNet" not in words:
        with pytest.raises(AssertionError, match="not supported yet"):
            GeneralizedRCNNWithTTA(cfg, Trainer.build_model(tiny("FPN").cfg))
