"""A process that is lost: one line in the others, at once, whatever they were doing."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from torch import distributed

from scaleprior.errors import FailureError
from scaleprior.training.lost import LostProcess, lost_process
from scaleprior.training.processes import join_processes
from tests import processes
from tests.processes import free_port

WORK = """
import datetime, os, signal, sys, torch
from scaleprior.errors import ScalePriorError
from scaleprior.training.processes import join_processes
exchange = {
    "sum": lambda group: group.sum(1.0),
    "wait": lambda group: group.wait(),
    "all_reduce": lambda group: group.all_reduce(torch.ones(1)),
    "gradients": lambda group: net(torch.ones(2, 3)).sum().backward(),
}[sys.argv[1]]
try:
    limit = datetime.timedelta(seconds=float(sys.argv[2]))
    with join_processes(torch.device("cpu"), timeout=limit) as group:
        net = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(3, 3))
        group.wait()
        if group.rank == 1 and limit.seconds < 9:
            sys.stdin.read()
        if group.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        exchange(group)
except ScalePriorError as e:
    print(e)
    sys.exit(e.exit_code)
"""


@pytest.mark.parametrize("exchange", ["sum", "wait", "all_reduce", "gradients"])
def test_who_exchanges_with_a_killed_process_says_so_in_a_line(exchange: str) -> None:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", WORK, exchange, "900"]
    started = [processes.start(command, env=processes.environment(**place, RANK=rank)) for rank in "01"]
    (printed, errors), _ = (process.communicate() for process in started)
    assert started[0].returncode == FailureError.exit_code, errors
    assert errors == ""
    assert re.match(r"another process was lost: \w+ [^;]*127.0.0.1", printed)
    assert printed.endswith("resume=True goes on from there\n")
    assert printed.count("\n") == 1


AGAIN = """
import time, torch
from scaleprior.training.processes import join_processes
for time_of_the_late in (0.3, 0.0, 0.3):
    with join_processes(torch.device("cpu")) as group:
        total = group.sum(1.0)
        if group.rank == 0:
            time.sleep(time_of_the_late)
print(total)
"""


def test_a_program_may_meet_again_and_again_though_one_is_late() -> None:
    """The one that is early must not take the last meeting's store, which the late one is about to close."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", AGAIN]
    started = [processes.start(command, env=processes.environment(**place, RANK=rank)) for rank in "01"]
    said = [process.communicate() for process in started]
    assert [out for out, _ in said] == ["[2.0]\n"] * 2, said


def test_who_waits_for_a_process_that_stands_still_gives_up() -> None:
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    command = [sys.executable, "-c", WORK, "sum", "2"]
    waiting, still = (
        processes.start(command, env=processes.environment(**place, RANK=rank), stdin=subprocess.PIPE) for rank in "01"
    )
    printed, errors = waiting.communicate()
    still.kill()
    still.communicate()
    assert waiting.returncode == FailureError.exit_code, errors
    assert re.match(r"another process was lost: .*[Tt]imed? ?out", printed)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            RuntimeError("[/pytorch/third_party/gloo/gloo/transport/tcp/unbound_buffer.cc:78] Timed out waiting 9ms"),
            "Timed out waiting 9ms;",
        ),
        (
            distributed.DistBackendError("[Rank 0] NCCL communicator was aborted.\nframe #0: c10::Error\nframe #1"),
            "NCCL communicator was aborted.;",
        ),
        (distributed.DistNetworkError("The client socket has timed out after 9ms"), "The client socket has timed out"),
        (distributed.DistError(""), "DistError;"),
    ],
)
def test_the_words_of_the_backends(error: RuntimeError, said: str) -> None:
    lost = lost_process(error)
    assert str(lost).startswith(f"another process was lost: {said}")
    assert "\n" not in str(lost)


@pytest.mark.parametrize("error", [RuntimeError("CUDA out of memory"), ValueError("/gloo/"), FailureError("diverged")])
def test_other_errors_are_what_they_are(error: Exception) -> None:
    assert lost_process(error) is None


def test_one_process_of_torchrun_is_a_group_of_one_and_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the code of many processes, NCCL's among it, runs where there is one GPU."""
    place = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    for name, value in {**place, "TORCHELASTIC_RUN_ID": "1"}.items():
        monkeypatch.setenv(name, value)
    cpu = torch.device("cpu")
    with join_processes(cpu, timeout=timedelta(minutes=7)) as group:
        assert (group.joined, group.rank, group.size, group.host) == (True, 0, 1, None)
        assert group.all_reduce(torch.tensor([3.0])).item() == 3
        assert group.sum(2.0, 3.0) == [2, 3]
        backend = distributed.distributed_c10d._get_default_group()._get_backend(cpu)
        assert backend.options._timeout == timedelta(minutes=7)
    assert not distributed.is_initialized()
    with pytest.raises(ZeroDivisionError), join_processes(cpu):
        raise ZeroDivisionError
    assert not distributed.is_initialized()
    monkeypatch.delenv("TORCHELASTIC_RUN_ID")
    with join_processes(cpu) as alone:
        assert not alone.joined
        assert not distributed.is_initialized()


def test_a_group_that_others_made_gets_one_for_the_host_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under Detectron2's launch, which makes one of NCCL: gloo stands in for it here, where there is no GPU."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    monkeypatch.setattr(distributed, "get_backend", lambda: "nccl")
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    try:
        with join_processes(torch.device("cuda", 0)) as group:
            assert group.host is not None
            assert group.host is not distributed.group.WORLD
        assert distributed.is_initialized()
        with pytest.raises(LostProcess, match="lost: closed"), join_processes(torch.device("cuda", 0)):
            raise RuntimeError("[/gloo/x.cc:1] closed")
    finally:
        distributed.destroy_process_group()
