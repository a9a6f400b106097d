"""The process' arithmetic: set within the block, as it was after it, and refused where it came too late."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import backends

from scaleprior.errors import UserError
from scaleprior.training.arithmetic import arithmetic, filling

OFF = {"tf32": False, "cudnn_benchmark": False, "deterministic": False, "gpu": False}


def found() -> tuple:
    return (
        backends.cuda.matmul.allow_tf32,
        backends.cudnn.allow_tf32,
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        filling.fill_uninitialized_memory,
        os.environ.get("CUBLAS_WORKSPACE_CONFIG"),
    )


@pytest.fixture(autouse=True)
def _no_workspace(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = found()
    yield
    assert found() == before


@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize("benchmark", [False, True])
def test_all_is_set_whatever_was_there(tf32: bool, benchmark: bool) -> None:
    for earlier in (False, True):
        with arithmetic(tf32=earlier, cudnn_benchmark=earlier, deterministic=False, gpu=False):
            with arithmetic(tf32=tf32, cudnn_benchmark=benchmark, deterministic=False, gpu=False):
                assert found()[:3] == (tf32, tf32, benchmark)
            assert found()[:3] == (earlier, earlier, earlier)


def test_determinism_turns_off_what_would_break_it() -> None:
    with arithmetic(tf32=False, cudnn_benchmark=True, deterministic=True, gpu=True):
        assert found()[2:] == (False, True, True, False, False, ":4096:8")
    with arithmetic(tf32=False, cudnn_benchmark=True, deterministic=True, gpu=False):
        assert found()[2:] == (False, True, True, False, False, None)


def test_what_was_there_is_put_back_after_an_error() -> None:
    with contextlib.suppress(ZeroDivisionError), arithmetic(**{**OFF, "deterministic": True, "gpu": True}):
        raise ZeroDivisionError


@pytest.mark.parametrize("value", [":4096:8", ":16:8"])
def test_a_workspace_that_serves_is_left_alone(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", value)
    with arithmetic(**{**OFF, "deterministic": True, "gpu": True}):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == value
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == value
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")


def test_what_comes_too_late_is_refused_with_the_line_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "start anew after: export CUBLAS_WORKSPACE_CONFIG=:4096:8"
    deterministic = {**OFF, "deterministic": True, "gpu": True}
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: True)
        with pytest.raises(UserError, match=f"is not set, and the GPU is in use already; {line}"):
            arithmetic(**deterministic).__enter__()
    with monkeypatch.context() as patch:
        patch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
        with pytest.raises(UserError, match=f"is ':0:0'; {line}"):
            arithmetic(**deterministic).__enter__()


def test_what_cublas_took_serves_the_next_run_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    deterministic, used = {**OFF, "deterministic": True, "gpu": True}, False
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "is_initialized", lambda: used)
        for _ in range(2):
            with arithmetic(**deterministic):
                used = True
                with arithmetic(**deterministic):
                    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    del os.environ["CUBLAS_WORKSPACE_CONFIG"]


@pytest.mark.skipif(not hasattr(backends.cudnn, "conv"), reason="torch before 2.9 has one way to set TF32")
def test_one_who_set_the_precision_by_name_gets_it_back() -> None:
    # In a process of its own: torch cannot be brought back from a mixture of both ways.
    code = """
import torch
from torch import backends
from scaleprior.training.arithmetic import arithmetic, filling
backends.cuda.matmul.fp32_precision = "tf32"
backends.cudnn.conv.fp32_precision = "ieee"
names = lambda: (backends.cuda.matmul.fp32_precision, backends.cudnn.conv.fp32_precision)
for tf32, word in ((True, "tf32"), (False, "ieee")):
    with arithmetic(tf32=tf32, cudnn_benchmark=False, deterministic=False, gpu=False):
        assert names() == (word, word), names()
    assert names() == ("tf32", "ieee"), names()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
