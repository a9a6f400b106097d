"""Which device a process takes, which group it joins, and what a recorder keeps of the steps before."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import distributed

from scaleprior.errors import UserError
from scaleprior.pretrain.recorder import cut_lines
from scaleprior.training.device import resolve_device
from scaleprior.training.processes import join_processes


@pytest.fixture
def three_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 2)


def test_a_process_takes_the_gpu_that_it_was_given(three_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve_device("auto") == torch.device("cuda", 2)  # what Detectron2's launch made the current one
    assert resolve_device("cuda:0") == torch.device("cuda", 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert resolve_device("cuda") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "3")
    with pytest.raises(UserError, match=r"GPU 3 is asked for, but there are 3 here"):
        resolve_device("auto")


def test_a_group_for_gpus_is_no_group_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("is_initialized", True), ("get_backend", "nccl"), ("get_rank", 1), ("get_world_size", 2)):
        monkeypatch.setattr(distributed, name, lambda value=value: value)
    with (
        pytest.raises(UserError, match=r"MODEL.DEVICE is cpu, .* --runtime plain"),
        join_processes(torch.device("cpu")),
    ):
        pass
    monkeypatch.setattr(distributed, "get_backend", lambda: "gloo")
    with join_processes(torch.device("cpu")) as processes:
        assert (processes.rank, processes.size) == (1, 2)


def test_lines_of_lost_steps_are_cut(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    cut_lines(path, "iteration", 3)
    assert not path.exists()
    rows = [json.dumps({"iteration": i, "loss": float("nan")}) for i in (1, 3, 5)]
    path.write_text("\n".join([rows[0], "[]", rows[1], rows[2], '{"iteration": 1']))
    cut_lines(path, "iteration", 3)
    assert path.read_text() == f"{rows[0]}\n{rows[1]}\n"
    cut_lines(path, "iteration", -1)
    assert path.read_text() == ""
