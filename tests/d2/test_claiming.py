"""A run that is refused in a folder leaves every byte there as it was; one that is extended says so for ever."""

from __future__ import annotations

import csv
import importlib.util
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data import DatasetCatalog, MetadataCatalog

from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import plan_training, read_trained
from scaleprior.d2.trainer import Trainer
from scaleprior.errors import UserError
from tests.conftest import REPO, content
from tests.d2.conftest import FEW_STEPS, TINY_FPN, backbone_file, tiny
from tests.detect.conftest import data_overrides, make_coco

PIXELS = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
FOUR = ["SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "(3,)", "SOLVER.WARMUP_ITERS", "0"]
EIGHT = ["SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "(6,)"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone ``w.safetensors``, data, and a run of 4 steps in ``run``."""
    folder = tmp_path_factory.mktemp("finished")
    torch.set_num_threads(1)
    backbone_file(folder / "w.safetensors")
    backbone_file(folder / "other.safetensors", seed=1)
    make_coco(folder / "data", images=4)
    make_coco(folder / "other", images=4, seed=1)
    Detectron2Engine().train(tiny("FPN", [*words(folder), *FOUR]), folder / "w.safetensors", folder / "run")
    for catalogue in (DatasetCatalog, MetadataCatalog):  # a test may register another set by its name
        catalogue.remove("tiny")
    return folder


def words(folder: Path, data: str = "data") -> list[str]:
    return [*data_overrides(folder / data / "instances.json", folder / data / "images"), "SEED", "5"]


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("train_net", REPO / "tools" / "train_net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def leave(run: Path) -> None:
    """As it is."""


def cut(run: Path) -> None:
    model = run / "model_final.pth"
    model.write_bytes(model.read_bytes()[:5000])


REFUSED: list[tuple[list[str], Callable[[Path], Any], str]] = [
    (["SOLVER.MAX_ITER", "8"], leave, "now it is SOLVER.MAX_ITER 8"),
    (["SOLVER.BASE_LR", "0.02"], leave, "SOLVER.BASE_LR is 0.02 now, 0.01 then"),
    (["MODEL.WEIGHTS", "other.safetensors"], leave, "holds a run with another backbone; resume"),
    (["MODEL.WEIGHTS", "gone.safetensors"], leave, "weights not found"),
    (["DATA", "other"], leave, "holds a run with another training set; resume"),
    (["MODEL.RESNETS.STRIDE_IN_1X1", "True"], leave, "contradicts"),
    (["SEED", "9"], lambda run: (run / "run.json").unlink(), "did not start"),
    (["SEED", "9"], lambda run: (run / "run.json").write_text("{"), "did not start"),
    ([], cut, "model_final.pth"),
]


@pytest.mark.parametrize(("change", "prepare", "said"), REFUSED)
@pytest.mark.parametrize("door", ["engine", "tool"])
def test_a_refused_resume_leaves_the_folder_as_it_was(
    door: str,
    change: list[str],
    prepare: Callable[[Path], Any],
    said: str,
    finished: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    prepare(run)
    before = content(run)
    data = change[1] if change[:1] == ["DATA"] else "data"
    weights = finished / (change[1] if change[:1] == ["MODEL.WEIGHTS"] else "w.safetensors")
    keys = [*words(finished, data), *FOUR, *([] if change[:1] in (["DATA"], ["MODEL.WEIGHTS"]) else change)]
    if door == "engine":
        with pytest.raises(UserError, match=said):
            Detectron2Engine().train(tiny("FPN", [*keys, "MODEL.WEIGHTS", str(weights)]), None, run, resume=True)
    else:
        flags = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "detectron2", "--resume"]
        own = ["OUTPUT_DIR", str(run), "MODEL.WEIGHTS", str(weights)]
        assert load_tool().main([*flags, *TINY_FPN, *FEW_STEPS, *PIXELS, *keys, *own]) == 2
        assert said in capsys.readouterr().err
    assert content(run) == before


def rates(trainer: Any) -> list[float]:
    """The learning rate of every step that ``trainer`` runs."""
    seen: list[float] = []
    run_step = trainer._trainer.run_step

    def spy() -> None:
        seen.append(trainer.optimizer.param_groups[0]["lr"])
        run_step()

    trainer._trainer.run_step = spy
    return seen


def test_an_extended_run_learns_by_the_new_schedule_on_the_images_that_come_next(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand: base rate 0.01, no warmup. 4 steps with STEPS (3,): .01 .01 .01 .001; from there with 8 and (6,):
    .01 .01 .001 .001. Step 4 is the one that Detectron2, whose optimiser brings its rate along, runs at .001."""
    seen: dict[str, Any] = {}
    train = Trainer.train

    def spied(self: Any) -> Any:
        seen["rates"] = rates(self)
        batches = self.data_loader.batches
        seen["start"] = batches.start
        return train(self)

    monkeypatch.setattr(Trainer, "train", spied)
    run = shutil.copytree(finished / "run", tmp_path / "run")
    keys = [*words(finished), *FOUR, *EIGHT, "SCALEPRIOR.RESULTS", str(tmp_path / "all.csv")]
    engine, weights = Detectron2Engine(), finished / "w.safetensors"
    steps: list[int] = []
    model = engine.train(tiny("FPN", keys), weights, run, extend=True, progress=lambda d, t, n: steps.append(d))
    assert steps == [5, 6, 7, 8]
    assert seen["start"] == 4
    assert seen["rates"] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    former = read_trained(finished / "run" / "model_final.pth")
    trained = read_trained(model)
    assert former is not None
    assert trained is not None
    assert (former.max_iter, former.extended) == (4, ())
    assert trained.max_iter == 8
    assert [each.to_dict() for each in trained.extended] == [
        {
            "fingerprint": former.fingerprint,
            "steps": 4,
            "schedule": {"SOLVER.MAX_ITER": 4, "SOLVER.STEPS": [3]},
        }
    ]
    written = json.loads((run / "run.json").read_text())
    assert (written["fingerprint"], len(written["extended"])) == (trained.fingerprint, 1)
    assert written["tuning"] == dict(trained.tuning)
    assert "MAX_ITER: 8" in (run / "config.yaml").read_text()

    # The run of 8 steps in one go is another run, and its row stands beside.
    whole = engine.train(tiny("FPN", keys), weights, tmp_path / "whole")
    assert seen["rates"] == pytest.approx([0.01] * 6 + [0.001] * 2)
    at_once = read_trained(whole)
    assert at_once is not None
    assert at_once.fingerprint != trained.fingerprint
    for file in (model, whole):
        engine.evaluate(tiny("FPN", keys), file, file.parent)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert [row["run"] for row in rows] == [trained.fingerprint, at_once.fingerprint]
    assert [row["max_iter"] for row in rows] == ["8", "8"]
    assert len({row["settings"] for row in rows}) == 2  # by which a comparison groups them

    # Finished: either flag finds it so, and changes nothing, such as checkpoints that the tool kept.
    (run / "model_0000003.pth").write_bytes(model.read_bytes())
    before = content(run)
    for flag in ({"resume": True}, {"extend": True}):
        assert engine.train(tiny("FPN", keys), weights, run, **flag, progress=lambda d, t, n: steps.append(d)) == model
    assert len(steps) == 4
    assert {n: c for n, c in content(run).items() if n not in (".", "log.txt")} == {
        n: c for n, c in before.items() if n not in (".", "log.txt")
    }


def test_an_extension_that_is_killed_at_once_goes_on(finished: Path, tmp_path: Path) -> None:
    """Before its first checkpoint: what is there is the former schedule's last."""
    run = shutil.copytree(finished / "run", tmp_path / "run")
    loaded = tiny("FPN", [*words(finished), *FOUR, *EIGHT])
    weights = finished / "w.safetensors"

    def die(done: int, total: int, numbers: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Detectron2Engine().train(loaded, weights, run, extend=True, progress=die)
    steps: list[int] = []
    model = Detectron2Engine().train(loaded, weights, run, resume=True, progress=lambda d, t, n: steps.append(d))
    assert steps == [5, 6, 7, 8]
    trained = read_trained(model)
    assert trained is not None
    assert len(trained.extended) == 1


def test_another_number_of_processes_is_told(
    finished: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run is the same where no key says otherwise; with SOLVER.REFERENCE_WORLD_SIZE its schedule is another."""
    monkeypatch.setattr(logging.getLogger("scaleprior.d2.claiming"), "handlers", [caplog.handler])
    run = shutil.copytree(finished / "run", tmp_path / "run")
    written = json.loads((run / "run.json").read_text())
    assert written["processes"] == 1
    del written["sha256"]  # as versions wrote it that had none
    (run / "run.json").write_text(json.dumps({**written, "processes": 2}))
    weights = finished / "w.safetensors"
    Detectron2Engine().train(tiny("FPN", [*words(finished), *FOUR]), weights, run, resume=True)
    assert "processes" not in caplog.text  # it is finished: nothing goes on
    Detectron2Engine().train(tiny("FPN", [*words(finished), *FOUR, *EIGHT]), weights, run, extend=True)
    assert "was trained by 2 processes and goes on with 1: a batch is as large as it was" in caplog.text
    (run / "run.json").write_text(json.dumps({**written, "processes": 2}))
    scaled = tiny("FPN", [*words(finished), *FOUR, "SOLVER.REFERENCE_WORLD_SIZE", "2"])
    with pytest.raises(UserError, match=r"holds a run of 2 processes; on 1 SOLVER.*; resume with processes=2"):
        Detectron2Engine().train(scaled, weights, run, resume=True)


def test_an_evaluation_leaves_the_config_of_a_run_that_detectron2s_own_tool_began(
    finished: Path, tmp_path: Path, detectron2_loggers: None
) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    for name in ("run.json", "scaleprior.yaml"):
        (run / name).unlink()
    (run / "config.yaml").write_text("VERSION: 2\n")
    flags = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "detectron2", "--eval-only"]
    keys = [*TINY_FPN, *FEW_STEPS, *PIXELS, *words(finished), "OUTPUT_DIR", str(run)]
    assert load_tool().main([*flags, *keys]) == 0
    assert (run / "config.yaml").read_text() == "VERSION: 2\n"


def test_the_plan_counts_the_steps_that_run(finished: Path) -> None:
    """A config for 2 processes of batch 4, on one: half the batch and the rate, twice the steps, in every word."""
    keys = [*words(finished), *FOUR, "SOLVER.REFERENCE_WORLD_SIZE", "2", "SOLVER.IMS_PER_BATCH", "4"]
    plan = plan_training(tiny("FPN", keys), finished / "w.safetensors", finished / "none")
    solver = plan.cfg.SOLVER
    assert (solver.IMS_PER_BATCH, solver.BASE_LR, solver.MAX_ITER, solver.STEPS) == (2, 0.005, 8, (6,))
    assert plan.trained is not None
    assert (plan.trained.max_iter, plan.trained.tuning["batch_size"], plan.trained.tuning["base_lr"]) == (8, 2, 0.005)
    by_hand = ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.BASE_LR", "0.005", "SOLVER.MAX_ITER", "8", "SOLVER.STEPS", "(6,)"]
    same = plan_training(
        tiny("FPN", [*words(finished), *FOUR, *by_hand, "SOLVER.REFERENCE_WORLD_SIZE", "1"]),
        finished / "w.safetensors",
        finished / "none",
    )
    assert same.trained is not None
    assert same.trained.fingerprint == plan.trained.fingerprint
    for key in (["SOLVER.REFERENCE_WORLD_SIZE", "3"], ["SOLVER.REFERENCE_WORLD_SIZE", "-1"]):
        with pytest.raises(UserError, match=r"SOLVER\.REFERENCE_WORLD_SIZE is .*, SOLVER\.IMS_PER_BATCH 4"):
            plan_training(tiny("FPN", [*keys, *key]), finished / "w.safetensors", finished / "none")


@pytest.mark.parametrize("prepare", [Path.unlink, lambda path: path.write_bytes(b"\0" * 300)])
def test_without_a_whole_run_json_the_checkpoint_says_whose_the_folder_is(
    prepare: Callable[[Path], Any], finished: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished / "run", tmp_path / "run")
    prepare(run / "run.json")
    model, steps = run / "model_final.pth", list[int]()
    before = model.read_bytes()
    loaded = tiny("FPN", [*words(finished), *FOUR])
    engine = Detectron2Engine()
    engine.train(loaded, finished / "w.safetensors", run, resume=True, progress=lambda done, *_: steps.append(done))
    assert (steps, model.read_bytes()) == ([], before)  # it is finished
