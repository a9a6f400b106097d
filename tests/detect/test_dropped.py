"""Annotations left out on request: counted, listed beside the results, and the same for engines, score and check."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import scaleprior as sp
from scaleprior.config import load_config
from scaleprior.config.fingerprint import cell_settings, training_settings
from scaleprior.detect import score_detections
from scaleprior.detect.data.coco import load_dataset
from scaleprior.detect.data.dropped import record_dropped
from scaleprior.detect.data.problems import Problem
from scaleprior.errors import UserError
from scaleprior.wording import in_flags
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco, tiny_config
from tests.detect.test_engines import run_command

Cli = Callable[..., "subprocess.CompletedProcess[str]"]


def _spoil(data: dict[str, Any]) -> None:
    """A placeholder box in image 101, which has two objects, and one that is none in image 103."""
    of = {image: [a for a in data["annotations"] if a["image_id"] == image] for image in (101, 103)}
    of[101][0]["bbox"] = [0, 0, 0, 0]
    of[103][0]["bbox"] = [1, 2, 3, float("nan")]


def _places(listed: Any) -> list[tuple[str, int]]:
    return [(kind["kind"], kind["count"]) for kind in listed["dropped"]]


def test_train_and_eval_leave_out_and_list(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    path, root = make_coco(tmp_path / "data", change=_spoil)
    words = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--out", str(tmp_path / "run"), "--json"]
    words += ["--engine", "torchvision", *TINY_FPN, *data_overrides(path, root), "SOLVER.MAX_ITER", "1"]
    with pytest.raises(UserError) as refused:
        run_command("train", *words)
    assert "1 box of zero or negative size" in str(refused.value)
    assert "--drop-bad annotations" in in_flags(refused.value)
    assert not (tmp_path / "run").exists()

    run_command("train", *words, "--drop-bad", "annotations")
    assert "has 1 box of zero or negative size, left out, first: bbox [0, 0, 0, 0] in annotation 2" in caplog.text
    listed = json.loads((tmp_path / "run" / "dropped.json").read_text())
    assert _places(listed["tiny"]) == [("box", 1), ("box_size", 1)]
    assert listed["tiny"]["file"] == str(path)
    (place,) = listed["tiny"]["dropped"][1]["places"]
    assert (place["part"], place["index"], place["id"], place["image_id"]) == ("annotations", 1, 2, 101)
    assert "DROP_BAD: annotations" in (tmp_path / "run" / "scaleprior.yaml").read_text()

    capsys.readouterr()
    run_command("eval", *words, "--drop-bad", "images")
    assert json.loads(capsys.readouterr().out)["images"] == 4
    listed = json.loads((tmp_path / "run" / "dropped.json").read_text())
    assert _places(listed["tiny"]) == [("box", 1), ("box_size", 1), ("image_of_bad", 2)]


@pytest.mark.detectron2
def test_the_detectron2_engine_leaves_out_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from detectron2.data import DatasetCatalog

    from scaleprior.d2.data.datasets import problems_of, register_coco, register_datasets
    from tests.d2.conftest import tiny

    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    path, root = make_coco(tmp_path / "data", change=_spoil)
    own = [["d2_dropped", str(path), str(root)]]
    run = sp.detect(
        tiny("FPN"),
        tmp_path / "run",
        engine="detectron2",
        train="d2_dropped",
        val="d2_dropped",
        drop_bad="images",
        overrides={"SOLVER.MAX_ITER": 1, "SCALEPRIOR.DATASETS": own},
    )
    assert run.results["d2_dropped"].images == 4
    listed = json.loads((tmp_path / "run" / "dropped.json").read_text())
    assert _places(listed["d2_dropped"]) == [("box", 1), ("box_size", 1), ("image_of_bad", 2)]
    assert problems_of(["d2_dropped", "coco_2017_val"])["coco_2017_val"] == ()
    DatasetCatalog.register("d2_theirs", list)
    cfg = tiny("FPN", ["SCALEPRIOR.DROP_BAD", "images", "DATASETS.TRAIN", "('d2_theirs',)"]).cfg
    with pytest.raises(UserError, match="DROP_BAD is 'images', but data set d2_theirs was registered without it"):
        register_datasets(cfg)
    with pytest.raises(UserError, match=r"registered already, as .* \(drop_bad='images'\); now .*='annotations'\)"):
        register_coco("d2_dropped", path, root, drop_bad="annotations")


def test_score_leaves_out_the_detections_on_images_that_are_left_out(tmp_path: Path, cli: Cli) -> None:
    whole, _ = make_coco(tmp_path / "whole")
    path, _ = make_coco(tmp_path / "data", change=_spoil)
    truth = json.loads(whole.read_text())["annotations"]
    found = [{k: a[k] for k in ("image_id", "category_id", "bbox")} | {"score": 0.5} for a in truth]
    with pytest.raises(UserError, match=r"1 annotation without a bbox .* by drop_bad='annotations'"):
        score_detections(found, path)
    assert score_detections(found, path, drop_bad="annotations").detections == len(found)
    result = score_detections(found, path, drop_bad="images", out=tmp_path / "out")
    assert (result.ap, result.images) == (pytest.approx(100.0), 4)
    assert result.detections == sum(d["image_id"] not in (101, 103) for d in found)
    assert _places(json.loads((tmp_path / "out" / "dropped.json").read_text())["truth"])[-1] == ("image_of_bad", 2)
    assert json.loads((tmp_path / "out" / "results.json").read_text())["ap"] == result.ap
    (tmp_path / "found.json").write_text(json.dumps(found))
    run = cli("detect", "score", "found.json", "--gt", path, "--drop-bad", "images", "--json")
    assert json.loads(run.stdout)["ap"] == result.ap
    assert "2 images of such annotations, with all that is in them, left out" in run.stderr


def test_a_check_sees_no_reason_to_stop(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path, change=_spoil)
    kinds = {}
    for value in ("none", "annotations"):
        loaded = tiny_config("FPN", [*data_overrides(path, root), "SCALEPRIOR.DROP_BAD", value])
        report = sp.check(loaded, tmp_path / "run", engine="torchvision")
        kinds[value] = {f.kind: f.stops for f in report.findings if f.kind.startswith("box")}
    assert kinds == {"none": {"box": True, "box_size": True}, "annotations": {"box": False, "box_size": False}}


def test_the_key_enters_a_fingerprint_where_it_is_set(tmp_path: Path) -> None:
    name = "SCALEPRIOR.DROP_BAD"
    plain, set_to = (load_config("COCO-Detection/Base-RCNN-FPN.yaml", words) for words in ([], [name, "images"]))
    assert name not in training_settings(plain.cfg)
    assert training_settings(set_to.cfg)[name] == "images"
    assert name not in cell_settings(plain.cfg, plain.explicit, "finetune")["config"]
    assert cell_settings(set_to.cfg, set_to.explicit, "finetune")["config"][name] == "images"
    path, root = make_coco(tmp_path)
    with pytest.raises(
        UserError, match=r"drop_bad \(SCALEPRIOR.DROP_BAD\) is 'boxes'; take one of none, annotations, im"
    ):
        load_dataset("tiny", tiny_config("FPN", [*data_overrides(path, root), name, "boxes"]).cfg)


def test_the_list_forgets_what_is_out_of_date(tmp_path: Path) -> None:
    bad = [Problem("box", "dropped", "x", "y", ({"part": "annotations"},), "a.json", "")]
    odd = [Problem("box_beyond", "warning", "x", "y", ({"part": "annotations"},), "a.json", "")]
    record_dropped(tmp_path, {"train": bad}, anew=True)
    record_dropped(tmp_path, {"val": bad, "other": odd}, anew=False)
    assert list(json.loads((tmp_path / "dropped.json").read_text())) == ["train", "val"]
    record_dropped(tmp_path, {"val": []}, anew=False)
    assert list(json.loads((tmp_path / "dropped.json").read_text())) == ["train"]
    record_dropped(tmp_path, {"train": odd}, anew=True)
    assert not list(tmp_path.iterdir())
