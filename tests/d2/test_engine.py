"""The detectron2 engine: trains, evaluates, resumes to the bit, and says what is wrong."""

from __future__ import annotations

import csv
import errno
import json
import logging
import os
import pickle
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils.events import JSONWriter
from detectron2.utils.file_io import HTTPURLHandler, PathManager

import scaleprior.d2
from scaleprior.backbones import ResNetSpec, load_backbone, read_card
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import EXTRA_KEY, read_trained, start_file
from scaleprior.d2.weights.checkpointer import TrainerCheckpointer
from scaleprior.detect import get_engine
from scaleprior.detect.check import check_detection
from scaleprior.detect.engines import Engine
from scaleprior.detect.start import start_from
from scaleprior.errors import FailureError, UserError
from scaleprior.laws.table import read_table
from scaleprior.training.metrics_file import cut_lines
from tests import processes
from tests.backbones.foreign import write_config, write_telling
from tests.d2.conftest import backbone_file, tiny
from tests.detect.conftest import make_coco
from tests.detect.test_trained import PTH, RECORD

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

    (result,) = engine.evaluate(loaded, model, tmp_path / "run").values()
    assert 0 <= result.ap <= 100
    assert {number: c.name for number, c in result.per_class.items()} == {3: "block", 7: "square"}
    written = json.loads((tmp_path / "run" / "results.json").read_text())
    assert written == {
        "engine": "detectron2",
        "model": str(model),
        **result.to_dict(),
        **result.named(),
        **result.recalls(),
    }
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (row["images"], row["seed"], row["engine"]) == ("1000", "4", "detectron2")
    assert row["tensors_sha256"] == card.tensors_sha256
    assert float(row["ap"]) == pytest.approx(result.ap, abs=1e-6)
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
    command = [sys.executable, "-c", f"import os\nos.dup2({write}, 3)\n{code}"]
    process = processes.start(command, pass_fds=[write], stdout=subprocess.DEVNULL)
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
    assert process.wait() == 143
    assert process.stderr is not None
    assert "run again with resume=True" in process.stderr.read()
    steps: list[int] = []
    model = Detectron2Engine().train(
        tiny("FPN", words), tmp_path / "w.safetensors", out, resume=True, progress=lambda d, t, n: steps.append(d)
    )
    assert 6 < steps[0] <= 9
    assert steps[-1] == 9
    assert same(model, undisturbed)
    iterations = [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]
    assert iterations == sorted(set(iterations))
    steps.clear()  # of a finished run there are none
    again = Detectron2Engine().train(
        tiny("FPN", words), tmp_path / "w.safetensors", out, resume=True, progress=lambda d, t, n: steps.append(d)
    )
    assert (again, steps) == (model, [])


def test_another_run_is_not_resumed(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    Detectron2Engine().train(tiny("FPN", coco), tmp_path / "w.safetensors", tmp_path / "run")
    with pytest.raises(UserError, match=r"another config \(SOLVER\.BASE_LR is 0\.02 now, 0\.01 then\)"):
        Detectron2Engine().train(
            tiny("FPN", [*coco, "SOLVER.BASE_LR", "0.02"]), tmp_path / "w.safetensors", tmp_path / "run", resume=True
        )


def test_an_earlier_run_in_the_folder_is_not_taken_for_this_one(tmp_path: Path, coco: list[str]) -> None:
    """A run that starts anew and dies before its first checkpoint is resumed from nothing, not from the old files."""
    backbone_file(tmp_path / "w.safetensors")
    engine, weights, out = Detectron2Engine(), tmp_path / "w.safetensors", tmp_path / "run"
    old = engine.train(tiny("FPN", [*coco, "SEED", "1"]), weights, out)
    before = weights_in(old)
    new = tiny("FPN", [*coco, "SEED", "2"])

    def die(done: int, total: int, numbers: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        engine.train(new, weights, out, progress=die)
    steps: list[int] = []
    engine.train(new, weights, out, resume=True, progress=lambda d, t, n: steps.append(d))
    assert steps == [1, 2, 3, 4, 5, 6]
    assert not all(torch.equal(before[name], tensor) for name, tensor in weights_in(old).items())
    fresh = engine.train(new, weights, tmp_path / "fresh")
    assert same(old, fresh)


def test_a_run_of_another_program_is_not_resumed(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "last_checkpoint").write_text("model_0000001.pth")
    with pytest.raises(UserError, match=r"did not start \(run.json is missing or damaged\)"):
        Detectron2Engine().train(tiny("FPN", coco), tmp_path / "w.safetensors", tmp_path / "run", resume=True)


def test_killed_between_the_last_checkpoint_and_the_final_one(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone_file(tmp_path / "w.safetensors")
    words = [*coco, "SOLVER.CHECKPOINT_PERIOD", "3"]
    whole = Detectron2Engine().train(tiny("FPN", words), tmp_path / "w.safetensors", tmp_path / "whole")
    out = tmp_path / "broken"
    save = TrainerCheckpointer.save

    def die(self: Any, name: str, **kwargs: Any) -> None:
        if name == "model_final":
            raise KeyboardInterrupt
        save(self, name, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(TrainerCheckpointer, "save", die)
        with pytest.raises(KeyboardInterrupt):
            Detectron2Engine().train(tiny("FPN", words), tmp_path / "w.safetensors", out)
    assert (out / "last_checkpoint").read_text() == "model_0000005.pth"
    model = Detectron2Engine().train(tiny("FPN", words), tmp_path / "w.safetensors", out, resume=True)
    assert same(model, whole)


def test_killed_before_the_first_checkpoint_the_metrics_start_anew(tmp_path: Path, coco: list[str]) -> None:
    """Their lines are those of the steps that were run, once each, even where an evaluation stands late."""
    backbone_file(tmp_path / "w.safetensors")
    out = tmp_path / "run"
    out.mkdir()
    (out / "metrics.json").write_text('{"iteration": 0}\n{"iteration": 2, "tot')
    Detectron2Engine().train(tiny("FPN", coco), tmp_path / "w.safetensors", out, resume=True)
    assert [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()] == [5]
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 19}\n{"iteration": 39}\n{"iteration": 29, "bbox/AP": 1}\n{"iteration": 41}\n{"it')
    cut_lines(path, "iteration", 29, in_place=True)
    assert path.read_text() == '{"iteration": 19}\n{"iteration": 29, "bbox/AP": 1}\n'


@pytest.mark.parametrize("workers", ["0", "1"])
def test_a_damaged_image_is_named(workers: str, tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "DATALOADER.NUM_WORKERS", workers, "SOLVER.MAX_ITER", "9"])
    model = Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "good")
    broken = sorted((tmp_path / "data" / "images").iterdir())[3]
    broken.write_bytes(broken.read_bytes()[:100])
    words = rf"^image {broken} cannot be used: .*truncated.*; replace the file or leave it out"
    with pytest.raises(UserError, match=rf"{words}; the .*steps? before it (is|are) saved: .* resume=True$"):
        Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "bad")
    with pytest.raises(UserError, match=f"{words}$"):
        Detectron2Engine().evaluate(loaded, model, tmp_path / "bad")
    assert "Traceback" not in (tmp_path / "bad" / "log.txt").read_text()


def test_a_full_disk_is_said(tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """torch makes a RuntimeError of it, Detectron2's own files an OSError; what was saved before stays."""
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "2"])
    write = torch.save

    def full(state: Any, path: Path) -> None:
        if state["iteration"] > 2:
            Path(path).write_bytes(b"half")
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 416640 vs 416528")
        write(state, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(FailureError, match=r"cannot write .*_0000003.pth: .*free space and go on with resume=True"):
        Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000001.pth"
    assert not [path for path in (tmp_path / "run").iterdir() if ".tmp" in path.name]

    def no_space(self: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "metrics.json")

    monkeypatch.setattr(torch, "save", write)
    monkeypatch.setattr(JSONWriter, "write", no_space)
    with pytest.raises(FailureError, match=r"step 5: No space left on device: metrics.json; free space"):
        Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["SOLVER.MAX_ITER", "0"], "SOLVER.MAX_ITER is 0; give 1 or more"),
        (["SOLVER.IMS_PER_BATCH", "0"], "SOLVER.IMS_PER_BATCH is 0; give 1 or more"),
        (["SOLVER.CHECKPOINT_PERIOD", "-1"], "SOLVER.CHECKPOINT_PERIOD is -1; give 0 or more"),
        (["SOLVER.LR_SCHEDULER_NAME", "Foo"], "Unknown LR scheduler: Foo"),
        (["MODEL.BACKBONE.NAME", "build_foo"], "No object named 'build_foo' found in 'BACKBONE' registry"),
        (["MODEL.TIMM.MODEL", "resnet50_clip"], "MODEL.RESNETS; use MODEL.BACKBONE.NAME build_timm_fpn_backbone"),
        (["MODEL.META_ARCHITECTURE", "Foo"], "No object named 'Foo' found in 'META_ARCH' registry"),
        (["INPUT.MIN_SIZE_TRAIN", "(48, 64)", "INPUT.MIN_SIZE_TRAIN_SAMPLING", "range2"], "range2"),
        # a bare assertion of Detectron2's: its line is shown
        (["MODEL.FPN.IN_FEATURES", "[]"], "AssertionError in __init__: assert in_features"),
    ],
)
def test_what_detectron2_cannot_build_is_one_line(words: list[str], said: str, tmp_path: Path, coco: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Detectron2Engine().train(tiny("FPN", [*coco, *words]), None, tmp_path / "run")
    assert said in str(error.value)


def test_checkpoint_period_0_keeps_the_final_one_only(tmp_path: Path, coco: list[str]) -> None:
    seen = []
    loaded = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "0"])
    out = tmp_path / "run"
    model = Detectron2Engine().train(loaded, None, out, progress=lambda d, t, n: seen.extend(out.glob("*.pth")))
    assert model.is_file()
    assert set(seen) <= {model}


def test_a_negative_seed_is_0(tmp_path: Path, coco: list[str]) -> None:
    """Detectron2's default of -1, in our trainer used as DefaultTrainer is, trains; in a run it is seed 0."""
    words = ["SEED", "-1", "OUTPUT_DIR", str(tmp_path / "stock"), "SOLVER.MAX_ITER", "1", "DATASETS.TEST", "()"]
    cfg = tiny("FPN", [*coco, *words]).cfg
    scaleprior.d2.register_datasets(cfg)  # pyright: ignore[reportArgumentType]
    trainer = scaleprior.d2.Trainer(cfg)  # pyright: ignore[reportArgumentType]
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert trainer.iter == 1
    models = [
        Detectron2Engine().train(tiny("FPN", [*coco, "SEED", seed]), None, tmp_path / seed) for seed in ("-1", "0")
    ]
    assert same(*models)


def test_messages_go_to_the_log_and_warnings_to_the_user(
    tmp_path: Path, coco: list[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("detectron2", "fvcore"):  # Detectron2's own set-up, which other tests run, stays in the process
        monkeypatch.setattr(logging.getLogger(name), "handlers", [])
        monkeypatch.setattr(logging.getLogger(name), "propagate", True)
    words = ["MODEL.BACKBONE.FREEZE_AT", "2", "SOLVER.MAX_ITER", "1"]
    Detectron2Engine().train(tiny("FPN", [*coco, *words]), None, tmp_path / "run")
    assert "frozen stages stay random" in caplog.text
    assert "INFO" not in caplog.text
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "frozen stages stay random" in log
    assert "Starting training from iteration 0" in log


def test_a_model_of_detectron2s_own_is_evaluated_and_its_past_is_not_made_up(tmp_path: Path, coco: list[str]) -> None:
    """As many classes as the data have, where nobody says otherwise; images of pretraining unknown, which is not 0."""
    backbone_file(tmp_path / "w.safetensors")
    loaded = tiny("FPN", [*coco, "SCALEPRIOR.RESULTS", str(tmp_path / "results.csv")])
    trained = Detectron2Engine().train(loaded, tmp_path / "w.safetensors", tmp_path / "run")
    tensors = weights_in(trained)
    content = {"model": {n: t.numpy() for n, t in tensors.items()}, "__author__": "Detectron2 Model Zoo"}
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(content))
    pixels = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
    loaded = tiny("FPN", [*coco, *pixels, "SCALEPRIOR.RESULTS", str(tmp_path / "results.csv")])
    own = Detectron2Engine().evaluate(loaded, tmp_path / "own.pkl", tmp_path / "own")
    (row,) = csv.DictReader((tmp_path / "results.csv").open())
    assert (row["images"], row["seed"], row["backbone"]) == ("", "", "")
    with pytest.raises(UserError, match="column 'images': the cell is empty"):
        read_table(tmp_path / "results.csv")
    (own_result,), (result,) = own.values(), Detectron2Engine().evaluate(loaded, trained, tmp_path / "run").values()
    assert own_result.ap == result.ap
    five = tiny("FPN", [*coco, "MODEL.ROI_HEADS.NUM_CLASSES", "5"])
    with pytest.raises(UserError, match=r"NUM_CLASSES is 5 .*has 2 categories"):
        Detectron2Engine().evaluate(five, tmp_path / "own.pkl", tmp_path / "own")
    content["model"]["roi_heads.box_predictor.cls_score.weight"] = np.zeros((81, 16), np.float32)
    (tmp_path / "own.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(
        UserError, match=r"1 tensors have other shapes, first: .*cls_score.weight \(81, 16\) for \(3, 16\)"
    ):
        Detectron2Engine().evaluate(loaded, tmp_path / "own.pkl", tmp_path / "own")


def test_weights_that_cannot_be_downloaded(tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(path: str) -> str:
        raise URLError("Name or service not known")

    monkeypatch.setattr(PathManager, "get_local_path", offline)
    with pytest.raises(FailureError, match=r"detectron2://a/b.pkl cannot be had: .*Name or service not known"):
        Detectron2Engine().train(tiny("FPN", [*coco, "MODEL.WEIGHTS", "detectron2://a/b.pkl"]), None, tmp_path / "run")


def test_detectron2s_query_behind_a_name_is_understood(tmp_path: Path, coco: list[str]) -> None:
    backbone_file(tmp_path / "w.safetensors")
    words = ["MODEL.WEIGHTS", f"{tmp_path / 'w.safetensors'}?matching_heuristics=True", "SOLVER.MAX_ITER", "1"]
    assert Detectron2Engine().train(tiny("FPN", [*coco, *words]), None, tmp_path / "run").is_file()


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
    ours = get_engine("torchvision").train(loaded, tmp_path / "w.safetensors", tmp_path / "ours")
    with pytest.raises(UserError, match=r"ours/model\.safetensors is a detector of the torchvision engine"):
        engine.evaluate(loaded, ours, tmp_path / "run")
    (tmp_path / "junk.pth").write_bytes(b"junk" * 100)
    with pytest.raises(UserError, match=r"junk\.pth is no kind of weights that is known here"):
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


def test_foreign_weights_are_converted_on_the_way(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A torchvision file, which stock Detectron2 takes without matching anything, is read, checked and used."""
    import torchvision

    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    write_config(tmp_path, "resnet18")
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    words = ["MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64", "SOLVER.MAX_ITER", "1"]
    loaded = tiny("FPN", [*coco, *words, "MODEL.RESNETS.WIDTH_PER_GROUP", "64"])
    Detectron2Engine().train(loaded, tmp_path / "resnet18.pth", tmp_path / "run")
    (converted,) = (tmp_path / "home" / "zoo" / "converted").glob("*/resnet18.safetensors")
    card = read_card(converted)
    assert card.arch == ResNetSpec(depth=18)
    assert "PIXEL_STD:\n  - 58.395" in (tmp_path / "run" / "config.yaml").read_text()


def test_an_address_that_detectron2_knows_is_fetched_by_it(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command's option, by the key, and folded into a path; the check leaves it to the engine."""
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    source = write_telling(tmp_path / "cache" / "x.pth")
    address = "https://dl.fbaipublicfiles.com/detectron2/a/x.pth"
    asked: list[str] = []

    def fetched(self: object, path: str, **_: object) -> str:
        asked.append(path)
        return str(source)

    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", fetched)
    for weights in ("detectron2://a/x.pth", Path("detectron2://a/x.pth"), address):
        path = start_file(weights)
        assert path.is_relative_to(tmp_path / "home" / "zoo" / "converted")
    assert asked == [address] * 3
    loaded = tiny("FPN", coco)
    engine = get_engine("detectron2")
    report = check_detection(loaded, "detectron2://a/x.pth", tmp_path / "run", engine=engine)
    assert report.facts["weights"] == "not looked at: the detectron2 engine may know detectron2://a/x.pth"
    loaded, start = start_from(loaded, "detectron2://a/x.pth", engine)
    assert (loaded.cfg.MODEL.WEIGHTS, start) == ("detectron2://a/x.pth", None)
    for weights in ("s3://b/x.pth", Path("s3://b/x.pth")):
        with pytest.raises(UserError, match=r"weights s3://b/x\.pth: this is an object of S3"):
            start_file(weights)


def test_the_engine_announces_itself(tmp_path: Path, cli: Any, coco: list[str]) -> None:
    """By the installed entry point; `scaleprior detect` then runs it, with one JSON object on standard output."""
    try:
        assert get_engine("detectron2").name == "detectron2"
    except UserError as e:
        pytest.skip(f"the package is not installed here, only importable: {e}")
    backbone_file(tmp_path / "w.safetensors")
    from tests.d2.conftest import FEW_STEPS, TINY_FPN

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


def test_what_a_checkpoint_says_of_its_training(tmp_path: Path) -> None:
    """Ours of before are read; of Detectron2's own, and of a ``Trainer`` without a plan, nothing is known."""
    file = tmp_path / "model_final.pth"
    torch.save({"model": {}, EXTRA_KEY: json.dumps(PTH)}, file)
    assert read_trained(file) == replace(RECORD, category_ids=None)
    for other in ({}, {EXTRA_KEY: "{}"}):
        torch.save({"model": {}, **other}, file)
        assert read_trained(file) is None
    torch.save({"model": {}, EXTRA_KEY: json.dumps({**PTH, "card": None, "classes": None})}, file)
    with pytest.raises(UserError, match=r"model_final\.pth cannot be read: .*; the file is damaged; get it again"):
        read_trained(file)
