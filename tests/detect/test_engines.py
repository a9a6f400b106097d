"""Engines by name, and the commands that use them."""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import scaleprior as sp
from scaleprior import plugins
from scaleprior.commands import detect as command
from scaleprior.config import load_config
from scaleprior.detect import engines
from scaleprior.detect.calibration import Calibration
from scaleprior.detect.faster_rcnn.engine import TorchvisionEngine
from scaleprior.detect.metrics import DetectionResult
from scaleprior.errors import UserError
from tests.conftest import REPO
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco


def run_command(*words: str) -> None:
    parser = argparse.ArgumentParser()
    command.register(parser.add_subparsers())
    args = parser.parse_args(["detect", *words])
    args.handler(args)


def test_unknown_engines_list_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown engine 'keras'; known are auto, .*torchvision"):
        engines.get_engine("keras")


def test_detectron2_without_detectron2_points_to_its_guide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs Detectron2, which is not installed; install it by https://"):
        engines.get_engine("detectron2")
    assert engines.resolve_auto() == "torchvision"


def test_others_come_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "mine"

        def load(self) -> Any:
            return TorchvisionEngine

    monkeypatch.setattr(plugins.metadata, "entry_points", lambda group: [Point()])
    assert isinstance(engines.get_engine("mine"), TorchvisionEngine)
    assert engines.known_engines() == ["mine", "torchvision"]
    assert isinstance(engines.get_engine("torchvision"), engines.Engine)


def test_an_engine_that_lacks_a_method_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Half:
        name, train = "half", 3

        def default_config(self) -> None: ...

    point = metadata.EntryPoint("half", "nowhere:Half", engines.ENGINE_GROUP)
    monkeypatch.setattr(engines, "announced", lambda group: [point])
    monkeypatch.setattr(engines, "find_announced", lambda *args: Half)
    with pytest.raises(UserError, match=r"'half' is a Half without model_file, check_config, train, evaluate; give"):
        engines.get_engine("half")


def test_train_then_eval(tmp_path: Path, coco_overrides: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--out", str(tmp_path / "run"), "--json"]
    words += ["--engine", "torchvision", *TINY_FPN, *coco_overrides, "SOLVER.MAX_ITER", "2"]
    run_command("train", *words)
    trained = json.loads(capsys.readouterr().out)
    assert trained["engine"] == "torchvision"
    assert 0 <= trained["AP"] <= 100
    assert trained["images"] == 6
    files = {p.name for p in (tmp_path / "run").iterdir()}
    assert files == {
        "run.json",
        "config.yaml",
        "scaleprior.yaml",
        "metrics.jsonl",
        "model.safetensors",
        "results.json",
        "detections_tiny.json",
    }
    run_command("eval", *words)
    evaluated = json.loads(capsys.readouterr().out)
    assert evaluated.pop("seconds") > 0
    trained.pop("seconds")
    assert evaluated == trained


@pytest.mark.parametrize("engine", ["torchvision", pytest.param("detectron2", marks=pytest.mark.detectron2)])
def test_ap_depends_on_no_id_of_the_data(tmp_path: Path, engine: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file to the result: images and categories called by texts, annotations from 0 or all alike."""
    if engine == "detectron2":
        pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))

    def texts(data: dict[str, Any]) -> None:
        for part, keys in (("images", ["id"]), ("categories", ["id"]), ("annotations", ["image_id", "category_id"])):
            for entry in data[part]:
                entry.update({key: f"i{entry[key]}" for key in keys})
        for number, annotation in enumerate(data["annotations"]):
            annotation["id"] = number

    def one_id(data: dict[str, Any]) -> None:
        for annotation in data["annotations"]:
            annotation["id"] = 0

    found = {}
    for name, change in (("plain", None), ("texts", texts), ("one_id", one_id)):
        path, root = make_coco(tmp_path / name, change=change)
        (path.parent / f"{engine}_{name}.json").write_bytes(path.read_bytes())
        place = (path.parent / f"{engine}_{name}.json", root)
        overrides = {"SOLVER.MAX_ITER": 2, "MODEL.ROI_HEADS.SCORE_THRESH_TEST": 0.0}
        chosen = engines.get_engine(engine)
        config = load_config("COCO-Detection/Base-RCNN-FPN.yaml", TINY_FPN, defaults=chosen.default_config())
        run = sp.detect(config, tmp_path / f"run_{name}", engine=engine, train=place, val=place, overrides=overrides)
        found[name] = next(iter(run.results.values()))
    assert found["plain"].ap > 0.1  # or nothing would depend on anything
    assert [c.name for c in found["texts"].per_class.values()] == ["block", "square"]
    assert list(found["texts"].per_class) == ["i3", "i7"]
    assert found["texts"].named() == found["one_id"].named() == found["plain"].named()


def test_printed_results() -> None:
    result = DetectionResult(1.234, 5.0, 0.0, None, 2.0, 3.0, per_class={}, images=9)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command.print_results({"a": result, "b": result}, "torchvision", Path("m"), as_json=False)
    line = "AP 1.23, AP50 5.00, AP75 0.00, APs -, APm 2.00, APl 3.00 (engine torchvision, 9 images)"
    assert out.getvalue().splitlines() == ["model: m", f"a: {line}", f"b: {line}"]
    more = replace(
        result, ar1=1.0, ar10=2.0, ar100=3.5, ar_large=4.0, masks={"AP": 0.5, "APs": None, "AR100": 7.0},
        calibration=Calibration(12.345, ()), masks_calibration=Calibration(None, ()), augmented=result,
    )  # fmt: skip
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        command.print_results({"a": more}, "torchvision", Path("m"), as_json=False)
    assert out.getvalue().splitlines()[1:] == [
        line,
        "AR1 1.00, AR10 2.00, AR100 3.50, ARs -, ARm -, ARl 4.00, D-ECE 12.35",
        "masks: AP 0.50, APs -",
        "masks: AR100 7.00, D-ECE -",
        f"with test-time augmentation: {line}",
    ]


def test_no_torch_before_an_engine_works() -> None:
    code = "import sys, scaleprior.detect.engines, scaleprior.commands.detect; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": str(REPO)})


def test_the_tools_flags_become_the_commands(tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_net", REPO / "tools" / "train_net.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    config = tmp_path / "c.yaml"
    config.write_text("OUTPUT_DIR: runs/x\n")
    opts = ["MODEL.WEIGHTS", "m", "SEED", "-1"]
    args = tool.parse(["--config-file", str(config), "--eval-only", "--num-gpus", "0", *opts])
    words = f"detect eval --config-file {config} --engine auto MODEL.WEIGHTS m SEED -1 MODEL.DEVICE cpu"
    assert tool.arguments(args) == [*words.split(), "SCALEPRIOR.RESULTS", "runs/x/results.csv"]
    args = tool.parse(["--config-file", str(config), *opts, "SCALEPRIOR.RESULTS", "all.csv"])
    assert tool.arguments(args)[-2:] == ["SCALEPRIOR.RESULTS", "all.csv"]
    args = tool.parse(["--config-file", str(config), "--extend", *opts])
    assert tool.arguments(args)[:7] == ["detect", "train", "--config-file", str(config), "--engine", "auto", "--extend"]


def test_the_tools_flags_of_processes_become_the_commands(tmp_path: Path) -> None:
    import importlib.util

    spec = importlib.util.spec_from_file_location("train_net", REPO / "tools" / "train_net.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    flags = ["--num-gpus", "4", "--num-machines", "2", "--machine-rank", "1", "--dist-url", "tcp://host:1"]
    config = tmp_path / "c.yaml"
    config.write_text("OUTPUT_DIR: runs/x\n")
    words = tool.arguments(tool.parse(["--config-file", str(config), *flags]))
    assert words[words.index("--num-gpus") :][: len(flags)] == flags


def test_an_engine_that_says_nothing_of_processes_runs_in_one() -> None:
    engines.check_processes(engines.get_engine("torchvision"), 8)
    other: Any = SimpleNamespace(name="mine")
    engines.check_processes(other, 1)
    with pytest.raises(UserError, match=r"2 processes are asked for, and here the mine engine runs in one; use the to"):
        engines.check_processes(other, 2)
    other.name = "detectron2"
    with pytest.raises(UserError, match=r"the detectron2 engine runs in one; tools/train_net.py starts Detectron2's"):
        engines.check_processes(other, 2)


def test_bad_data_is_one_line_and_exit_code_2(tmp_path: Path, cli: Callable[..., Any]) -> None:
    def change(data: dict[str, Any]) -> None:
        data["annotations"][0]["bbox"][2] = 0

    words = [*TINY_FPN, *data_overrides(*make_coco(tmp_path / "data", change=change))]
    config = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision"]
    done = cli("detect", "train", *config, "--out", "run", *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("scaleprior: error: ")
    assert "1 box of zero or negative size, first: bbox" in line
    assert not (tmp_path / "run").exists()
