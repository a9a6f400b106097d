"""Who is asked what a GPU has: NVML's package, NVIDIA's program, CUDA in a process of its own."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from scaleprior.errors import FailureError
from scaleprior.study.executors import devices, room
from scaleprior.study.executors.devices import (
    Reading,
    VisibleDevices,
    read_by_cuda,
    read_by_nvidia_smi,
    read_by_nvml,
)
from scaleprior.study.executors.forking import fork, stop
from scaleprior.study.sharing import CellMemory
from scaleprior.study.worker import _Clock

MIB, GIB = 2**20, 2**30
LINES = """\
0, GPU-5ec4a1b2-0000, 81559, 72000, 35
1, GPU-77aa0000-1111, 81559, 81000, [N/A]
2, GPU-99bb0000-2222, [N/A], [N/A], [N/A]
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program of that name, which says what NVIDIA's says for the columns that are asked for."""
    path = tmp_path / "nvidia-smi"
    asked = "--query-gpu=index,uuid,memory.total,memory.free,utilization.gpu --format=csv,noheader,nounits"
    path.write_text(f'#!/bin/sh\n[ "$*" = "{asked}" ] || exit 2\ncat <<E\n{LINES}E\n')
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return path


@pytest.mark.usefixtures("smi")
def test_the_program_is_asked_by_number_and_by_uuid() -> None:
    assert read_by_nvidia_smi("0") == read_by_nvidia_smi("GPU-5ec4") == Reading(81559 * MIB, 72000 * MIB, 35.0)
    assert read_by_nvidia_smi("1") == Reading(81559 * MIB, 81000 * MIB, None)
    for unknown in ("2", "3", "MIG-5ec4a1b2", "GPU-0"):
        assert read_by_nvidia_smi(unknown) is None


def test_a_program_that_fails_or_is_not_there_says_nothing(smi: Path) -> None:
    smi.write_text("#!/bin/sh\nexit 9\n")
    assert read_by_nvidia_smi("0") is None
    smi.unlink()
    assert read_by_nvidia_smi("0") is None


class Nvml(ModuleType):
    """Of NVIDIA's package what is asked, for two GPUs of which the second tells no utilisation."""

    class NVMLError(Exception):
        pass

    def __init__(self, *, driver: bool = True) -> None:
        super().__init__("pynvml")
        self.driver = driver

    def nvmlInit(self) -> None:
        if not self.driver:
            raise self.NVMLError("no driver")

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index + 10

    def nvmlDeviceGetUUID(self, handle: int) -> str | bytes:
        return {10: "GPU-5ec4a1b2", 11: b"GPU-77aa0000"}[handle]

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Nvml:
        self.total, self.free = 80 * GIB, (handle - 5) * GIB
        return self

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Nvml:
        if handle == 11:
            raise self.NVMLError("not supported")
        self.gpu = 42
        return self


def test_the_package_is_asked_by_number_and_by_uuid(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", Nvml())
    assert read_by_nvml("0") == read_by_nvml("GPU-5ec4") == Reading(80 * GIB, 5 * GIB, 42.0)
    assert read_by_nvml("1") == read_by_nvml("GPU-77") == Reading(80 * GIB, 6 * GIB, None)
    assert read_by_nvml("2") is read_by_nvml("MIG-1") is None
    monkeypatch.setitem(sys.modules, "pynvml", Nvml(driver=False))
    assert read_by_nvml("0") is None
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert read_by_nvml("0") is None


def test_who_answers_first_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    first, last = Reading(3, 2, 1.0), Reading(3, 2, None)
    monkeypatch.setattr(devices, "read_by_cuda", lambda name: last)
    monkeypatch.setattr(devices, "read_by_nvidia_smi", lambda name: first if name == "0" else None)
    assert [VisibleDevices().read(name) for name in ("0", "MIG-1")] == [first, last]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here, which answers")
def test_where_there_is_no_gpu_cuda_says_so() -> None:
    with pytest.raises(FailureError, match=r"^GPU 5 cannot be asked for its memory: .+; see nvidia-smi$"):
        read_by_cuda("5")


def test_a_cell_without_cuda_tells_that_it_takes_none_of_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And with it what torch holds; the peak stays when somebody sets torch's back."""
    clock = _Clock(tmp_path)
    if not torch.cuda.is_initialized():
        clock.show_memory()
        assert CellMemory.read(tmp_path) == CellMemory(0, 0)
        assert not torch.cuda.is_initialized()
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    for now, peak, most in ((3, 5, 5), (2, 2, 5), (7, 7, 7)):
        monkeypatch.setattr(torch.cuda, "memory_reserved", lambda now=now: now)
        monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda peak=peak: peak)
        clock.show_memory()
        assert CellMemory.read(tmp_path) == CellMemory(now, most)


def _take(folder: str, gib: int) -> None:
    """A cell's process that has taken, and given back, memory of its GPU, and computes until it is stopped."""
    clock = _Clock(Path(folder))
    taken = torch.empty(gib * GIB, dtype=torch.uint8, device="cuda")
    matrix = torch.ones(4096, 4096, device="cuda")
    torch.cuda.synchronize()
    clock.show_memory()
    del taken
    while True:
        for _ in range(50):
            matrix = (matrix @ matrix).clamp_(0, 1)
        torch.cuda.synchronize()


@pytest.mark.gpu
def test_what_a_process_takes_of_a_real_gpu_is_seen_from_outside(tmp_path: Path) -> None:
    """Total and free by every source alike; the peak that the process tells, and less than is kept for its rest."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    total = torch.cuda.get_device_properties(torch.ones(1, device="cuda").device).total_memory  # our context is in all
    (name, *_) = VisibleDevices().names()
    sources = {ask.__name__: ask for ask in (read_by_nvml, read_by_nvidia_smi, read_by_cuda)}
    before = {source: reading for source, ask in sources.items() if (reading := ask(name)) is not None}
    print(before)
    assert "read_by_cuda" in before
    assert before["read_by_cuda"].utilisation is None
    for reading in before.values():
        assert reading.total == pytest.approx(total, rel=0.02)  # NVML counts what the driver keeps for itself
        assert 0 < reading.free <= reading.total
    process = fork(_take, str(tmp_path), 4, name="taker", gpu=name)
    try:
        while (memory := CellMemory.read(tmp_path)) is None:
            assert process.is_alive()
            time.sleep(0.05)
        assert 4 * GIB <= memory.peak <= 4 * GIB + 256 * MIB
        busy = []
        for source, ask in sources.items():
            if source in before:
                reading = ask(name)
                assert reading is not None
                rest = before[source].free - reading.free - memory.now
                print(source, f"a process takes {rest / MIB:.0f} MiB beside torch's allocator", reading.utilisation)
                assert 0 < rest < room._CONTEXT
        for _ in range(5):
            time.sleep(0.3)
            busy.append(VisibleDevices().read(name).utilisation)
        print("utilisation while it computes", busy)
        assert all(percent is None or 0 <= percent <= 100 for percent in busy)
        assert busy[-1] is None or busy[-1] > 50
    finally:
        stop([process])
