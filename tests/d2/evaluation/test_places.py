"""Every set that Detectron2 knows is asked for its files, in one line that says where they are looked for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

from scaleprior.d2.data.datasets import register_datasets
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.evaluation.builtin_root import _ROOT
from scaleprior.d2.evaluation.places import annotation_files, check_lvis, check_places
from scaleprior.detect.check import check_detection
from scaleprior.errors import UserError
from tests.d2.conftest import tiny
from tests.d2.evaluation.conftest import make_voc, register_voc

BUILTIN = [name for name in DatasetCatalog.list() if Path(_ROOT).is_absolute() or not Path(_ROOT).exists()]


@pytest.mark.parametrize("evaluated", [False, True])
def test_all_of_detectron2s_own_sets_are_asked_for(evaluated: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is here: each is refused with a path below the root and the variable, or the package it needs."""
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    assert len(BUILTIN) > 40
    for name in BUILTIN:
        with pytest.raises(UserError) as e:
            check_places(name, evaluated=evaluated)
        assert name in str(e.value)
        assert "\n" not in str(e.value)
        if "is not installed" in str(e.value):
            assert name.startswith(("lvis", "cityscapes"))
        else:
            assert f" at {_ROOT}/" in str(e.value)
            assert "set DETECTRON2_DATASETS to the folder that holds " in str(e.value)


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("voc_2007_val", "VOC2007/"),
        ("ade20k_sem_seg_val", "ADEChallengeData2016/"),
        ("keypoints_coco_2017_val", "coco/"),
    ],
)
def test_a_training_set_is_asked_for_before_anything_else(name: str, folder: str) -> None:
    with pytest.raises(UserError, match=f"the folder that holds {folder} before Python starts"):
        register_datasets(tiny("FPN", ["DATASETS.TRAIN", f"('{name}',)", "DATASETS.TEST", "()"]).cfg)


@pytest.mark.parametrize("role", ["TRAIN", "TEST"])
def test_check_tells_it_without_starting_anything(role: str, tmp_path: Path, coco: list[str]) -> None:
    """Once, under the config; COCO's own files are told once, too, where all JSON files are looked at."""
    for name, part in (("voc_2007_val", "config"), ("coco_2017_val", "data")):
        loaded = tiny("FPN", [*coco, f"DATASETS.{role}", f"('{name}',)"])
        report = check_detection(loaded, "", tmp_path / "run", engine=Detectron2Engine())
        (told,) = [problem for problem in report.findings if name in problem.sentence]
        assert told in report.of(part)
        assert f"data set {name}: no " in told.sentence


def test_training_on_separated_panoptic_sets_needs_no_panoptic_masks(tmp_path: Path) -> None:
    """Its loader reads instances and semantic masks; evaluation reads the panoptic ones, too."""
    (tmp_path / "instances.json").write_text("{}")
    (tmp_path / "stuff").mkdir()
    DatasetCatalog.register("separated", list)
    MetadataCatalog.get("separated").set(
        evaluator_type="coco_panoptic_seg",
        json_file=str(tmp_path / "instances.json"),
        sem_seg_root=str(tmp_path / "stuff"),
        panoptic_json=str(tmp_path / "panoptic.json"),
        panoptic_root=str(tmp_path / "panoptic"),
    )
    check_places("separated", evaluated=False)
    with pytest.raises(UserError, match=r"no panoptic annotations at .*; correct the path that it was registered with"):
        check_places("separated", evaluated=True)


def test_cityscapes_labels_are_all_asked_for(tmp_path: Path) -> None:
    """Detectron2 asserts them of the first image; the second one's miss here, then the masks made by its scripts."""
    images, labels = tmp_path / "images", tmp_path / "labels"
    for folder in (images, labels):
        (folder / "ulm").mkdir(parents=True)
    DatasetCatalog.register("city", list)
    MetadataCatalog.get("city").set(
        evaluator_type="cityscapes_sem_seg", image_dir=str(images), gt_dir=str(labels), stuff_classes=["road"]
    )
    with pytest.raises(UserError, match="data set city: no images at"):
        check_places("city", evaluated=True)
    for stem in ("ulm_0", "ulm_1"):
        (images / "ulm" / f"{stem}_leftImg8bit.png").touch()
        for kind in ("labelIds.png", "polygons.json", "labelTrainIds.png"):
            (labels / "ulm" / f"{stem}_gtFine_{kind}").touch()
    check_places("city", evaluated=True)
    (labels / "ulm" / "ulm_1_gtFine_labelTrainIds.png").unlink()
    with pytest.raises(UserError, match=r"1 label file that is missing, first: .*ulm_1_.*; createTrainIdLabelImgs of"):
        check_places("city", evaluated=True)
    (labels / "ulm" / "ulm_1_gtFine_polygons.json").unlink()
    with pytest.raises(UserError, match=r"1 label file that is missing, first: .*ulm_1_gtFine_polygons.json"):
        check_places("city", evaluated=False)


def test_a_folder_that_the_names_do_not_need_is_not_asked_for(tmp_path: Path) -> None:
    """``register_coco_instances`` with absolute names in the JSON: its image root means nothing."""
    (tmp_path / "mine.json").write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    register_coco_instances("mine", {}, str(tmp_path / "mine.json"), "/nowhere")
    check_places("mine", evaluated=True)
    register_coco_instances("gone", {}, str(tmp_path / "gone.json"), "")
    with pytest.raises(UserError, match=r"data set gone: no annotations at .*gone\.json"):
        check_places("gone", evaluated=True)


def test_files_that_are_the_truth(tmp_path: Path) -> None:
    folder = make_voc(tmp_path / "voc")
    files = annotation_files(register_voc("voc", folder))
    assert [Path(file).name for file in files] == ["trainval.txt", *(f"{i:03d}.xml" for i in range(6))]
    assert annotation_files("coco_2017_val") == [f"{_ROOT}/coco/annotations/instances_val2017.json"]


def test_the_lvis_of_2020_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last line of work raises an AttributeError with today's NumPy: PyPI's 0.5.3, against what followed it."""
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis" / "__init__.py").touch()
    source = tmp_path / "lvis" / "eval.py"
    source.write_text("tp_sum = np.cumsum(tps, axis=1).astype(dtype=np.float)")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "lvis", raising=False)
    monkeypatch.delitem(sys.modules, "lvis.eval", raising=False)
    with pytest.raises(UserError, match=r"the installed lvis uses np.float, which NumPy .* does not have; pip install"):
        check_lvis()
    source.write_text("tp_sum = np.cumsum(tps, axis=1).astype(dtype=np.float64)")
    check_lvis()
    for name in ("lvis", "lvis.eval"):  # else the next test would find this one, or monkeypatch put it back
        sys.modules.pop(name, None)
