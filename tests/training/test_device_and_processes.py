"""Which device a process takes, and which group it joins."""

from __future__ import annotations

import pytest
import torch
from torch import distributed

from scaleprior.errors import UserError
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
        pytest.raises(UserError, match=r"MODEL.DEVICE is cpu, .* runtime=.plain."),
        join_processes(torch.device("cpu")),
    ):
        pass
    monkeypatch.setattr(distributed, "get_backend", lambda: "gloo")
    with join_processes(torch.device("cpu")) as processes:
        assert (processes.rank, processes.size) == (1, 2)
