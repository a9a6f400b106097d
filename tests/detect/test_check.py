"""What would stop a fine-tuning run is said before it begins, all of it, and by every door."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import scaleprior as sp
from scaleprior.checking import CheckReport
from scaleprior.config import LoadedConfig
from scaleprior.detect import build_detector, get_engine
from scaleprior.detect.check import check_detection, detection_needs
from scaleprior.detect.data.coco import load_dataset
from scaleprior.errors import UserError
from scaleprior.training import resources
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco, tiny_config


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))


def two_sets(train: tuple[Path, Path], val: tuple[Path, Path]) -> list[str]:
    sets = [["mine", *map(str, train)], ["other", *map(str, val)]]
    return ["SCALEPRIOR.DATASETS", repr(sets), "DATASETS.TRAIN", "('mine',)", "DATASETS.TEST", "('other',)"]


def look(loaded: LoadedConfig, out: Path, **options: Any) -> CheckReport:
    return check_detection(loaded, options.pop("weights", None), out, engine=get_engine("torchvision"), **options)


def _rename(data: dict[str, Any]) -> None:
    data["categories"][1]["name"] = "stone"


def _unknown_image(data: dict[str, Any]) -> None:
    data["annotations"][0]["image_id"] = 9


def test_a_broken_val_set_is_refused_before_training(tmp_path: Path, cli: Callable[..., Any]) -> None:
    """Without the check it was found only when the model was trained."""
    train, val = make_coco(tmp_path / "a"), make_coco(tmp_path / "b", 4, seed=1, change=_rename)
    (val[1] / "001.png").write_bytes(b"")
    words = [*TINY_FPN, *two_sets(train, val)]
    run = ["detect", "train", "--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision"]
    done = cli(*run, "--out", "run", *words)
    assert done.returncode == 2
    assert not (tmp_path / "run").exists()
    first, *lines = done.stderr.splitlines()
    assert first == "scaleprior: error: 2 things would stop this run, nothing was started"
    assert lines[0].startswith(f"- {val[0]} has 1 image that cannot be used, first: 001.png: ")
    assert lines[1].startswith(f"- {train[0]} and {val[0]} have different categories, first: 'block' only in ")
    done = cli(*run, "--no-check", "--out", "run", *words)
    assert done.returncode == 2  # as it was: evaluation meets it
    assert (tmp_path / "run" / "model.safetensors").is_file()


def test_python_checks_too_unless_told_not_to(tmp_path: Path) -> None:
    train, val = make_coco(tmp_path / "a"), make_coco(tmp_path / "b", 4, seed=1, change=_unknown_image)
    config = tiny_config("FPN")
    options: dict[str, Any] = {"engine": "torchvision", "train": train, "val": val}
    with pytest.raises(UserError, match=r"instances.json has 1 annotation of unknown images, first: image_id 9"):
        sp.detect(config, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()
    with pytest.raises(UserError, match="annotation of unknown images"):
        sp.detect(config, tmp_path / "run", check=False, **options)
    assert (tmp_path / "run" / "model.safetensors").is_file()


@pytest.mark.detectron2
def test_the_detectron2_engine_is_looked_at_the_same(tmp_path: Path) -> None:
    pytest.importorskip("detectron2")
    train, val = make_coco(tmp_path / "a"), make_coco(tmp_path / "b", 4, seed=1)
    (val[1] / "001.png").unlink()
    with pytest.raises(UserError, match=r"has 1 image that is not at .*, first: 001.png"):
        sp.detect(
            {"MODEL.DEVICE": "cpu", "MODEL.MASK_ON": False}, tmp_path / "run", engine="detectron2", train=train, val=val
        )
    assert not (tmp_path / "run").exists()
    report = sp.check(
        {"DATASETS": {"TRAIN": ("somebody's",)}, "MODEL.DEVICE": "cpu"}, tmp_path / "run", engine="detectron2"
    )
    assert report.facts["train somebody's"] == "not looked at: the detectron2 engine may know it"


def test_config_weights_and_data_are_all_looked_at(tmp_path: Path) -> None:
    train = make_coco(tmp_path / "a", change=_unknown_image)
    loaded = tiny_config("FPN", [*data_overrides(*train), "MODEL.ROI_HEADS.NUM_CLASSES", "5"])
    report = look(loaded, tmp_path / "run", weights=tmp_path / "nothing.safetensors")
    assert [finding.kind for finding in report.findings if finding.stops] == ["weights", "image_unknown", "config"]
    assert "has 2 categories; use MODEL.ROI_HEADS.NUM_CLASSES 2" in report.findings[-1].what
    report = look(tiny_config("FPN", ["DATASETS.TRAIN", "()", "DATASETS.TEST", "()"]), tmp_path / "run")
    assert [finding.what.split(";")[0] for finding in report.findings] == ["DATASETS.TRAIN is empty"]


def test_a_set_to_train_and_evaluate_on_is_said_once(
    tmp_path: Path, coco_overrides: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    report = look(tiny_config("FPN", coco_overrides), tmp_path / "run")
    with caplog.at_level(logging.WARNING):
        report.refuse()
    assert [record.getMessage().split(";")[0].rpartition("/")[2] for record in caplog.records] == [
        "instances.json is trained on and evaluated on"
    ]


def test_a_warning_of_the_check_is_none_again_when_the_run_reads_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def no_size(data: dict[str, Any]) -> None:
        data["annotations"][1]["bbox"] = [0, 0, 0, 0]

    make_coco(tmp_path / "train", 6, change=no_size)
    monkeypatch.chdir(tmp_path)
    train = (Path("train/instances.json"), Path("train/images"))  # said with its whole path by the check
    loaded = tiny_config("FPN", [*data_overrides(*train), "SCALEPRIOR.DROP_BAD", "annotations", "DATASETS.TEST", "()"])
    with caplog.at_level(logging.INFO):
        look(loaded, tmp_path / "run").refuse()
        levels = []
        for _ in range(2):
            load_dataset(loaded.cfg.DATASETS.TRAIN[0], loaded.cfg)
            levels.append(caplog.records[-1].levelname)
    assert levels == ["INFO", "WARNING"]
    assert all("1 box of zero or negative size, left out" in r.getMessage() for r in caplog.records)


def test_the_estimates_are_the_models_own(tmp_path: Path, coco_overrides: list[str]) -> None:
    loaded = tiny_config("FPN", coco_overrides)
    facts = look(loaded, tmp_path / "run").facts
    cfg = loaded.cfg.clone()
    cfg.defrost()
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 2
    model = build_detector(cfg)
    whole = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    trained = sum(p.numel() * 4 for p in model.parameters())
    # float32 pixels of 2 images of 64x64; maps of strides 4 to 32 with 16 channels in res2, then twice as many
    maps = 2 * (12 * 64 * 64 + 4 * sum(16 * 2**k * 16 * 16 // 4**k for k in range(4)))
    assert f"will hold {resources.bytes_in_words(whole)} at the end" in facts["disk"]
    assert f"up to {resources.bytes_in_words(6 * whole)} on the way" in facts["disk"]
    assert facts["memory"].startswith(f"at least {resources.bytes_in_words(whole + 2 * trained + maps)} of memory")


@pytest.mark.parametrize(("free", "stops"), [(0.5, True), (5.0, False), (6.5, None)])
def test_a_full_disk_is_found_before_the_run(
    tmp_path: Path, coco_overrides: list[str], monkeypatch: pytest.MonkeyPatch, free: float, stops: bool | None
) -> None:
    """Less than the model stops the run; less than three checkpoints with momentum is said."""
    loaded = tiny_config("FPN", coco_overrides)
    sizes: dict[str, int] = {}
    real = resources.check_disk
    monkeypatch.setattr(
        "scaleprior.detect.check.check_disk", lambda *a, **sized: (sizes.update(sized), real(*a, **sized))
    )
    look(loaded, tmp_path / "run")
    assert sizes["most"] == 6 * sizes["least"]
    asked = []

    def usage(place: Path) -> SimpleNamespace:
        asked.append(place)
        return SimpleNamespace(free=int(free * sizes["least"]), total=10**12)

    monkeypatch.setattr("shutil.disk_usage", usage)
    report = look(loaded, tmp_path / "deep" / "run")
    assert asked == [tmp_path]  # the folder that is there already
    found = [finding for finding in report.findings if finding.kind == "disk"]
    assert [finding.stops for finding in found] == ([] if stops is None else [stops])


@pytest.mark.parametrize(("free", "total", "stops"), [(1, 2, True), (1, 10**12, False), (10**12, 10**12, None)])
def test_memory_is_judged_by_what_is_certain(
    tmp_path: Path,
    coco_overrides: list[str],
    monkeypatch: pytest.MonkeyPatch,
    free: int,
    total: int,
    stops: bool | None,
) -> None:
    monkeypatch.setattr(resources, "_main_memory", lambda: (free, total))
    report = look(tiny_config("FPN", coco_overrides), tmp_path / "run")
    found = [finding for finding in report.findings if finding.kind == "memory"]
    assert [finding.stops for finding in found] == ([] if stops is None else [stops])
    assert all("at least" in finding.what for finding in found)


def test_the_memory_of_a_container_is_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    meminfo.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable:  600 kB\n")
    monkeypatch.setattr(resources, "_MEMINFO", meminfo)
    monkeypatch.setattr(resources, "_CGROUP", cgroup)
    assert resources._main_memory() == (600 * 1024, 1000 * 1024)
    cgroup.mkdir()
    (cgroup / "memory.max").write_text("max\n")
    assert resources._main_memory() == (600 * 1024, 1000 * 1024)
    (cgroup / "memory.max").write_text("500000\n")
    (cgroup / "memory.current").write_text("400000\n")
    (cgroup / "memory.stat").write_text("anon 1\ninactive_file 150000\n")
    assert resources._main_memory() == (250_000, 500_000)


def test_words_for_bytes() -> None:
    said = [resources.bytes_in_words(count) for count in (0, 999, 1000, 1536, 3 * 2**30, 2.5 * 2**40)]
    assert said == ["0 bytes", "999 bytes", "0.977 KiB", "1.5 KiB", "3 GiB", "2.5 TiB"]


@pytest.mark.gpu
def test_a_gpus_memory_is_asked_for(tmp_path: Path, coco_overrides: list[str]) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    report = look(tiny_config("FPN", [*coco_overrides, "MODEL.DEVICE", "cuda"]), tmp_path / "run")
    assert "cuda:0 has" in report.facts["memory"]


def test_the_command_looks_at_a_config(tmp_path: Path, cli: Callable[..., Any], coco_overrides: list[str]) -> None:
    run = ["check", "--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision", "--json"]
    done = cli(*run, "--out", tmp_path / "run", *TINY_FPN, *coco_overrides)
    assert done.returncode == 0, done.stderr
    assert set(json.loads(done.stdout)["facts"]) == {"train tiny", "val tiny", "disk", "memory"}
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["C4", "FPN"])
def test_a_mask_head_counts_in_what_a_run_needs(kind: str) -> None:
    words = ["MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "MODEL.ROI_HEADS.NUM_CLASSES", "2"]
    engine = get_engine("torchvision")
    plain, masks = (detection_needs(tiny_config(kind, w).cfg, engine) for w in (words[4:], words))
    assert plain is not None
    assert masks is not None
    # a transposed convolution of 2x2 with its bias, and the predictor: float32, with gradient and momentum in training
    channels = {"C4": 128, "FPN": 8}[kind]
    head = 4 * (channels * 8 * 4 + 8 + 8 * 2 + 2)
    assert (masks.left - plain.left, masks.memory - plain.memory) == (head, 3 * head)
