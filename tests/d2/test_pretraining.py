"""Pretraining under the real Detectron2, through tools/pretrain_net.py: the same bits, and its users' files."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.utils import logger as detectron2_logger

from scaleprior.config import load_config
from scaleprior.d2.plan import default_config
from scaleprior.d2.pretraining import EventRecorder
from scaleprior.pretrain import pretrain
from tests import processes
from tests.conftest import content
from tests.pretrain.conftest import SMALL, _one_thread, corpus_folder, small_config  # noqa: F401 (fixtures)
from tests.pretrain.test_run import REPO, load_tool, stop_at, wait_for, weights
from tests.pretrain.test_weights_and_biases import StandIn

pytestmark = pytest.mark.detectron2

TOOL = REPO / "tools" / "pretrain_net.py"
FLAGS = ["--config-file", "Pretrain/Base-Pretrain.yaml", "--runtime", "detectron2"]


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """``main`` of the tool in this process; Detectron2's changes to the loggers are undone."""
    loggers = [logging.getLogger(name) for name in ("detectron2", "fvcore", "scaleprior")]
    before = [(each.handlers[:], each.propagate, each.level) for each in loggers]
    module = load_tool()
    yield lambda *words: module.main([*FLAGS, *map(str, words)])
    for each, (handlers, each.propagate, level) in zip(loggers, before):
        each.handlers[:] = handlers
        each.setLevel(level)
    detectron2_logger.setup_logger.cache_clear()
    detectron2_logger._cached_log_stream.cache_clear()


@pytest.fixture
def opts(corpus_folder: Path) -> Callable[..., list[str]]:  # noqa: F811
    """KEY VALUE words of the tiny run in a folder."""
    return lambda out, *more: [*SMALL, "PRETRAIN.CORPUS", str(corpus_folder), "OUTPUT_DIR", str(out), *more]


def start(*words: str) -> processes.Popen:
    return processes.start([sys.executable, TOOL, *FLAGS, *words])


def iterations(out: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (out / "metrics.json").read_text().splitlines()]


def test_a_run_leaves_what_detectron2_leaves_and_the_weights_of_the_plain_runtime(
    tool: Callable,
    opts: Callable,
    small_config: Callable,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    own = ("PRETRAIN.METRICS_PERIOD", "2", "PRETRAIN.BUDGET.AMOUNT", "5", "PRETRAIN.HELD_OUT.IMAGES", "12")
    out = tmp_path / "run"
    assert tool(*opts(out, *own)) == 0
    assert f"{out}/backbone.safetensors: {{'loss': " in capsys.readouterr().out
    plain = pretrain(small_config(*own), tmp_path / "plain")
    assert weights(out) == weights(tmp_path / "plain")
    result = json.loads((out / "result.json").read_text())
    assert result["loss"] == plain.metrics.loss
    assert not (out / "metrics.jsonl").exists()
    rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [row["iteration"] for row in rows] == [1, 3, 4, 5]  # every second, the last, and the evaluation
    for row in rows[:3]:
        assert {"total_loss", "lr", "time", "data_time", "eta_seconds", "epoch", "images_per_s"} < set(row)
        assert 0 <= row["data_time"] <= row["time"]
    lines = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    assert lines.pop() == {"step": 5, **plain.metrics.measured.to_dict()}
    assert [row["lr"] for row in rows[:3]] == [line["lr"] for line in lines]
    assert [row["epoch"] for row in rows[:3]] == pytest.approx([8 / 48, 16 / 48, 20 / 48])
    assert plain.metrics.held_out is not None
    assert rows[3]["held_out/map"] == result["held_out"]["map"] == plain.metrics.held_out.map
    log = (out / "log.txt").read_text()
    for said in (
        r"detectron2 INFO: Environment info:\n",
        r"detectron2 INFO: Command line arguments: Namespace\(.*num_gpus=1",
        r"scaleprior.pretrain.loop.building INFO: R-50-w8 on 48 images, 8 labels, 5 steps of 4",
        r"d2.utils.events INFO:  eta: 0:00:0\d  iter: 1  total_loss: \d\.\d+ ",
        r"scaleprior.d2.pretraining INFO: held out, map: 0\.\d+",
    ):
        assert re.search(said, log), said
    assert list(out.glob("events.out.tfevents.*")) or "no events for TensorBoard" in log
    assert "PRETRAIN" not in (out / "config.yaml").read_text()  # what Detectron2's set-up wrote there is replaced
    # the config is read again by both systems, as the same run
    for defaults in (None, default_config()):
        again = load_config(out / "config.yaml", defaults=defaults)
        assert pretrain(again, out, resume=True).metrics.to_dict() == result


def test_measurements_are_on_the_line_of_their_iteration_with_its_loss(
    tool: Callable,
    opts: Callable,
    small_config: Callable,  # noqa: F811
    tmp_path: Path,
) -> None:
    """Every 2 of 5 steps, with a line every step and every third; the figures of the plain runtime, to the bit."""
    own = ("PRETRAIN.BUDGET.AMOUNT", "5", "PRETRAIN.HELD_OUT.IMAGES", "12", "PRETRAIN.EVAL.PERIOD", "2")
    pretrain(small_config(*own), tmp_path / "plain")
    plain = [json.loads(line) for line in (tmp_path / "plain" / "metrics.jsonl").read_text().splitlines()]
    maps = {line["step"]: line["held_out/map"] for line in plain if "held_out/map" in line}
    for period, written in (("1", [0, 1, 2, 3, 4, 5]), ("3", [1, 2, 3, 4, 5])):
        out = tmp_path / period
        assert tool(*opts(out, *own, "PRETRAIN.METRICS_PERIOD", period)) == 0
        rows = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
        assert [row["iteration"] for row in rows] == written
        assert {row["iteration"]: row["held_out/map"] for row in rows if "held_out/map" in row} == {
            1: maps[2], 3: maps[4], 5: maps[5]
        }  # fmt: skip
        assert all("total_loss" in row for row in rows if row["iteration"] != 5)
        assert weights(out) == weights(tmp_path / "plain")


def test_events_are_shown_at_weights_and_biases_where_that_is_asked_for(
    tool: Callable, opts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the package is called with: every iteration i that is written is step i + 1, and once."""
    wandb = StandIn(None)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr("scaleprior.pretrain.figures.boards.find_spec", lambda name: True)
    own = ("PRETRAIN.BUDGET.AMOUNT", "5", "PRETRAIN.HELD_OUT.IMAGES", "12", "PRETRAIN.EVAL.PERIOD", "2")
    out = tmp_path / "run"
    assert tool(*opts(out, *own, "PRETRAIN.METRICS_PERIOD", "2", "PRETRAIN.WANDB", "True")) == 0
    (shown,) = wandb.runs
    assert [step for step, _ in shown.rows] == [2, 4, 5, 6]
    written = [json.loads(line) for line in (out / "metrics.json").read_text().splitlines()]
    assert [{"iteration": step - 1, **row} for step, row in shown.rows] == written
    assert shown.ended == 0
    assert shown.summary["result"] == json.loads((out / "result.json").read_text())


def test_folders_and_keys_are_refused_in_one_line_and_evaluation_changes_nothing_but_the_log(
    tool: Callable, opts: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "run"
    for words, said in (
        (["SEEED", "1"], "unknown config key SEEED (set in the command line); did you mean SEED?"),
        (["MODEL.RESNETS.RES5_DILATION", "2"], "MODEL.RESNETS.RES5_DILATION is 2: plain ResNets are pretrained"),
        (["PRETRAIN.BATCH_SIZE", "0"], "PRETRAIN.BATCH_SIZE is 0"),
    ):
        assert tool(*opts(out, *words)) == 2
        found = capsys.readouterr().err
        assert found.startswith(f"pretrain_net: error: {said}")
        assert found.count("\n") == 1
        assert not out.exists()
    (tmp_path / "file").touch()
    assert tool(*opts(tmp_path / "file")) == 1
    assert re.search(
        r"^pretrain_net: error: cannot write .*file.*; choose another folder", capsys.readouterr().err, re.M
    )
    for flag, said in (
        (["--num-machines", "2"], "--dist-url auto works on one machine only"),
        (["--num-gpus", "2", "--dist-url", "ftp://x"], "--dist-url is 'ftp://x'; give tcp://HOST:PORT, file://PATH"),
    ):
        assert tool(*flag, *opts(out)) == 2
        assert said in capsys.readouterr().err
    # a key that only Detectron2 has is none of ours, and no error
    assert tool(*opts(out, "PRETRAIN.HELD_OUT.IMAGES", "12", "VIS_PERIOD", "7")) == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    capsys.readouterr()
    assert tool(*opts(out, "PRETRAIN.HELD_OUT.IMAGES", "12")) == 2
    assert "already holds a pretraining run; add --resume" in capsys.readouterr().err
    assert tool("--eval-only", *opts(out, "PRETRAIN.HELD_OUT.IMAGES", "12")) == 0
    assert f"'map': {json.loads(before['result.json'])['held_out']['map']}" in capsys.readouterr().out
    after = {path.name: path.read_bytes() for path in out.iterdir()}
    assert after.pop("log.txt") > before.pop("log.txt")
    assert after == before


def test_killed_then_stopped_then_resumed_ends_with_the_same_bits_and_every_iteration_once(
    tool: Callable, opts: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    own = ("PRETRAIN.BUDGET.AMOUNT", "40", "PRETRAIN.CHECKPOINT_PERIOD", "5")
    assert tool(*opts(tmp_path / "whole", *own)) == 0
    out = tmp_path / "killed"
    process = start(*opts(out, *own))
    wait_for(process, out / "metrics.json", 7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = iterations(out)[-1]
    assert not (out / "result.json").exists()
    with (out / "metrics.json").open("a") as file:
        file.write('{"iteration": 9')  # a line that the kill cut short

    killed_after = done

    class Stopped(EventRecorder):
        def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
            super().step(done, total, numbers)
            if done == killed_after + 2:
                os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patched:
        patched.setattr("scaleprior.d2.pretraining.EventRecorder", Stopped)
        assert tool("--resume", *opts(out, *own, "PRETRAIN.METRICS_PERIOD", "40")) == 143
    said = f"stopped by SIGTERM after step {done + 3} of 40; add --resume"
    assert f"pretrain_net: error: {said}\n" in capsys.readouterr().err
    assert f"scaleprior.d2.pretraining ERROR: {said}\n" in (out / "log.txt").read_text()
    *kept, last = iterations(out)
    assert kept == list(range(len(kept)))  # up to the checkpoint that the killed run left
    assert len(kept) <= done + 1
    assert last == done + 2  # between two periods, written because the run stopped
    assert tool("--resume", *opts(out, *own)) == 0
    assert iterations(out) == [*kept, *range(done + 2, 40)]
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_stop_together_and_go_on(opts: Callable, tmp_path: Path) -> None:
    own = ("PRETRAIN.BUDGET.AMOUNT", "60", "PRETRAIN.CHECKPOINT_PERIOD", "0", "PRETRAIN.METRICS_PERIOD", "3")
    out = tmp_path / "run"
    process = start("--num-gpus", "2", *opts(out, *own))
    wait_for(process, out / "metrics.json", 1)
    process.terminate()
    _, errors = process.communicate()
    assert process.returncode == 143, errors
    said = [line for line in errors.splitlines() if "error:" in line]
    assert len(said) == 1
    assert re.fullmatch(r"pretrain_net: error: stopped by SIGTERM after step \d+ of 60; add --resume", said[0])
    assert "Traceback" not in errors
    process = start("--num-gpus", "2", "--resume", *opts(out, *own))
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.count("backbone.safetensors") == 1
    steps = iterations(out)
    assert steps == sorted(set(steps))
    assert set(range(2, 60, 3)) <= set(steps)
    assert json.loads((out / "run.json").read_text())["processes"] == 2
    assert (out / "log.txt.rank1").exists()


@pytest.mark.parametrize(
    ("words", "gone", "said"),
    [
        (["SEED", "1"], None, "holds a run with another config"),
        (["SEED", "1"], "run.json", ".safetensors holds a run with another config"),
    ],
)
def test_a_refused_resume_leaves_the_folder_as_it_was(
    words: list[str],
    gone: str | None,
    said: str,
    tool: Callable,
    opts: Callable,
    small_config: Callable,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
) -> None:
    """Detectron2's set-up, which writes log.txt and config.yaml, comes after the folder is known to be ours."""
    out = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(), out, progress=stop_at(2))
    if gone is not None:
        (out / gone).unlink()
    before = content(out)
    assert tool("--resume", *opts(out, *words)) == 2
    assert said in capsys.readouterr().err
    assert content(out) == before
