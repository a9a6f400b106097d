"""The ways of several processes on GPUs, under torchrun: with one of them always, with two where there are two."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scaleprior.pretrain import pretrain
from tests import processes
from tests.pretrain.conftest import SMALL

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")]

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node")
OWN = ("PRETRAIN.INPUT.SIZE", "32", "PRETRAIN.INPUT.RESIZE", "32", "PRETRAIN.BATCH_SIZE", "15")
CASES = {
    "GN": ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.WIDTH_PER_GROUP", "32"),
    "BN": ("PRETRAIN.NORM_STATISTICS", "all"),
}
GROUP = """
import torch
from torch import distributed
from scaleprior.training.device import resolve_device
from scaleprior.training.processes import join_processes
with join_processes(resolve_device("cuda")) as group:
    assert distributed.get_backend() == "nccl"
    assert distributed.get_backend(group.host) == "gloo"
    ones = torch.ones(2, device=group.device)
    assert group.all_reduce(ones) is ones
    assert ones.tolist() == [group.size] * 2
    assert group.sum(1.0, float(group.rank)) == [group.size, sum(range(group.size))]
    assert group.least(group.rank + 3) == 3
    group.wait()
assert not distributed.is_initialized()
"""


@pytest.fixture(params=[1, 2])
def gpus(request: pytest.FixtureRequest) -> int:
    """Processes, one a GPU."""
    if request.param > torch.cuda.device_count():
        pytest.skip(f"{torch.cuda.device_count()} GPU here")
    return request.param


def test_nccl_for_the_device_and_gloo_for_the_host(gpus: int, tmp_path: Path) -> None:
    (tmp_path / "group.py").write_text(GROUP)
    processes.run([*TORCHRUN, gpus, tmp_path / "group.py"], check=True)


@pytest.mark.parametrize("name", CASES)
def test_torchrun_learns_what_one_process_does(
    name: str, gpus: int, small_config: Callable, corpus_folder: Path, tmp_path: Path
) -> None:
    """As far as cuDNN repeats itself: the losses of four steps, in float32 without TF32."""
    words = ("MODEL.DEVICE", "cuda", *OWN, *CASES[name])
    pretrain(small_config(*words), tmp_path / "alone")
    command = [*TORCHRUN, gpus, "-m", "scaleprior", "pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml"]
    opts = [*SMALL, "PRETRAIN.CORPUS", corpus_folder, *words]
    processes.run([*command, "--out", tmp_path / "run", *opts], check=True)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == gpus
    losses = [
        [json.loads(line)["loss"] for line in (tmp_path / out / "metrics.jsonl").read_text().splitlines()]
        for out in ("alone", "run")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)
