"""What a run will cost: counts by hand, a probe that leaves nothing behind, and the refusals of the run itself."""

from __future__ import annotations

import json
import mmap
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from scaleprior.cli import main
from scaleprior.errors import FailureError, ScalePriorError, UserError
from scaleprior.pretrain import dry_run, pretrain
from scaleprior.pretrain.costs import probe as probing
from scaleprior.pretrain.costs.arithmetic import NetworkCost
from scaleprior.pretrain.costs.estimate import RunCost
from scaleprior.pretrain.costs.memory import MemoryGauge
from scaleprior.pretrain.costs.probe import Probe
from scaleprior.pretrain.costs.work import Work
from scaleprior.training.resources import Needs
from scaleprior.training.seeds import seed_everything
from tests.conftest import REPO
from tests.pretrain.conftest import SMALL
from tests.processes import run


def draws() -> tuple[float, float, float]:
    return random.random(), np.random.random(), torch.rand(1).item()  # noqa: NPY002 (the global one is meant)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go, and the working directory, too."""
    folder = tmp_path / "nowhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(folder)
    return folder


def test_a_probe_times_real_steps_and_nothing_stays(small_config: Callable, tmp_path: Path, nowhere: Path) -> None:
    seed_everything(1)
    expected = draws()
    seed_everything(1)
    seen: list[int] = []
    loaded = small_config("PRETRAIN.BUDGET.AMOUNT", "40", "PRETRAIN.FRACTION.IMAGES", "20")
    cost = dry_run(loaded, tmp_path / "run", probe_steps=4, progress=lambda done, total, numbers: seen.append(done))
    assert draws() == expected
    assert list(nowhere.iterdir()) == []
    assert not (tmp_path / "run").exists()
    assert cost.work == Work(20, 40, 160)
    assert cost.probe is not None
    assert (cost.probe.warmup, len(cost.probe.seconds), cost.probe.processes) == (3, 4, 1)
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert min(cost.probe.seconds) > 0
    assert 0 < cost.probe.waited < 1
    assert cost.probe.memory >= 0  # a network as small as this may find room in what the process has
    assert dry_run(loaded, tmp_path / "run", probe_steps=0).network == cost.network


@pytest.mark.parametrize(("steps", "asked", "timed"), [(1, 20, 1), (4, 20, 4), (5, 4, 4)])
def test_a_run_shorter_than_the_probe_is_all_there_is_to_time(
    steps: int, asked: int, timed: int, small_config: Callable, tmp_path: Path, nowhere: Path
) -> None:
    loaded = small_config("PRETRAIN.BUDGET.AMOUNT", str(steps))
    found = dry_run(loaded, tmp_path / "run", probe_steps=asked).probe
    assert found is not None
    assert (len(found.seconds), found.warmup) == (timed, steps - timed)
    assert (found.error is None) == (timed == 1)
    assert list(nowhere.iterdir()) == []


def test_loader_processes_start_with_their_batches_ahead(small_config: Callable, tmp_path: Path) -> None:
    loaded = small_config("PRETRAIN.BUDGET.AMOUNT", "40", "PRETRAIN.LOADER.NUM_WORKERS", "2")
    found = dry_run(loaded, tmp_path / "run", probe_steps=2).probe
    assert found is not None
    assert found.warmup == 4


def test_the_clock_knows_waiting_from_work(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([0.0, 5.0, 6.0, 8.0])
    monkeypatch.setattr(probing.time, "perf_counter", lambda: next(now))
    clock = probing._Clock(warmup=1, last=3, progress=None)
    for done, waited in ((1, 4.0), (2, 0.25), (3, 0.5)):
        clock.step(done, 9, {"data_time": waited})
        if done == 3:
            with pytest.raises(probing._Enough):
                clock.tick(done, 9, {})
        else:
            clock.tick(done, 9, {})
    assert clock.seconds == [1.0, 2.0]
    assert clock.waited == [0.25, 0.5]


def test_the_gauge_counts_what_was_taken_since() -> None:
    def take(size: int) -> None:
        # Of the system itself: what malloc gives may have been the process' since other tests.
        with mmap.mmap(-1, size) as memory:
            memory.write(b"1" * size)

    take(2**26)  # an earlier peak
    gauge = MemoryGauge(torch.device("cpu"))
    before = gauge.peak
    take(2**25)
    assert 0.9 * 2**25 < gauge.peak - before < 2.5 * 2**25  # with the bytes that were written there


def cost_of(**given) -> RunCost:
    network = NetworkCost(trunk_parameters=900, head_parameters=100, forward=10**9, training=3 * 10**9)
    facts = {"trunk": "R-50", "labels": 7, "side": 224, "batch_size": 8, "budget": (2.0, "epochs"), "network": network}
    return RunCost(**facts, work=Work(80, 20, 160), needs=Needs(1, 2, 3, "all"), **given)


def test_an_estimate_is_steps_times_their_mean() -> None:
    probe = Probe("cpu", 1, 3, (1.0, 2.0, 3.0), 0.25, 2**20)
    cost = cost_of(probe=probe, ladder=(Work(40, 10, 80), Work(400, 100, 800)))
    assert (probe.seconds_per_step, probe.error) == (2.0, pytest.approx(3**-0.5))
    assert cost.images_per_s == 4.0
    words = cost.to_dict()
    assert words["run"]["seconds"] == 40.0
    assert words["run"]["operations"] == 160 * 3 * 10**9
    assert [rung["seconds"] for rung in words["ladder"]] == [20.0, 200.0]
    assert words["ladder_sum"] == {"steps": 110, "images_seen": 880, "operations": 880 * 3 * 10**9, "seconds": 220.0}
    text = "\n".join(cost.sentences())
    assert "480 GFLOP" in text
    assert "4 images/s, 12 GFLOP/s" in text
    assert "waited for their images 25% of the time" in text
    assert "time of training: 40 s (estimate, from 3 steps on this device" in text
    assert "- in sum: 110 steps, 880 images seen, 3.67 min (estimate" in text


def test_smaller_images_cost_less(small_config: Callable, tmp_path: Path) -> None:
    def cost(*keys: str, steps: int = 0) -> RunCost:
        return dry_run(small_config(*keys), tmp_path / "run", probe_steps=steps)

    whole, small = cost(), cost("PRETRAIN.INPUT.SIZE", "8", "PRETRAIN.INPUT.RESIZE", "20")
    grown = cost("PRETRAIN.INPUT.PROGRESSIVE", "((0.25, 8),)", steps=1)
    mean = 0.25 * small.network.training + 0.75 * whole.network.training
    assert grown.network.training == pytest.approx(mean, rel=1e-6)
    assert grown.scale == pytest.approx(mean / whole.network.training)
    assert grown.probe is not None
    assert grown.seconds(grown.work) == pytest.approx(4 * grown.probe.seconds_per_step * grown.scale)
    assert "in proportion to operations" in "\n".join(grown.sentences())


def test_without_a_probe_no_time_is_told() -> None:
    cost = cost_of(ladder=(Work(40, 10, 80),))
    words = cost.to_dict()
    assert words["probe"] is None
    assert words["run"]["seconds"] is words["ladder_sum"]["seconds"] is None
    text = "\n".join(cost.sentences())
    assert "time: not known" in text
    assert "estimate" not in text
    assert "- in sum: 10 steps, 80 images seen" in text


REFUSED = {
    "an illegal value": ("PRETRAIN.INPUT.SIZE", "32"),
    "a fraction that is not there": ("PRETRAIN.FRACTION.IMAGES", "61"),
    "no such device": ("MODEL.DEVICE", "abacus"),
    "a held-out set that overlaps": ("PRETRAIN.HELD_OUT.IMAGES", "60"),
    "no corpus": ("PRETRAIN.CORPUS", "nowhere/index"),
    "bfloat16 on a CPU": ("PRETRAIN.AMP", "bf16"),
}


@pytest.mark.parametrize("check", [True, False])
@pytest.mark.parametrize("keys", REFUSED.values(), ids=REFUSED)
def test_what_a_run_refuses_is_refused_alike(
    keys: tuple[str, str], check: bool, small_config: Callable, tmp_path: Path
) -> None:
    said = []
    for function in (pretrain, dry_run):
        with pytest.raises(ScalePriorError) as refused:
            function(small_config(*keys), tmp_path / "run", check=check)
        said.append((type(refused.value), str(refused.value)))
    assert said[0] == said[1]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong", [{"probe_steps": -1}, {"probe_steps": 2.5}, {"ladder": [0]}, {"ladder": ["1e3"]}, {"ladder": [61]}]
)
def test_options_that_mean_nothing_are_refused(wrong: dict, small_config: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"probe_steps|ladder|61"):
        dry_run(small_config(), tmp_path / "run", **{"probe_steps": 0, **wrong})


def test_unreadable_images_stop_a_probe_as_they_stop_a_run(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nowhere: Path
) -> None:
    from scaleprior.pretrain.data.batches import ImageSet

    def broken(self: ImageSet, row: int, order: str) -> np.ndarray:
        raise UserError("gone")

    monkeypatch.setattr(ImageSet, "decode", broken)
    with pytest.raises(FailureError, match="images cannot be read"):
        dry_run(small_config(), tmp_path / "run", check=False)
    assert list(nowhere.iterdir()) == []


def command(index: Path, *words: str) -> list[str]:
    return ["pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml", *words, *SMALL, "PRETRAIN.CORPUS", str(index)]


def test_the_command_prints_one_object(corpus_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = tmp_path / "study.yaml"
    spec.write_text((REPO / "configs" / "studies" / "quickstart.yaml").read_text(encoding="utf-8"))
    lines = spec.read_text(encoding="utf-8").splitlines()
    spec.write_text("\n".join("ladder: [10, 60]" if line.startswith("ladder:") else line for line in lines))
    words = ["--dry-run", "--json", "--probe-steps", "1", "--out", str(tmp_path / "run")]
    assert main(command(corpus_folder, *words, "--ladder", "1e1,60")) == 0
    told = json.loads(capsys.readouterr().out)
    assert [rung["images"] for rung in told["ladder"]] == [10, 60]
    assert told["probe"]["steps"] == 1
    assert told["run"]["images_seen"] == 16
    assert main(command(corpus_folder, "--dry-run", "--probe-steps", "0", "--ladder", str(spec))) == 0
    assert "- 10 images: 4 steps, 16 images seen" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--ladder", "10"], "--ladder goes with --dry-run"),
        (["--probe-steps", "3"], "--probe-steps goes with --dry-run"),
        (["--dry-run", "--resume"], "--dry-run and --resume were given"),
        (["--dry-run", "--ladder", "10,x"], "--ladder is '10,x'"),
        (["--dry-run", "--ladder", "1.5"], "--ladder is '1.5'"),
        (["--dry-run", "--ladder", "inf"], "--ladder is 'inf'"),
    ],
)
def test_the_command_refuses_in_one_line(
    words: list[str], said: str, corpus_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(corpus_folder, *words)) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_two_processes_share_the_probe_and_one_speaks(corpus_folder: Path, tmp_path: Path) -> None:
    tool = [
        sys.executable,
        str(REPO / "tools" / "pretrain_net.py"),
        "--config-file",
        "configs/Pretrain/Base-Pretrain.yaml",
    ]
    flags = ["--num-gpus", "2", "--runtime", "plain", "--dry-run", "--json", "--probe-steps", "2"]
    keys = [*SMALL, "PRETRAIN.CORPUS", str(corpus_folder), "OUTPUT_DIR", str(tmp_path / "run")]
    done = run([*tool, *flags, *keys], cwd=REPO)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["probe"]["processes"] == 2
    assert told["probe"]["steps"] == 2
    assert not (tmp_path / "run").exists()
