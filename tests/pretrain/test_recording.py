"""What a run tells while it trains: measurements, lines, the log, TensorBoard; and that looking changes nothing."""

from __future__ import annotations

import json
import logging
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from scaleprior.errors import UserError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.evaluation import measures as measures_module
from scaleprior.pretrain.evaluation.crops import CropBatch, CropShare
from scaleprior.pretrain.figures.json_lines import METRICS, JsonLines
from scaleprior.pretrain.figures.recorder import Counters
from scaleprior.pretrain.metrics import LabelMetrics, PretrainMetrics
from scaleprior.training.processes import ProcessGroup
from scaleprior.training.signals import Interrupted
from tests.pretrain.conftest import outcome
from tests.pretrain.test_run import stop_at, weights
from tests.pretrain.test_sharing import CPU

EVALUATED = ("PRETRAIN.HELD_OUT.IMAGES", "12", "PRETRAIN.EVAL.PERIOD", "2", "PRETRAIN.BUDGET.AMOUNT", "5")
ALONE = ProcessGroup(0, 1, CPU)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / METRICS).read_text().splitlines()]


def test_measuring_changes_no_bit_of_the_weights(small_config: Callable, tmp_path: Path) -> None:
    with_workers = ("PRETRAIN.LOADER.NUM_WORKERS", "1")
    result = pretrain(small_config(*EVALUATED), tmp_path / "often")
    pretrain(small_config(*EVALUATED, *with_workers), tmp_path / "workers")
    pretrain(small_config(*EVALUATED, "PRETRAIN.EVAL.PERIOD", "0"), tmp_path / "end")
    assert weights(tmp_path / "often") == weights(tmp_path / "end") == weights(tmp_path / "workers")
    found = [line for line in lines(tmp_path / "often") if "loss" not in line]
    assert [line["step"] for line in found] == [2, 4, 5]
    assert found[-1]["held_out/map"] == result.metrics.held_out.map
    assert len({line["held_out/map"] for line in found}) > 1
    assert [line for line in lines(tmp_path / "workers") if "loss" not in line] == found
    assert [line for line in lines(tmp_path / "end") if "loss" not in line] == found[-1:]
    trained = [line for line in lines(tmp_path / "often") if "loss" in line]
    assert [line["step"] for line in trained] == [1, 2, 3, 4, 5]
    assert all(0 <= line["waited"] <= 1 for line in trained)
    assert trained[-1]["eta_seconds"] == 0 < trained[0]["eta_seconds"]
    assert 0 <= result.metrics.waited <= 1
    assert json.loads((tmp_path / "often" / "result.json").read_text())["waited"] == result.metrics.waited


def test_killed_and_resumed_measures_every_step_once_and_alike(small_config: Callable, tmp_path: Path) -> None:
    """Killed between a measurement and its checkpoint, after both, and between the last measurement and the end."""
    config, killed = small_config(*EVALUATED, "PRETRAIN.CHECKPOINT_PERIOD", "2"), tmp_path / "killed"
    pretrain(config, tmp_path / "whole")

    class Killed(JsonLines):
        at = ""

        def measured(self, done: int, figures: dict) -> None:
            super().measured(done, figures)
            if self.at == f"measured {done}":
                raise KeyboardInterrupt

        def finish(self, metrics: PretrainMetrics) -> None:
            super().finish(metrics)
            if self.at == "finish":
                raise KeyboardInterrupt

    for at in ("measured 2", "measured 4", "finish"):
        recorder = Killed(killed, period=1)
        recorder.at = at
        with pytest.raises(KeyboardInterrupt):
            pretrain(config, killed, resume=True, recorder=recorder)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "later", progress=stop_at(3))
    for out in (killed, tmp_path / "later"):
        pretrain(config, out, resume=True)
        assert weights(out) == weights(tmp_path / "whole")
        for key in ("loss", "held_out/map"):
            kept = [(line["step"], line[key]) for line in lines(out) if key in line]
            assert kept == [(line["step"], line[key]) for line in lines(tmp_path / "whole") if key in line]


def test_the_time_of_measurements_is_none_of_training(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that only measuring moves: 100 seconds each time."""
    clock = [0.0]
    monkeypatch.setattr("scaleprior.pretrain.loop.trainer.time.perf_counter", lambda: clock[0])
    real = measures_module.Measures.__call__

    def slow(self: measures_module.Measures, model: object, **stop: object) -> object:
        clock[0] += 100
        return real(self, model, **stop)

    monkeypatch.setattr(measures_module.Measures, "__call__", slow)
    result = pretrain(small_config(*EVALUATED), tmp_path / "run")
    assert clock[0] == 300
    assert result.metrics.seconds == 0


def numbers(**others: float) -> dict[str, float]:
    known = {"loss": 3.21456, "lr": 0.1, "images": 8, "epoch": 0.5, "unreadable": 0}
    return {**known, "time": 0.5, "data_time": 0.1, "images_per_s": 16.0, **others}


def test_the_line_of_the_log_and_its_figures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """8 images in 0.5 s, then 8 in 1.5 s of which 0.5 s for data: 8 images/s, 30 % waited; 898 steps of 1 s left."""
    caplog.set_level(logging.INFO, "scaleprior.pretrain")
    recorder = JsonLines(tmp_path, period=2)
    recorder.open(ALONE, Counters(), 900)
    recorder.step(1, 900, numbers())
    recorder.step(2, 900, numbers(time=1.5, data_time=0.5, images_per_s=8 / 1.5))
    recorder.measured(2, {"held_out/map": 0.25, "held_out/images": 12})
    recorder.close()
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "step 2/900 loss 3.215 lr 0.1 8 images/s, waited 30 % for data, 0:14:58 left",
        "step 2 held_out/map 0.25",
    ]
    trained, measured = lines(tmp_path)
    assert trained == {
        "step": 2, "images": 8, "epoch": 0.5, "loss": 3.21456, "lr": 0.1, "images_per_s": 8.0, "waited": 0.3,
        "eta_seconds": 898.0, "unreadable": 0,
    }  # fmt: skip
    assert measured == {"step": 2, "held_out/map": 0.25, "held_out/images": 12}


def test_tensorboard_has_the_same_numbers(small_config: Callable, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    config = small_config(*EVALUATED, "PRETRAIN.TENSORBOARD", "True")
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "run", progress=stop_at(3))
    pretrain(config, tmp_path / "run", resume=True)
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    wanted = {f"pretrain/{name}" for name in ("loss", "lr", "images_per_s", "waited", "epoch", "unreadable")}
    assert wanted | {"held_out/map", "held_out/precision_at_1"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("held_out/map")] == [2, 4, 5]
    assert [event.step for event in events.Scalars("pretrain/loss")] == [1, 2, 3, 4, 5]
    found = [line["loss"] for line in lines(tmp_path / "run") if "loss" in line]
    assert [event.value for event in events.Scalars("pretrain/loss")] == pytest.approx(found)


@pytest.mark.parametrize(("key", "package"), [("TENSORBOARD", "tensorboard"), ("WANDB", "wandb")])
def test_a_board_that_is_not_installed_is_refused_before_anything_is_written(
    key: str, package: str, small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("scaleprior.pretrain.figures.boards.find_spec", lambda name: None)
    said = rf"PRETRAIN.{key} needs the {package} package; pip install {package}, or set it to False"
    with pytest.raises(UserError, match=said):
        pretrain(small_config(f"PRETRAIN.{key}", "True"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_measured_is_no_line(tmp_path: Path) -> None:
    recorder = JsonLines(tmp_path, period=2)
    recorder.open(ALONE, Counters(), 2)
    recorder.step(1, 2, numbers())
    recorder.step(2, 2, numbers())
    recorder.finish(PretrainMetrics(3.2, 2, 16, 1.0, 0, 1.0, 16.0))
    recorder.close()
    assert len(lines(tmp_path)) == 1
    figures = PretrainMetrics(3.2, 2, 16, 1.0, 0, 1.0, 16.0, LabelMetrics(3, 2, 0.5)).measured.to_dict()
    assert figures == {"held_out/images": 3, "held_out/map_labels": 2, "held_out/map": 0.5}


@pytest.mark.parametrize(("measurement", "done"), [(1, 2), (2, 4), (3, 5)])
def test_sigterm_while_measuring_ends_at_once_and_the_measurement_is_made_up_for(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, measurement: int, done: int
) -> None:
    """With checkpoints on SIGTERM alone: what was trained until then is saved nevertheless."""
    config, stopped = small_config(*EVALUATED, "PRETRAIN.CHECKPOINT_PERIOD", "0"), tmp_path / "stopped"
    pretrain(config, tmp_path / "whole")
    looked_at: list[int] = []

    class Asked(CropShare):
        def __iter__(self) -> Iterator[CropBatch]:
            looked_at.append(0)
            if len(looked_at) == measurement:
                os.kill(os.getpid(), signal.SIGTERM)
            for batch in super().__iter__():
                looked_at[-1] += 1
                yield batch

    with monkeypatch.context() as patched:
        patched.setattr(measures_module, "CropShare", Asked)
        with pytest.raises(Interrupted, match=f"stopped by SIGTERM after step {done} of 5; add resume=True") as asked:
            pretrain(config, stopped)
    assert asked.value.exit_code == 143
    assert looked_at[-1] <= 1 < -(-12 // 4)  # a batch that was on its way, no more
    steps: list[int] = []
    pretrain(config, stopped, resume=True, progress=lambda done, *_: steps.append(done))
    assert steps == list(range(done + 1, 6))
    assert outcome(stopped) == outcome(tmp_path / "whole")


def test_sigterm_just_before_a_measurement_leaves_it_to_the_next_start(small_config: Callable, tmp_path: Path) -> None:
    config = small_config(*EVALUATED)
    pretrain(config, tmp_path / "whole")

    def terminate(done: int, total: int, numbers: object) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match="after step 2 of 5"):
        pretrain(config, tmp_path / "stopped", progress=terminate)
    pretrain(config, tmp_path / "stopped", resume=True)
    assert outcome(tmp_path / "stopped") == outcome(tmp_path / "whole")
