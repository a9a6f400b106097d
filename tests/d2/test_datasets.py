"""COCO-format sets inside the real Detectron2: registering, loading, evaluating, and refusing."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    MetadataCatalog,
    build_detection_train_loader,
    detection_utils,
    get_detection_dataset_dicts,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.file_io import PathManager

from scaleprior.config import add_scaleprior_config
from scaleprior.d2.data import datasets as d2_data
from scaleprior.d2.data.datasets import TarHandler, register_coco, register_datasets
from scaleprior.d2.evaluation.coco import Evaluator
from scaleprior.d2.evaluation.results import to_result
from scaleprior.d2.zoo_files import zoo_file, zoo_folder
from scaleprior.errors import UserError
from tests.detect.conftest import make_coco, write_val2014

pytestmark = pytest.mark.detectron2


@pytest.fixture(autouse=True)
def _clean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A cache of its own, and Detectron2's catalogues as they were."""
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    sets, metadata, ours = dict(DatasetCatalog), dict(MetadataCatalog), dict(d2_data._registered)
    yield
    for catalogue, before in ((DatasetCatalog, sets), (MetadataCatalog, metadata), (d2_data._registered, ours)):
        for name in set(catalogue) - set(before):
            catalogue.pop(name)


def _cfg(*overrides: Any) -> CfgNode:
    cfg = get_cfg()
    add_scaleprior_config(cfg)
    cfg.merge_from_list(
        ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TRAIN", (64,), "INPUT.MAX_SIZE_TRAIN", 64, "SOLVER.IMS_PER_BATCH", 2]
    )
    cfg.merge_from_list(["DATALOADER.NUM_WORKERS", 0, "SEED", 3, *overrides])
    return cfg


def _incomplete(data: dict[str, Any]) -> None:
    for annotation in data["annotations"]:
        for key in ("iscrowd", "area", "id"):
            del annotation[key]


def _tars(root: Path, folder: Path, parts: int = 2) -> str:
    """The images of ``root`` in tars, under a name that has to be quoted; returns a glob."""
    folder.mkdir()
    for number in range(parts):
        with tarfile.open(folder / f"a b-{number}.tar", "w") as tar:
            for file in sorted(root.iterdir())[number::parts]:
                tar.add(file, arcname=f"train/{file.name}")
    return str(folder / "a b-*.tar")


def test_records_are_as_detectron2_wants_them(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, change=lambda d: d["annotations"][1].update(iscrowd=1))
    register_coco("d2_tiny", path, root)
    metadata = MetadataCatalog.get("d2_tiny")  # before anything was loaded
    assert metadata.thing_classes == ["block", "square"]
    assert metadata.thing_dataset_id_to_contiguous_id == {3: 0, 7: 1}
    assert (metadata.evaluator_type, metadata.json_file, metadata.image_root) == ("coco", str(path), str(root))
    raw = json.loads(path.read_text())
    records = DatasetCatalog.get("d2_tiny")
    assert [r["file_name"] for r in records] == [str(root / f"{i:03d}.png") for i in range(6)]
    found = [(r["image_id"], o) for r in records for o in r["annotations"]]
    for (image_id, ours), theirs in zip(found, raw["annotations"], strict=True):
        assert image_id == theirs["image_id"]
        assert ours["bbox"] == theirs["bbox"]
        assert ours["bbox_mode"] == BoxMode.XYWH_ABS
        assert ours["category_id"] == {3: 0, 7: 1}[theirs["category_id"]]
        assert ours["iscrowd"] == theirs["iscrowd"]
    assert [o["iscrowd"] for _, o in found].count(1) == 1


def test_the_same_set_twice_is_harmless_and_another_is_refused(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "a")
    other, _ = make_coco(tmp_path / "b", seed=1)
    register_coco("d2_twice", path, root)
    register_coco("d2_twice", str(path), f"{root}/")
    with pytest.raises(UserError, match=r"d2_twice is registered already.*take another name"):
        register_coco("d2_twice", other, root)
    with pytest.raises(UserError, match="coco_2017_val is registered already, not by ScalePrior"):
        register_coco("coco_2017_val", path, root)
    MetadataCatalog.get("d2_stale").thing_classes = ["cat"]
    with pytest.raises(UserError, match=r"other metadata for a data set d2_stale \(thing_classes\)"):
        register_coco("d2_stale", path, root)
    assert "d2_stale" not in DatasetCatalog
    with pytest.raises(UserError, match="needs a name"):
        register_coco("", path, root)


def test_a_broken_set_is_refused_and_not_registered(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, change=lambda d: d["annotations"][0].update(category_id=99))
    with pytest.raises(UserError, match="1 annotation with unknown category ids, first: category_id 99"):
        register_coco("d2_broken", path, root)
    assert "d2_broken" not in DatasetCatalog
    assert "thing_classes" not in MetadataCatalog.get("d2_broken").as_dict()


def _perfect(
    name: str, evaluator: COCOEvaluator, shift: float = 0.0, only_class: int | None = None
) -> dict[str, float]:
    """AP of the true boxes, moved right by ``shift`` of their width, as predictions; of one class or all."""
    evaluator.reset()
    for record in DatasetCatalog.get(name):
        objects = [o for o in record["annotations"] if only_class in (None, o["category_id"])]
        boxes = torch.tensor([o["bbox"] for o in objects], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        boxes[:, ::2] += shift * (boxes[:, 2:3] - boxes[:, :1])
        instances = Instances((record["height"], record["width"]))
        instances.pred_boxes = Boxes(boxes)
        instances.scores = torch.ones(len(boxes))
        instances.pred_classes = torch.tensor([o["category_id"] for o in objects], dtype=torch.int64)
        evaluator.process([record], [{"instances": instances}])
    return evaluator.evaluate()["bbox"]


@pytest.mark.parametrize(
    "ids", [lambda i: i, lambda i: 5, lambda i: float(i // 2)], ids=["from 0", "all one", "twice, as floats"]
)
def test_ap_depends_on_no_annotation_id_whoever_registered_the_set(tmp_path: Path, ids: Callable[[int], Any]) -> None:
    """Detectron2 alone reads a set that our code never saw, as ``coco_2014_minival`` is one."""

    def change(data: dict[str, Any]) -> None:
        for number, annotation in enumerate(data["annotations"]):
            annotation["id"] = ids(number)

    path, root = make_coco(tmp_path, change=change)
    theirs = f"d2_minival_{tmp_path.name}"  # Detectron2 takes repeated ids in files of this name only
    renamed = path.with_name("instances_minival.json")
    renamed.write_text(path.read_text())
    register_coco_instances(theirs, {}, str(renamed), str(root))
    register_coco(f"{theirs}_ours", path, root)
    for name in (theirs, f"{theirs}_ours"):
        DatasetCatalog.get(name)
        found = _perfect(name, Evaluator(name, None))
        assert found["AP"] == pytest.approx(100.0)
        result = to_result({"bbox": found}, name)
        assert {number: (c.name, c.ap) for number, c in result.per_class.items()} == {
            3: ("block", pytest.approx(100.0)),
            7: ("square", pytest.approx(100.0)),
        }
    # ... and Detectron2's own evaluator finds no difference in what we registered
    own = COCOEvaluator(f"{theirs}_ours", output_dir=None, use_fast_impl=False)
    assert _perfect(f"{theirs}_ours", own)["AP"] == pytest.approx(100.0)


def test_classes_of_one_name_are_two_and_a_single_class_has_its_ap(tmp_path: Path) -> None:
    def namesakes(data: dict[str, Any]) -> None:
        data["categories"][0]["name"] = data["categories"][1]["name"]

    def one(data: dict[str, Any]) -> None:
        data["categories"] = [{"id": 3, "name": "block"}]
        for annotation in data["annotations"]:
            annotation["category_id"] = 3

    register_coco("d2_namesakes", *make_coco(tmp_path / "a", change=namesakes))
    found = _perfect("d2_namesakes", Evaluator("d2_namesakes", None), only_class=1)
    assert {key: value for key, value in found.items() if "-" in key} == {
        "AP-block (3)": pytest.approx(0.0),
        "AP-block (7)": pytest.approx(100.0),
    }
    result = to_result({"bbox": found}, "d2_namesakes")
    assert [(i, c.name, round(c.ap or 0)) for i, c in result.per_class.items()] == [(3, "block", 0), (7, "block", 100)]
    register_coco("d2_one", *make_coco(tmp_path / "b", change=one))
    result = to_result({"bbox": _perfect("d2_one", Evaluator("d2_one", None))}, "d2_one")
    assert [(i, c.name, c.ap) for i, c in result.per_class.items()] == [(3, "block", result.ap)]


def test_ids_may_be_texts(tmp_path: Path) -> None:
    def change(data: dict[str, Any]) -> None:
        for image in data["images"]:
            image["id"] = f"im{image['id']}"
        for annotation in data["annotations"]:
            annotation["image_id"] = f"im{annotation['image_id']}"

    register_coco("d2_texts", *make_coco(tmp_path, change=change))
    assert [r["image_id"] for r in DatasetCatalog.get("d2_texts")] == [f"im{100 + i}" for i in range(6)]
    assert _perfect("d2_texts", Evaluator("d2_texts", None))["AP"] == pytest.approx(100.0)


def test_an_incomplete_json_is_completed_for_the_evaluator(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, change=_incomplete)
    before = path.read_bytes()
    register_coco("d2_incomplete", path, root)
    completed = Path(MetadataCatalog.get("d2_incomplete").json_file)
    assert completed.is_relative_to(tmp_path / "home" / "coco")
    assert path.read_bytes() == before
    evaluator = COCOEvaluator("d2_incomplete", output_dir=None, use_fast_impl=False)
    assert _perfect("d2_incomplete", evaluator)["AP"] == pytest.approx(100.0)
    # moved by 10 % of the width: IoU 0.9 / 1.1 = 0.818, right at the 7 thresholds 0.50 to 0.80 of ten
    assert _perfect("d2_incomplete", evaluator, shift=0.1)["AP"] == pytest.approx(70.0)
    assert [p.name for p in completed.parent.iterdir()] == ["completed_3.json"]


def test_segmentations_pass_through(tmp_path: Path) -> None:
    polygon = [1.0, 1.0, 9.0, 1.0, 9.0, 9.0, 1.0, 9.0]

    def change(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["segmentation"] = [polygon]

    def change_and_strip(data: dict[str, Any]) -> None:
        change(data)
        _incomplete(data)

    for number, edit in enumerate((change, change_and_strip)):
        register_coco(f"d2_masks{number}", *make_coco(tmp_path / str(number), change=edit))
        objects = [o for r in DatasetCatalog.get(f"d2_masks{number}") for o in r["annotations"]]
        assert objects
        assert all(o["segmentation"] == [polygon] for o in objects)
        (batch,) = _batches(_cfg("DATASETS.TRAIN", (f"d2_masks{number}",), "MODEL.MASK_ON", True), 1)
        assert all(len(image["instances"].gt_masks) == len(image["instances"]) for image in batch)


def _batches(cfg: CfgNode, steps: int) -> list[list[dict[str, Any]]]:
    return [batch for batch, _ in zip(build_detection_train_loader(cfg), range(steps))]


@pytest.mark.parametrize("workers", [0, 2])
def test_images_in_tars_equal_those_in_folders(tmp_path: Path, workers: int) -> None:
    path, root = make_coco(tmp_path)
    register_coco("d2_folder", path, root)
    register_coco("d2_tars", path, _tars(root, tmp_path / "tars!"))
    assert all(r["file_name"].startswith(TarHandler.PREFIX) for r in DatasetCatalog.get("d2_tars"))
    for folder, tars in zip(DatasetCatalog.get("d2_folder"), DatasetCatalog.get("d2_tars")):
        a, b = (detection_utils.read_image(r["file_name"], "RGB") for r in (folder, tars))
        np.testing.assert_array_equal(a, b)
    batch = _batches(_cfg("DATASETS.TRAIN", ("d2_tars",), "DATALOADER.NUM_WORKERS", workers), 2)[1]
    assert len(batch) == 2
    for image in batch:
        assert image["image"].shape == (3, 64, 64)
        assert image["instances"].gt_boxes.tensor.shape == (len(image["instances"]), 4)
        assert len(image["instances"]) > 0


def test_a_worker_that_is_not_forked_finds_the_handler_too(tmp_path: Path) -> None:
    """A spawned process imports only what unpickling its arguments asks for."""
    path, root = make_coco(tmp_path)
    register_coco("d2_spawn", path, _tars(root, tmp_path / "tars!"))
    name = DatasetCatalog.get("d2_spawn")[0]["file_name"]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        image = pool.apply(detection_utils.read_image, (name, "RGB"))
    np.testing.assert_array_equal(image, detection_utils.read_image(str(root / "000.png"), "RGB"))


def test_the_handler_is_picklable_and_read_only(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    register_coco("d2_pickle", path, _tars(root, tmp_path / "tars!"))
    name = DatasetCatalog.get("d2_pickle")[3]["file_name"]
    handler = pickle.loads(pickle.dumps(d2_data._TARS))
    assert handler._open(name, "rb").read() == (root / "003.png").read_bytes()
    with pytest.raises(UserError, match="opened with mode 'w'"):
        PathManager.open(name, "w")


def test_sets_by_config_alone(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path)
    own = [["d2_by_key", str(path), str(root)]]
    cfg = _cfg("SCALEPRIOR.DATASETS", own, "DATASETS.TRAIN", ("d2_by_key",), "DATASETS.TEST", ("d2_by_key",))
    register_datasets(cfg)
    register_datasets(cfg)
    assert len(get_detection_dataset_dicts("d2_by_key")) == 6
    with pytest.raises(UserError, match=r"no data set is called 'd2_nowhere'; known are d2_by_key, coco_2014_train"):
        register_datasets(_cfg("SCALEPRIOR.DATASETS", own, "DATASETS.TRAIN", ("d2_nowhere",)))
    with pytest.raises(UserError, match="has the entry 'd2_by_key'"):
        register_datasets(_cfg("SCALEPRIOR.DATASETS", ["d2_by_key"]))
    DatasetCatalog.register("d2_users_own", list)  # registered by other code: left alone
    register_datasets(_cfg("DATASETS.TRAIN", ("d2_users_own",)))


def test_missing_coco_names_the_variable_and_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "data"))
    with pytest.raises(UserError, match="set DETECTRON2_DATASETS to the folder that holds coco/") as caught:
        register_datasets(_cfg("DATASETS.TEST", ("coco_2014_minival_8k",)))
    assert str(tmp_path / "data" / "coco" / "annotations") in str(caught.value)
    monkeypatch.chdir(tmp_path)
    place = MetadataCatalog.get("coco_2017_val").json_file  # Detectron2 read the variable when it was imported
    if Path(place).exists():
        pytest.skip(f"COCO is at {place}, so it cannot be missed")
    with pytest.raises(UserError, match=r"coco_2017_val: no annotations at .*instances_val2017\.json") as caught:
        register_datasets(_cfg("DATASETS.TEST", ("coco_2017_val",)))
    assert place in str(caught.value)


def test_minival(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    write_val2014(tmp_path)
    (tmp_path / "ids.txt").write_text("101\n104\n")
    names = ("coco_2014_minival_8k", "coco_2014_valminusminival_8k")
    cfg = _cfg("DATASETS.TRAIN", names[1:], "DATASETS.TEST", names[:1])
    cfg.SCALEPRIOR.MINIVAL_IDS = str(tmp_path / "ids.txt")
    register_datasets(cfg)
    register_datasets(cfg)
    assert [r["image_id"] for r in DatasetCatalog.get(names[0])] == [101, 104]
    assert [r["image_id"] for r in DatasetCatalog.get(names[1])] == [100, 102, 103, 105]
    evaluator = COCOEvaluator(names[0], output_dir=None, use_fast_impl=False)
    assert _perfect(names[0], evaluator)["AP"] == pytest.approx(100.0)


def test_names_made_on_windows_are_read(tmp_path: Path) -> None:
    """Detectron2 joins the JSON's names to the folder by itself, and would not find them."""
    path, root = make_coco(tmp_path)
    (tmp_path / "all" / "images").mkdir(parents=True)
    data = json.loads(path.read_text())
    for image in data["images"]:
        (root / image["file_name"]).rename(tmp_path / "all" / "images" / image["file_name"])
        image["file_name"] = f"images\\{image['file_name']}"
    (tmp_path / "windows.json").write_text(json.dumps(data))
    register_coco("d2_windows", tmp_path / "windows.json", tmp_path / "all")
    for record in DatasetCatalog.get("d2_windows"):
        assert detection_utils.read_image(record["file_name"], "RGB").shape[:2] == (record["height"], record["width"])


def test_real_mosaics_in_tars(shared_data: Path) -> None:
    folder = shared_data / "mosaic_detection"
    register_coco("d2_mosaic", folder / "instances_val.json", folder / "val-*.tar")
    records = DatasetCatalog.get("d2_mosaic")
    assert (len(records), sum(len(r["annotations"]) for r in records)) == (400, 2568)
    evaluator = COCOEvaluator("d2_mosaic", output_dir=None, use_fast_impl=False)
    assert _perfect("d2_mosaic", evaluator)["AP"] == pytest.approx(100.0)
    (batch,) = _batches(_cfg("DATASETS.TRAIN", ("d2_mosaic",), "INPUT.FORMAT", "RGB"), 1)
    assert [tuple(image["image"].shape) for image in batch] == [(3, 64, 64)] * 2


def test_zoo_files_are_found_by_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert zoo_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml").parent.parent == zoo_folder()
    with pytest.raises(UserError, match=r"no file COCO-Detection/retinanet_R_50.yaml; there are .*retinanet_R_50_FPN"):
        zoo_file("COCO-Detection/retinanet_R_50.yaml")
    # a checkout keeps them beside the package, an installation inside it
    for place in ("configs", "detectron2/model_zoo/configs"):
        home = tmp_path / place.replace("/", "_")
        (home / place / "COCO-Detection").mkdir(parents=True)
        monkeypatch.setattr("detectron2.__file__", str(home / "detectron2" / "__init__.py"))
        assert zoo_folder() == home / place
    monkeypatch.setattr("detectron2.__file__", str(tmp_path / "none" / "detectron2" / "__init__.py"))
    with pytest.raises(UserError, match="config files are neither at"):
        zoo_folder()
