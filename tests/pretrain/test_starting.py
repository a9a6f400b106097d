"""Ways to start several processes, and what becomes of a run when one is killed."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes
from tests.pretrain.conftest import SMALL
from tests.pretrain.test_run import wait_for, weights
from tests.processes import free_port

PRETRAIN = ("scaleprior", "pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml", "--no-check")
STEPS = (
    *("PRETRAIN.BUDGET.AMOUNT", "40", "PRETRAIN.CHECKPOINT_PERIOD", "3", "PRETRAIN.BATCH_SIZE", "5"),
    *("PRETRAIN.NORM_STATISTICS", "all", "PRETRAIN.DROP_PATH", "0.3", "PRETRAIN.EMA.DECAY", "0.9"),
)


def start(out: Path, corpus: Path, *flags: str, launcher: tuple[str, ...] = ()) -> processes.Popen:
    """``python -m LAUNCHER -m scaleprior pretrain FLAGS`` of the tiny run."""
    words = [*launcher, "-m", *PRETRAIN, *flags, "--out", str(out), *SMALL, "PRETRAIN.CORPUS", str(corpus), *STEPS]
    return processes.start([sys.executable, *words])


def finish(process: processes.Popen) -> str:
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    return printed


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Path:
    """The run of two processes of one machine."""
    out = tmp_path_factory.mktemp("starting") / "run"
    printed = finish(start(out, corpus_folder, "--num-gpus", "2"))
    assert printed.count("backbone: ") == 1  # one process speaks
    return out


@pytest.mark.slow
def test_two_machines_are_two_processes(in_two: Path, tmp_path: Path, corpus_folder: Path) -> None:
    url = f"tcp://127.0.0.1:{free_port()}"
    flags = ("--num-machines", "2", "--dist-url", url, "--machine-rank")
    machines = [start(tmp_path, corpus_folder, *flags, rank) for rank in "01"]
    printed = [finish(machine) for machine in machines]
    assert [text.count("backbone: ") for text in printed] == [1, 0]
    assert weights(tmp_path) == weights(in_two)


def children(parent: int) -> Iterator[tuple[int, bytes]]:
    """(id, environment) of the processes that ``parent`` started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = (folder / "stat").read_text().rsplit(") ", 1)[1].split()
            if int(status[1]) == parent and status[0] != "Z":
                yield int(folder.name), (folder / "environ").read_bytes()
        except (OSError, IndexError):  # it has ended meanwhile
            continue


def kill_rank(parent: int, rank: int) -> None:
    """SIGKILL to the process that torchrun, whose id is ``parent``, started as ``rank``."""
    (found,) = (pid for pid, variables in children(parent) if f"\0RANK={rank}\0".encode() in variables)
    os.kill(found, signal.SIGKILL)


@pytest.mark.slow
def test_torchrun_starts_a_killed_process_again_and_nothing_is_different(
    in_two: Path, tmp_path: Path, corpus_folder: Path
) -> None:
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    process = start(tmp_path, corpus_folder, "--resume", launcher=torchrun)
    wait_for(process, tmp_path / "metrics.jsonl", 7)
    kill_rank(process.pid, 1)
    printed, errors = process.communicate()
    assert process.returncode == 0, errors
    assert printed.count("backbone: ") == 1
    said = [line for line in errors.splitlines() if line.startswith("scaleprior: error: ")]
    assert len(said) <= 1, errors  # of the other process, unless torchrun was faster to end it
    assert all(re.search("another process was lost: .*; .* --resume goes on from there$", line) for line in said)
    assert "Traceback" not in errors
    assert weights(tmp_path) == weights(in_two)
