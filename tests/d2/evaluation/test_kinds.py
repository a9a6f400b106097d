"""Every kind of set that Detectron2's own tool evaluates: trained and measured here, or refused before the training."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")


from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets.lvis import load_lvis_json
from detectron2.evaluation import COCOPanopticEvaluator, LVISEvaluator, PascalVOCDetectionEvaluator

from scaleprior.d2 import Trainer
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.evaluation.checks import check_evaluation, check_test_set
from scaleprior.d2.evaluation.kinds import imported_late, missing_modules, parts_of
from scaleprior.d2.evaluation.results import to_result
from scaleprior.d2.plan import default_config
from scaleprior.detect.check import check_detection
from scaleprior.errors import UserError
from tests.d2.conftest import TINY_FPN, backbone_file, tiny
from tests.d2.evaluation.conftest import make_voc, register_sem_seg, register_voc


def train_and_evaluate(name: str, out: Path, *words: str) -> tuple[Any, dict[str, Any]]:
    """The result on ``name``, and ``results.json``."""
    backbone_file(out / "w.safetensors")
    sets = ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)", "SOLVER.MAX_ITER", "2"]
    loaded = tiny("FPN", [*sets, "SCALEPRIOR.RESULTS", str(out / "results.csv"), *words])
    engine = Detectron2Engine()
    check_detection(loaded, out / "w.safetensors", out / "run", engine=engine).refuse()
    model = engine.train(loaded, out / "w.safetensors", out / "run")
    (result,) = engine.evaluate(loaded, model, out / "run").values()
    return result, json.loads((out / "run" / "results.json").read_text())


def test_voc_is_trained_and_evaluated(tmp_path: Path) -> None:
    name = register_voc("voc_here", make_voc(tmp_path / "voc"))
    result, written = train_and_evaluate(name, tmp_path)
    assert set(written["metrics"]) == {"bbox"}
    assert set(written["metrics"]["bbox"]) == {"AP", "AP50", "AP75"}  # VOC's evaluator says no more
    assert (written["AP"], written["APs"], written["per_class"]) == (written["metrics"]["bbox"]["AP"], None, {})
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (float(row["ap"]), row["ap_small"]) == (pytest.approx(result.ap, abs=1e-6), "")
    evaluator = Trainer.build_evaluator(tiny("FPN").cfg, name)
    assert type(evaluator) is PascalVOCDetectionEvaluator


def test_semantic_segmentation_has_no_box_ap(tmp_path: Path) -> None:
    """Its classes are counted, its numbers are Detectron2's, and no row claims an AP."""
    name = register_sem_seg("pixels", tmp_path / "data")
    words = ["MODEL.META_ARCHITECTURE", "SemanticSegmentor", "MODEL.SEM_SEG_HEAD.CONVS_DIM", "32"]
    result, written = train_and_evaluate(name, tmp_path, *words)
    assert "MODEL.SEM_SEG_HEAD.NUM_CLASSES" not in tiny("FPN", words).explicit
    figures = written["metrics"]["sem_seg"]
    assert {"mIoU", "fwIoU", "mACC", "pACC", "IoU-nothing", "IoU-block", "IoU-square"} <= set(figures)
    assert 0 <= figures["mIoU"] <= 100
    assert not {"AP", "ap", "per_class"} & set(written)
    assert math.isnan(result.ap)
    assert type(result).from_dict(written).metrics == result.metrics
    assert not (tmp_path / "results.csv").exists()


def config(name: str, *words: str) -> Any:
    return tiny("FPN", ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", f"('{name}',)", *words])


@pytest.mark.parametrize(
    ("kind", "words", "said"),
    [
        (None, [], "says not how it is evaluated; set MetadataCatalog"),
        ("vqa", [], "has the evaluator type 'vqa'; set MetadataCatalog"),
        ("cityscapes_panoptic_seg", [], "has the evaluator type 'cityscapes_panoptic_seg'"),
        ("sem_seg", [], "measures 'sem_seg'; MODEL.META_ARCHITECTURE GeneralizedRCNN puts out instances; take MODEL."),
        ("coco", ["MODEL.META_ARCHITECTURE", "SemanticSegmentor"], "SemanticSegmentor puts out sem_seg; take a det"),
        ("cityscapes_instance", [], "measures masks; MODEL.META_ARCHITECTURE is GeneralizedRCNN with MODEL.MASK_ON F"),
        (
            "coco_panoptic_seg",
            ["MODEL.META_ARCHITECTURE", "PanopticFPN", "MODEL.PANOPTIC_FPN.COMBINE.ENABLED", "False"],
            "measures 'panoptic_seg'; MODEL.META_ARCHITECTURE PanopticFPN puts out instances, sem_seg",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_refused_before_the_training(
    kind: str | None, words: list[str], said: str, tmp_path: Path
) -> None:
    """By ``scaleprior check``, by the engine, and by a trainer that is started by hand."""
    DatasetCatalog.register("mine", list)
    MetadataCatalog.get("mine").set(thing_classes=["a"], stuff_classes=["b"])
    if kind is not None:
        MetadataCatalog.get("mine").evaluator_type = kind
    backbone_file(tmp_path / "w.safetensors")
    loaded = config("mine", *words)
    report = check_detection(loaded, tmp_path / "w.safetensors", tmp_path / "run", engine=Detectron2Engine())
    (problem,) = [p.sentence for p in report.of("config")]
    assert said in problem
    with pytest.raises(UserError, match=problem[:60].replace("(", r"\(")):
        Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError):
        Trainer(loaded.cfg)
    assert not (tmp_path / "run" / "run.json").exists()


def test_a_trainer_with_an_evaluator_of_its_own_is_left_alone(tmp_path: Path) -> None:
    class Own(Trainer):
        @classmethod
        def build_evaluator(cls, cfg: Any, dataset_name: str, output_folder: str | None = None) -> Any:
            return None

    DatasetCatalog.register("mine", list)
    MetadataCatalog.get("mine")
    with pytest.raises(Exception, match=r"^(?!data set mine says not how)"):  # it fails later: there are no images
        Own(config("mine").cfg)


def test_panoptic_separated_sets_are_named_for_the_others() -> None:
    words = ["MODEL.META_ARCHITECTURE", "PanopticFPN"]
    if missing_modules(COCOPanopticEvaluator):
        with pytest.raises(
            UserError, match=r"evaluated by COCOPanopticEvaluator, which needs panopticapi, and that is"
        ):
            check_test_set(tiny("FPN", words).cfg, "coco_2017_val_panoptic_separated")
        return
    with pytest.raises(UserError, match="take coco_2017_val_panoptic_separated"):
        check_test_set(tiny("FPN", words).cfg, "coco_2017_val_panoptic")


def test_a_package_that_is_not_installed_is_named() -> None:
    """What this Detectron2 imports is read from its source; the same source imports it here."""
    assert imported_late(load_lvis_json) == ["lvis"]
    assert "lvis" in imported_late(LVISEvaluator)
    assert "panopticapi.utils" in imported_late(COCOPanopticEvaluator)
    assert missing_modules(PascalVOCDetectionEvaluator) == []
    if missing_modules(LVISEvaluator):
        with pytest.raises(UserError, match="needs lvis, and that is not installed; pip install git"):
            check_test_set(tiny("FPN").cfg, "lvis_v1_val")


def test_the_kinds_are_those_of_detectron2s_own_tool() -> None:
    """Every built-in set that the tool there evaluates has an evaluator here; the rest is Panoptic-DeepLab's."""
    unknown = set()
    for name in DatasetCatalog.list():
        kind = MetadataCatalog.get(name).get("evaluator_type")
        try:
            parts_of(name)
        except UserError:
            unknown.add(kind)
    assert unknown - {None} == {"cityscapes_panoptic_seg"}  # sets of other tests may say nothing
    check_evaluation(default_config())  # no test sets, nothing to ask


@pytest.mark.parametrize("check", [[], ["--no-check"]])
@pytest.mark.parametrize("name", ["voc_2007_val", "ade20k_sem_seg_val", "cityscapes_fine_instance_seg_val"])
def test_tool_leaves_nothing_where_a_test_set_is_missing(
    name: str, check: list[str], tmp_path: Path, coco: list[str]
) -> None:
    from scaleprior.commands.tool_flags import tool_parser
    from scaleprior.d2.tool import run

    backbone_file(tmp_path / "w.safetensors")
    words = [*TINY_FPN, *coco, "MODEL.WEIGHTS", str(tmp_path / "w.safetensors"), "OUTPUT_DIR", str(tmp_path / "run")]
    words += ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
    args = tool_parser("").parse_args(
        ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", *check, *words, "DATASETS.TEST", f"('{name}',)"]
    )
    with pytest.raises(UserError, match=f"data set {name}") as e:
        run(args)
    assert e.value.exit_code == 2
    assert not (tmp_path / "run").exists()


def test_sets_of_ones_own_are_looked_at_before_they_are_registered(coco: list[str]) -> None:
    cfg = tiny("FPN", [*coco, "MODEL.META_ARCHITECTURE", "SemanticSegmentor"]).cfg
    with pytest.raises(UserError, match=r"data set tiny has the evaluator type 'coco', which measures 'instances'"):
        check_evaluation(cfg)
    assert "tiny" not in DatasetCatalog


def test_a_number_that_an_evaluator_has_not_is_none() -> None:
    """nan of COCO's, and -100, which Detectron2 makes of LVIS' -1 where no class has a frequency."""
    result = to_result({"bbox": {"AP": 5.0, "AP50": 9.0, "AP75": 1.0, "APs": math.nan, "APf": -100.0}}, "lvis_v1_val")
    assert result.metrics == {"bbox": {"AP": 5.0, "AP50": 9.0, "AP75": 1.0, "APs": None, "APf": None}}
    assert (result.ap, result.ap_small) == (5.0, None)
    proposals = to_result({"box_proposals": {"AR@100": 12.0}}, "coco_2017_val")
    assert not proposals.has_boxes
    assert proposals.metrics == {"box_proposals": {"AR@100": 12.0}}
