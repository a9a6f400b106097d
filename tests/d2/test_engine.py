"""The detectron2 engine: trains, evaluates, resumes to the bit, and says what is wrong."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

import scaleprior.d2  # noqa: F401 (registers)
from scaleprior.backbones import ResNetSpec, load_backbone
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.detect import get_engine
from scaleprior.detect.engines import Engine
from scaleprior.errors import FailureError, UserError
from scaleprior.laws.table import read_table

from ..detect.conftest import make_coco
from .conftest import backbone_file, tiny

REPO = Path(__file__).resolve().parents[2]


def weights_in(model: Path) -> dict[str, torch.Tensor]:
    return torch.load(model, map_location="cpu", weights_only=True)["model"]


def same(a: Path, b: Path) -> bool:
    one, other = weights_in(a), weights_in(b)
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("kind", ["FPN", "C4"])
def test_train_and_evaluate(kind: str, tmp_path: Path, coco: list[str]) -> None:
    card = backbone_file(tmp_path / "w.safetensors")
    loaded = tiny(kind, [*coco, "SCALEPRIOR.RESULTS", str(tmp_path / "results.csv"), "SEED", "4"])
    engine = Detectron2Engine()
    assert isinstance(engine, Engine)
    seen: list[tuple[int, int]] = []
    model = engine.train(
        loaded, tmp_path / "w.safetensors", tmp_path / "run", progress=lambda done, total, n: seen.append((done, total))
    )
    assert model == tmp_path / "run" / "model_final.pth"
    assert seen == [(i, 6) for i in range(1, 7)]
    assert not list((tmp_path / "run").glob("model_0*.pth"))
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.json").read_text().splitlines()]
    assert lines[-1]["iteration"] == 5
    assert lines[-1]["total_loss"] > 0

    result = engine.evaluate(loaded, model, tmp_path / "run")
    assert set(result) >= {"AP", "AP50", "AP75", "APs", "APm", "APl", "per_class", "images"}
    assert 0 <= result["AP"] <= 100
    assert set(result["per_class"]) == {"block", "square"}
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (row["images"], row["seed"], row["engine"]) == ("1000", "4", "detectron2")
    assert row["tensors_sha256"] == card.tensors_sha256
    assert float(row["ap"]) == pytest.approx(result["AP"], abs=1e-6)
    assert read_table(tmp_path / "results.csv").series["R-50-w4"].images == [1000.0]
    engine.evaluate(loaded, model, tmp_path / "run")
    assert len(list(csv.DictReader((tmp_path / "results.csv").open()))) == 1  # repeated, not counted twice


def test_frozen_stages_keep_the_backbones_numbers(tmp_path: Path, coco: list[str]) -> None:
    """FREEZE_AT 2: the stem and res2 of the trained detector are the file's, later stages have moved."""
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "MODEL.BACKBONE.FREEZE_AT", "2", "SOLVER.BASE_LR", "1e-5"])
    model = Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    tensors, _ = load_backbone(tmp_path / "w.safetensors")
    trained = weights_in(model)
    frozen = {n: torch.equal(trained[f"backbone.bottom_up.{n}"], t) for n, t in tensors.items() if "norm" not in n}
    assert all(same for name, same in frozen.items() if name.startswith(("stem", "res2")))
    assert not any(same for name, same in frozen.items() if name.startswith(("res3", "res4", "res5")))


def test_seeds_give_other_orders_and_repeat(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    models = [
        Detectron2Engine().train(tiny("FPN", [*coco, "SEED", seed]), tmp_path / "w.safetensors", tmp_path / name)
        for name, seed in (("a", "1"), ("b", "1"), ("c", "2"))
    ]
    assert same(models[0], models[1])
    assert not same(models[0], models[2])


KILLED = """
import sys, os
sys.path.insert(0, {repo!r})
import torch
torch.set_num_threads(1)
from pathlib import Path
from tests.d2.conftest import tiny
from scaleprior.d2.engine import Detectron2Engine
import scaleprior.errors
def step(done, total, numbers):
    print(done, flush=True)
try:
    Detectron2Engine().train(tiny("FPN", {words!r}), Path({weights!r}), Path({out!r}), resume=True, progress=step)
except scaleprior.errors.ScalePriorError as e:
    sys.stderr.write(str(e))
    sys.exit(e.exit_code)
"""


def start(words: list[str], weights: Path, out: Path) -> subprocess.Popen[str]:
    code = KILLED.format(repo=str(REPO), words=words, weights=str(weights), out=str(out))
    # standard output is Detectron2's while it trains, so the steps come on standard error's twin
    code = code.replace("print(done, flush=True)", "os.write(3, f'{done}\\n'.encode())")
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"import os\nos.dup2({write}, 3)\n{code}"],
        pass_fds=[write], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    os.close(write)
    process.steps = os.fdopen(read)  # type: ignore[attr-defined]
    return process


def wait_for_step(process: Any, step: int) -> None:
    while int(process.steps.readline() or 10**9) < step:
        pass


@pytest.mark.slow
def test_killed_and_resumed_ends_with_the_same_bits(tmp_path: Path, coco: list[str]) -> None:
    """SIGKILL after step 3, SIGTERM after step 6, then to the end: the undisturbed run's weights and metrics."""
    backbone_file(tmp_path / "w.safetensors")
    words = [*coco, "SOLVER.MAX_ITER", "9", "SOLVER.CHECKPOINT_PERIOD", "1"]
    undisturbed = Detectron2Engine().train(tiny("FPN", words), tmp_path / "w.safetensors", tmp_path / "whole")
    out = tmp_path / "broken"
    process = start(words, tmp_path / "w.safetensors", out)
    wait_for_step(process, 3)
    process.kill()
    process.wait()
    last = (out / "last_checkpoint").read_text()
    assert (out / last).is_file()
    process = start(words, tmp_path / "w.safetensors", out)
    wait_for_step(process, 6)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 143
    assert "run again with --resume" in process.stderr.read()
    steps: list[int] = []
    model = Detectron2Engine().train(
        tiny("FPN", words), tmp_path / "w.safetensors", out, resume=True, progress=lambda d, t, n: steps.append(d)
    )
    assert 6 < steps[0] <= 9
    assert steps[-1] == 9
    assert same(model, undisturbed)
    iterations = [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]
    assert iterations == sorted(set(iterations))
    begun = time.monotonic()
    assert Detectron2Engine().train(tiny("FPN", words), tmp_path / "w.safetensors", out, resume=True) == model
    assert time.monotonic() - begun < 20


def test_another_run_is_not_resumed(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    Detectron2Engine().train(tiny("FPN", coco), tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match="another config, backbone or data"):
        Detectron2Engine().train(
            tiny("FPN", [*coco, "SOLVER.BASE_LR", "0.02"]), tmp_path / "w.safetensors", tmp_path / "run", resume=True
        )


def test_a_loss_that_is_not_finite_names_step_and_images(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "SOLVER.BASE_LR", "1e30", "SOLVER.WARMUP_ITERS", "0"])
    with pytest.raises(FailureError, match=r"step \d: .*images .*\.png.*lower SOLVER.BASE_LR"):
        Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")


def test_contradictions_are_found_before_anything_trains(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    for words, line in (
        (["MODEL.RESNETS.STRIDE_IN_1X1", "True"], "MODEL.RESNETS.STRIDE_IN_1X1 False"),
        (["INPUT.FORMAT", "BGR"], "INPUT.FORMAT RGB"),
        (["MODEL.ROI_HEADS.NUM_CLASSES", "80"], "MODEL.ROI_HEADS.NUM_CLASSES 2"),
        (["SOLVER.AMP.ENABLED", "True"], "SOLVER.AMP.ENABLED False"),
    ):
        with pytest.raises(UserError) as error:
            Detectron2Engine().train(tiny("FPN", [*coco, *words]), tmp_path / "w.safetensors", tmp_path / "run")
        assert line in str(error.value)
    assert not (tmp_path / "run" / "metrics.json").exists()


def test_detectors_and_backbones_are_not_mixed_up(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    engine, loaded = Detectron2Engine(), tiny("FPN", coco)
    model = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match="trained detector, not a backbone"):
        engine.train(loaded, model, tmp_path / "again")
    with pytest.raises(UserError, match="backbone, not a trained detector"):
        engine.evaluate(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match="not found"):
        engine.evaluate(loaded, tmp_path / "nothing.pth", tmp_path / "run")
    (tmp_path / "junk.pth").write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match="cannot be read"):
        engine.evaluate(loaded, tmp_path / "junk.pth", tmp_path / "run")
    with pytest.raises(UserError, match=r"MODEL\.FPN\.OUT_CHANNELS '8'"):
        engine.evaluate(tiny("FPN", [*coco, "MODEL.FPN.OUT_CHANNELS", "16"]), model, tmp_path / "run")
    other, root = make_coco(tmp_path / "other", change=lambda d: d["categories"].append({"id": 9, "name": "x"}))
    with pytest.raises(UserError, match="x \\(3\\), the model was trained on"):
        engine.evaluate(
            tiny(
                "FPN", ["SCALEPRIOR.DATASETS", repr([["three", str(other), str(root)]]), "DATASETS.TEST", "('three',)"]
            ),
            model,
            tmp_path / "run",
        )


def test_foreign_weights_are_converted_on_the_way(tmp_path: Path, coco: list[str]) -> None:
    """A torchvision file, which stock Detectron2 takes without matching anything, is read, checked and used."""
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    words = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "SOLVER.MAX_ITER", "1"]
    loaded = tiny("FPN", [*coco, *words, "MODEL.RESNETS.WIDTH_PER_GROUP", "64"])
    Detectron2Engine().train(loaded, tmp_path / "resnet18.pth", tmp_path / "run")
    _, card = load_backbone(tmp_path / "run" / "backbone.safetensors")
    assert card.arch == ResNetSpec(depth=18)
    assert "PIXEL_STD:\n  - 58.395" in (tmp_path / "run" / "config.yaml").read_text()


def test_the_engine_announces_itself(tmp_path: Path, cli: Any, coco: list[str]) -> None:
    """By the installed entry point; `scaleprior detect` then runs it, with one JSON object on standard output."""
    try:
        assert get_engine("detectron2").name == "detectron2"
    except UserError as e:
        pytest.skip(f"the package is not installed here, only importable: {e}")
    backbone_file(tmp_path / "w.safetensors")
    from .conftest import FEW_STEPS, TINY_FPN

    words = [*TINY_FPN, *FEW_STEPS, *coco]
    for key in ("MEAN", "STD"):
        words += [f"MODEL.PIXEL_{key}", "[127.5, 127.5, 127.5]"]
    command = ["detect", "train", "--engine", "detectron2", "--config-file", "COCO-Detection/Base-RCNN-FPN.yaml"]
    done = cli(*command, "--weights", "w.safetensors", "--out", "run", "--json", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["engine"] == "detectron2"
    assert (tmp_path / "run" / "log.txt").is_file()
    again = cli("detect", "eval", *command[2:], "--out", "run", "--json", *words)
    assert json.loads(again.stdout)["AP"] == json.loads(done.stdout)["AP"], again.stderr
