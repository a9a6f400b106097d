"""``TEST.EXPECTED_RESULTS``: asked for sense before the training, held against the results when they are recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.evaluation.checks import check_evaluation
from scaleprior.d2.evaluation.expected import verify_expected
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import FailureError, UserError
from tests.d2.conftest import backbone_file, tiny

KEY = "TEST.EXPECTED_RESULTS"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([KEY, "[['bbox', 'AP', 38.5]]"], "has the entry ['bbox', 'AP', 38.5]; give [task, metric, value, tolerance]"),
        ([KEY, "[['bbox', 'AP', 'much', 1]]"], "has the entry ['bbox', 'AP', 'much', 1]"),
        ([KEY, "[['bbox', 'AP', 38.5, 1]]", "DATASETS.TEST", "()"], "is set, and DATASETS.TEST names 0 sets"),
        ([KEY, "[['bbox', 'AP', 38.5, 1]]", "DATASETS.TEST", "('a', 'b')"], "names 2 sets"),
    ],
)
def test_what_no_result_could_be_held_against(words: list[str], said: str) -> None:
    with pytest.raises(UserError) as e:
        check_evaluation(tiny("FPN", ["DATASETS.TEST", "('later',)", *words]).cfg)
    assert said in str(e.value)


def test_what_differs_is_listed() -> None:
    words = [
        ["bbox", "AP", 10.0, 0.5],
        ["bbox", "AP50", 20.0, 0.5],
        ["segm", "AP", 1.0, 0.1],
        ["bbox", "APs", 1.0, 1.0],
    ]
    cfg = tiny("FPN", [KEY, str(words), "DATASETS.TEST", "('later',)"]).cfg
    metrics = {"bbox": {"AP": 10.4, "AP50": 21.0, "APs": None}}
    with pytest.raises(FailureError) as e:
        verify_expected(cfg, {"later": DetectionResult.without_boxes(metrics=metrics)})
    assert str(e.value).startswith(
        f"{KEY}: bbox AP50 is 21, not 20 within 0.5; segm AP is not measured, not 1 within 0.1; bbox APs is not"
    )
    met = tiny("FPN", [KEY, str(words[:1]), "DATASETS.TEST", "('later',)"]).cfg
    verify_expected(met, {"later": DetectionResult.without_boxes(metrics=metrics)})


def test_engine_records_and_then_fails(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "SOLVER.MAX_ITER", "1", KEY, "[['bbox', 'AP', 101.0, 0.5]]"])
    engine = Detectron2Engine()
    model = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(FailureError, match=r"bbox AP is .*, not 101 within 0\.5; the results are recorded"):
        engine.evaluate(loaded, model, tmp_path / "run")
    assert json.loads((tmp_path / "run" / "results.json").read_text())["AP"] < 101
