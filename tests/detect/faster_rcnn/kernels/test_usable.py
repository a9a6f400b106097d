"""Where the kernels are used, and what is said where they could be and cannot."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from scaleprior.detect.faster_rcnn import kernels

GPU = torch.device("cuda:0")


@pytest.fixture
def recent_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """What torch says of an H100."""
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))


def test_a_cpu_has_no_kernels() -> None:
    assert not kernels.usable(torch.zeros(1))


@pytest.mark.usefixtures("recent_gpu")
def test_without_triton_a_warning_says_so(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    monkeypatch.delitem(sys.modules, f"{kernels.__name__}.probe", raising=False)
    assert not kernels._builds.__wrapped__(GPU)
    (record,) = caplog.records
    assert "no Triton kernels here" in record.getMessage()
    assert "triton" in record.getMessage()


@pytest.mark.usefixtures("recent_gpu")
def test_a_gpu_without_memory_says_nothing_about_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(number: int, device: torch.device) -> int:
        raise RuntimeError("Triton Error [CUDA]: out of memory")

    monkeypatch.setitem(sys.modules, f"{kernels.__name__}.probe", SimpleNamespace(doubled=full))
    with pytest.raises(RuntimeError, match="out of memory"):
        kernels._builds.__wrapped__(GPU)


@pytest.mark.usefixtures("recent_gpu")
def test_an_older_gpu_and_another_makers_are_left_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
        assert not kernels._builds.__wrapped__(GPU)
    monkeypatch.setattr(torch.version, "cuda", None)
    assert not kernels._builds.__wrapped__(GPU)
    assert not caplog.records


@pytest.mark.gpu
def test_they_are_usable_on_this_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    pytest.importorskip("triton", reason="no Triton here")
    # or every other test on a GPU would be one of torchvision's operators
    assert kernels.usable(torch.zeros(1, device="cuda")) == (torch.cuda.get_device_capability() >= (8, 0))
