"""Out of memory in a step: what the error says, and that nothing that was saved is lost."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from scaleprior.errors import FailureError
from scaleprior.pretrain import pretrain, run
from scaleprior.pretrain.data.batches import LabelledBatch
from scaleprior.pretrain.loop import memory
from scaleprior.pretrain.loop.compiled import compile_errors
from scaleprior.pretrain.loop.memory import Memory, fitting_images, memory_errors, memory_errors_elsewhere
from scaleprior.pretrain.losses.targets import Targets
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.training.memory import OutOfMemory

GIB = 2**30
IMAGES = 64


def batch() -> LabelledBatch:
    offsets = torch.arange(IMAGES + 1)
    targets = Targets.from_csr(torch.zeros(IMAGES, dtype=torch.int64), offsets, classes=4)
    return LabelledBatch(torch.zeros(IMAGES, 48, 48, 3, dtype=torch.uint8), targets, torch.arange(IMAGES))


class Gpu:
    """Weights of 2 GiB, and half of one for each image, on a card of 20 GiB."""

    def __init__(self, room: int = 20 * GIB) -> None:
        self.room = room
        self.asked: list[int] = []

    def taken(self, images: int) -> int:
        self.asked.append(images)
        needed = 2 * GIB + images * GIB // 2
        if needed > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB. GPU 0 has little.")
        return needed

    def memory(self, batch: LabelledBatch) -> Memory:
        return Memory(self.room, self.taken)


def said_by(gpu: Gpu, *, parts: int = 1) -> str:
    with pytest.raises(OutOfMemory) as caught, memory_errors(7, batch(), parts=parts, memory=gpu.memory):
        gpu.taken(IMAGES // parts)
    assert caught.value.memory == "gpu"
    return str(caught.value)


def test_a_line_through_two_probes_tells_how_many_fit() -> None:
    # 18 GiB are nine tenths of 20; 16 of them are for images of half a GiB
    assert fitting_images([(8, 6 * GIB), (16, 10 * GIB)], 20 * GIB) == 32
    assert fitting_images([(8, 6 * GIB), (16, 10 * GIB)], 2 * GIB) == 0
    for probes in ([], [(8, 6 * GIB)], [(8, 6 * GIB), (16, 6 * GIB)], [(8, 6 * GIB), (16, 5 * GIB)]):
        assert fitting_images(probes, 20 * GIB) is None


def test_the_error_names_the_batch_and_what_would_fit() -> None:
    gpu = Gpu()
    said = said_by(gpu)
    assert gpu.asked == [IMAGES, 8, 16]
    assert said == (
        "memory ran out at step 7, 64 images of 48x48 pixels: Tried to allocate 1 GiB; by estimate, from what 8 and 16 "
        "images take, 32 images of this size at a time fit into 20 GiB: take PRETRAIN.ACCUMULATE 2, or a "
        "PRETRAIN.BATCH_SIZE of 32 a GPU; the run's last checkpoint is whole, and resume=True goes on from it where "
        "memory is free"
    )


def test_parts_are_counted() -> None:
    said = said_by(Gpu(room=10 * GIB), parts=2)
    assert "64 images of 48x48 pixels in 2 parts: " in said
    assert "from what 4 and 8 images take, 14 images of this size at a time fit into 10 GiB" in said
    assert "take PRETRAIN.ACCUMULATE 5," in said


@pytest.mark.parametrize(("images", "named"), [(8, True), (7, False)])
def test_no_more_parts_are_named_than_a_batch_may_have(images: int, named: bool) -> None:
    """Two images fit: 8 are four parts, 7 would have one of a single image, which is refused."""
    said = memory._way_on(images, 1, memory.Memory(5 * GIB // 2, lambda count: count * GIB))
    assert ("take PRETRAIN.ACCUMULATE 4, or a " in said) == named
    assert "PRETRAIN.BATCH_SIZE of 2 a GPU" in said


@pytest.mark.parametrize("room", [2 * GIB, 5 * GIB])
def test_where_probes_do_not_fit_either_nothing_is_made_up(room: int) -> None:
    assert "take a larger PRETRAIN.ACCUMULATE, or a smaller PRETRAIN.BATCH_SIZE or PRETRAIN.INPUT.SIZE" in said_by(
        Gpu(room=room)
    )


@pytest.mark.parametrize("recording", [False, True])
def test_what_the_step_held_is_free_when_it_is_tried_what_fits(recording: bool) -> None:
    held: list[weakref.ref[Tensor]] = []

    def step() -> None:
        maps = torch.empty(8)
        held.append(weakref.ref(maps))
        Gpu(room=0).taken(1)

    def recorded() -> None:
        try:
            step()
        finally:  # as torch.cuda.graph may, whose end of a recording fails for what ended it
            if recording:
                raise RuntimeError("operation failed due to a previous error during capture")

    def memory(batch: LabelledBatch) -> None:
        assert held[0]() is None

    with (
        pytest.raises(FailureError, match=r"memory ran out at step 7, .*: Tried to allocate 1 GiB"),
        memory_errors(7, batch(), parts=1, memory=memory),
        compile_errors("eager"),
    ):
        recorded()


def test_other_errors_pass() -> None:
    for error in (RuntimeError("shapes"), ZeroDivisionError()):
        with pytest.raises(type(error)), memory_errors(0, batch(), parts=1, memory=Gpu().memory):
            raise error


def test_a_run_that_runs_out_of_memory_says_so_in_a_line_and_goes_on_later(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    features, calls = Pretrainer.features, []

    def greedy(self: Pretrainer, images: Tensor) -> Tensor:
        calls.append(None)
        if len(calls) == 3:
            torch.empty(2**62, dtype=torch.uint8)  # more than any machine has: torch's own error
        return features(self, images)

    monkeypatch.setattr(Pretrainer, "features", greedy)
    with pytest.raises(
        FailureError, match=r"memory ran out at step 2, 4 images of 16x16 pixels: .*you tried to allocate"
    ):
        pretrain(small_config(), tmp_path / "run")
    monkeypatch.undo()
    whole = pretrain(small_config(), tmp_path / "whole")
    assert pretrain(small_config(), tmp_path / "run", resume=True).metrics.loss == whole.metrics.loss
    head = "head.safetensors"
    assert (tmp_path / "run" / head).read_bytes() == (tmp_path / "whole" / head).read_bytes()


def test_memory_that_runs_out_beside_the_steps_is_a_line_too(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def greedy(*args: object, **options: object) -> None:
        torch.empty(2**62, dtype=torch.uint8)

    monkeypatch.setattr(run, "build_trainer", greedy)
    with pytest.raises(FailureError, match=r"^memory ran out: .*you tried to allocate.*; free memory, where another"):
        pretrain(small_config(), tmp_path / "run")
    with pytest.raises(FailureError, match="memory ran out: MemoryError"), memory_errors_elsewhere():
        raise MemoryError
    blas = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
    with pytest.raises(FailureError, match="memory ran out: CUDA error: CUBLAS"), memory_errors_elsewhere():
        raise RuntimeError(blas)
    with pytest.raises(RuntimeError, match="shapes"), memory_errors_elsewhere():
        raise RuntimeError("shapes")


@pytest.mark.gpu
def test_on_a_gpu_it_is_a_line_too(small_config: Callable, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    torch.cuda.set_per_process_memory_fraction(0.02)
    try:
        words = ("MODEL.DEVICE", "cuda", "PRETRAIN.BATCH_SIZE", "60", "PRETRAIN.INPUT.SIZE", "1024")
        with pytest.raises(FailureError, match=r"memory ran out at step 0, 60 images of 1024x1024"):
            pretrain(small_config(*words, "PRETRAIN.INPUT.RESIZE", "1024"), tmp_path / "run")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
