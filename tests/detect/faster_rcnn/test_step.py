"""A step: that it waits for nothing, that a loss that is not finite updates nothing, and its numbers' precision."""

from __future__ import annotations

import json
import math
import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scaleprior.detect import get_engine
from scaleprior.detect.data.loader import DetectionBatch
from scaleprior.detect.faster_rcnn.model import Detector, build_detector
from scaleprior.detect.faster_rcnn.step import TrainStep
from scaleprior.detect.faster_rcnn.trainer import METRICS
from scaleprior.errors import FailureError
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.optimizers import guards_itself
from scaleprior.training.pending import Pending
from scaleprior.training.signals import Interrupted
from tests.asked import Asked
from tests.detect.conftest import tiny_config

GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
_AMP = ("SOLVER.AMP.ENABLED", "True")
_HALF = (*_AMP, "SCALEPRIOR.AMP_DTYPE", "float16")
# Maps of these norms grow from block to block, as fresh weights' do behind frozen norms in a deep trunk.
_FROZEN = ("MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.WARMUP_ITERS", "0")


class _Stop(Exception):
    """Stands in for a kill within the process."""


def _train(out: Path, words: Sequence[str], *, stop_after: int | None = None, resume: bool = False) -> Path:
    def progress(done: int, total: int, numbers: Any) -> None:
        if done == stop_after:
            raise _Stop

    return get_engine("torchvision").train(tiny_config("FPN", words), None, out, resume=resume, progress=progress)


def _batch(first_id: int = 100) -> DetectionBatch:
    generator = torch.Generator().manual_seed(first_id)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8, generator=generator)
    boxes = [torch.tensor([[4.0, 6.0, 40.0, 50.0]]), torch.tensor([[10.0, 20.0, 50.0, 60.0], [0.0, 0.0, 30.0, 30.0]])]
    classes = [torch.tensor([0]), torch.tensor([1, 0])]
    return DetectionBatch(images, [(64, 64)] * 2, boxes, classes, [first_id, first_id + 1], [0, 1])


def _step(*words: str, fused: bool = False, device: str = "cpu") -> TrainStep:
    cfg = tiny_config("FPN", ["MODEL.ROI_HEADS.NUM_CLASSES", "2", "MODEL.DEVICE", device, *words]).cfg
    torch.manual_seed(0)
    model = build_detector(cfg).to(device).train()
    if not fused:
        return TrainStep(cfg, model, seed=1)
    return TrainStep(cfg, model, seed=1, optimizer=_fused(TrainStep(cfg, model, seed=1).optimizer))


def _fused(like: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """As a GPU has it: torch's fused SGD of a CPU looks at found_inf, too."""
    groups = [{k: v for k, v in group.items() if k not in ("foreach", "fused")} for group in like.param_groups]
    return torch.optim.SGD(groups, fused=True)


def _state(step: TrainStep) -> list[Tensor]:
    momenta = [value for state in step.optimizer.state.values() for value in state.values() if value is not None]
    return [tensor.detach().clone() for tensor in (*step.model.parameters(), *momenta)]


def _poison(model: Detector) -> None:
    with torch.no_grad():
        model.roi_heads.box_predictor.cls_score.bias.fill_(math.nan)


def _same(a: list[Tensor], b: list[Tensor]) -> bool:
    """NaN is the same as NaN."""
    return len(a) == len(b) and all(torch.equal(x.nan_to_num(7), y.nan_to_num(7)) for x, y in zip(a, b))


@pytest.mark.parametrize("words", [(), _AMP, _HALF, ("SOLVER.CLIP_GRADIENTS.ENABLED", "True")])
def test_an_optimiser_that_guards_itself_learns_the_same_and_waits_for_nothing(words: tuple[str, ...]) -> None:
    plain, guarded = _step(*words), _step(*words, fused=True)
    assert not guards_itself(plain.optimizer)
    losses: list[list[float]] = [[], []]
    for number in range(3):
        for step, found in zip((plain, guarded), losses):
            step(_batch(), number)
            found += [numbers["loss"] for _, numbers in step.settled()]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    for mine, theirs in zip(plain.model.parameters(), guarded.model.parameters()):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-4)
    inputs = guarded._inputs(_batch(), 3)
    made = guarded._losses(guarded.net, inputs)
    # the network's own waiting is not this test's, nor is what the host makes of its own tensors
    guarded._losses, guarded._inputs = lambda *args: made, lambda *args: inputs
    with Asked() as asked:
        guarded(_batch(), 3)
    assert asked.names == []


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("words", [(), _AMP, _HALF])
def test_a_loss_that_is_not_finite_updates_nothing(words: tuple[str, ...], fused: bool) -> None:
    step = _step(*words, fused=fused)
    step(_batch(100), 0)
    assert [done for done, _ in step.settled()] == [1]
    _poison(step.model)
    before = _state(step)
    step(_batch(200), 1)
    assert _same(_state(step), before)
    said = r"not finite at step 1: loss_cls nan; images 200, 201; "
    cause = r"what roi_heads.box_predictor.cls_score puts out is the first that is not finite, in float32, too; lower"
    with pytest.raises(FailureError, match=said + (cause if words else "lower SOLVER")):
        list(step.settled())


@pytest.mark.parametrize("fused", [False, True])
def test_no_gradients_are_kept_while_the_next_step_makes_its_maps(fused: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    step = _step(fused=fused)
    step(_batch(), 0)
    losses_of = step._losses

    def looked(*args: Any) -> dict[str, Tensor]:
        assert all(p.grad is None for p in step.model.parameters())
        return losses_of(*args)

    monkeypatch.setattr(step, "_losses", looked)
    step(_batch(), 1)
    assert any(p.grad is not None for p in step.model.parameters())


def test_what_was_evaluated_before_a_fused_step_is_evaluated_anew_behind_it() -> None:
    step = _step("MODEL.RESNETS.NORM", "FrozenBN", "SOLVER.WARMUP_ITERS", "0", "SOLVER.BASE_LR", "0.05", fused=True)
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    trunk = step.model.backbone

    def maps() -> list[Tensor]:
        with torch.inference_mode():
            return list(trunk(pixels).values())

    maps()
    step(_batch(), 0)
    with torch.enable_grad():
        expected = [each.detach() for each in trunk(pixels).values()]
    for mine, theirs in zip(maps(), expected):
        torch.testing.assert_close(mine, theirs)


@pytest.mark.parametrize("words", [(), _HALF])
def test_a_first_step_whose_gradients_are_finite_and_whose_loss_is_not_leaves_no_momentum(
    words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    step = _step(*words, fused=True)
    learning = [p for group in step.optimizer.param_groups for p in group["params"]]
    assert len(step.optimizer.state) == len(learning)  # a fused first step would make momenta of no value
    monkeypatch.setattr(step, "_losses", lambda *_: {"loss_cls": sum(p.sum() for p in learning) + math.inf})
    before = _state(step)
    step(_batch(), 0)
    assert all(bool(p.grad.isfinite().all()) for p in learning) == (not words)
    assert _same(_state(step), before)


def test_what_float16_cannot_hold_is_named(tmp_path: Path, coco_overrides: list[str]) -> None:
    said = r"not finite at step 0: loss_.*; float16 cannot hold what backbone\.bottom_up\.res\d\.\d+.* puts out "
    with pytest.raises(
        FailureError, match=said + r"\(largest \d\.?\d*e\+0[45] in float32\); use SCALEPRIOR\.AMP_DTYPE bf"
    ):
        _train(tmp_path / "half", [*coco_overrides, *_HALF, *_FROZEN, "MODEL.RESNETS.DEPTH", "152"])
    assert not (tmp_path / "half" / "model.safetensors").exists()


def test_float16_is_scaled_and_resumed_to_the_bit(tmp_path: Path, coco_overrides: list[str]) -> None:
    words = [*coco_overrides, *_HALF, "SOLVER.CHECKPOINT_PERIOD", "3"]
    whole = _train(tmp_path / "whole", words)
    with pytest.raises(_Stop):
        _train(tmp_path / "part", words, stop_after=4)
    found = Checkpoints(tmp_path / "part").load()
    assert found is not None
    saved = found.state["scaler"]
    assert saved["scale"] < 2.0**16  # what it begins with: the gradients of a step were too large for it
    resumed = load_file(_train(tmp_path / "part", words, resume=True))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in load_file(whole).items())


def test_a_scale_of_nothing_ends_the_run(tmp_path: Path) -> None:
    step = _step(*_HALF)
    step.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**-17)
    step(_batch(), 0)
    with pytest.raises(FailureError, match=r"gradients of step 0 .* do not fit float16"):
        list(step.settled())


def test_float16_and_bfloat16_are_near_float32(tmp_path: Path, coco_overrides: list[str]) -> None:
    losses = []
    for number, words in enumerate(((), _AMP, _HALF)):
        _train(tmp_path / str(number), [*coco_overrides, *words, "SOLVER.MAX_ITER", "1"])
        losses.append(json.loads((tmp_path / str(number) / METRICS).read_text())["loss"])
    assert len(set(losses)) == 3
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert losses[2] == pytest.approx(losses[0], rel=0.003)  # 10 bits of mantissa instead of 7


class _Late(Pending[Any]):
    """As on a GPU: the newest step is read when the next was handed over."""

    def settled(self, *, all_of_them: bool = False) -> Iterator[tuple[Any, list[float]]]:
        self._cuda = True
        try:
            yield from super().settled(all_of_them=all_of_them)
        finally:
            self._cuda = False  # nothing is pinned without a GPU


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scaleprior.detect.faster_rcnn.step.Pending", _Late)


def test_a_run_whose_figures_are_late_is_the_same_run_and_saves_no_step_that_was_not_told(
    tmp_path: Path, coco_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "2"]
    whole = load_file(_train(tmp_path / "whole", words))
    monkeypatch.setattr("scaleprior.detect.faster_rcnn.step.Pending", _Late)
    told: list[int] = []
    saved: list[tuple[int, int]] = []
    save = Checkpoints.save

    def watched(self: Checkpoints, step: int, state: dict[str, Any]) -> None:
        saved.append((step, told[-1]))
        save(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", watched)
    loaded = tiny_config("FPN", words)
    model = get_engine("torchvision").train(
        loaded, None, tmp_path / "late", progress=lambda done, total, numbers: told.append(done)
    )
    assert told == [1, 2, 3, 4, 5, 6]
    assert saved == [(2, 2), (4, 4)]
    assert all(torch.equal(tensor, whole[name]) for name, tensor in load_file(model).items())
    assert (tmp_path / "late" / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()


@pytest.mark.usefixtures("late")
def test_sigterm_saves_the_step_that_was_handed_over(tmp_path: Path, coco_overrides: list[str]) -> None:
    told: list[int] = []

    def progress(done: int, total: int, numbers: Any) -> None:
        told.append(done)
        if done == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    loaded, engine = tiny_config("FPN", coco_overrides), get_engine("torchvision")
    with pytest.raises(Interrupted, match="after step 3 of 6"):
        engine.train(loaded, None, tmp_path, progress=progress)
    assert told == [1, 2, 3]
    engine.train(loaded, None, tmp_path, resume=True, progress=progress)
    assert told == [1, 2, 3, 4, 5, 6]


def test_lines_that_do_not_fit_are_all_kept(
    tmp_path: Path, coco_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*coco_overrides, "SOLVER.MAX_ITER", "21", "SOLVER.STEPS", "()"]
    _train(tmp_path / "whole", words)
    monkeypatch.setattr("scaleprior.detect.faster_rcnn.step.Pending", _Late)
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / METRICS).symlink_to("/dev/full")
    with pytest.raises(FailureError, match=r"cannot write .*metrics\.jsonl.*; the first 21 steps are saved"):
        _train(tmp_path / "part", words)
    (tmp_path / "part" / METRICS).unlink()
    _train(tmp_path / "part", words, resume=True)
    text = (tmp_path / "part" / METRICS).read_text()
    assert [json.loads(line)["step"] for line in text.splitlines()] == [20, 21]
    assert text == (tmp_path / "whole" / METRICS).read_text()


@pytest.mark.usefixtures("late")
@pytest.mark.parametrize("words", [(), _HALF])
def test_the_step_that_was_not_finite_is_named_when_the_next_was_handed_over(words: tuple[str, ...]) -> None:
    step = _step(*words, fused=True)
    step(_batch(100), 0)
    _poison(step.model)
    before = _state(step)
    step(_batch(200), 1)
    assert [done for done, _ in step.settled()] == [1]
    step(_batch(300), 2)
    assert _same(_state(step), before)
    with pytest.raises(FailureError, match=r"not finite at step 1: loss_cls nan; images 200, 201; "):
        list(step.settled())


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("words", [(), _AMP, (*_AMP, "SCALEPRIOR.AMP_DTYPE", "bfloat16")])
def test_on_a_gpu_the_step_that_was_not_finite_is_named_when_the_next_was_handed_over(words: tuple[str, ...]) -> None:
    step = _step(*words, device="cuda")
    assert guards_itself(step.optimizer)
    for number in range(3):
        step(_batch(), number)
    assert [done for done, _ in step.settled()] == [1, 2]
    assert [done for done, _ in step.settled(all_of_them=True)] == [3]
    _poison(step.model)
    before = _state(step)
    step(_batch(200), 3)
    assert list(step.settled()) == []
    step(_batch(300), 4)
    assert _same(_state(step), before)
    with pytest.raises(FailureError, match=r"not finite at step 3: loss_cls nan; images 200, 201; "):
        list(step.settled())


@GPU
@pytest.mark.gpu
@pytest.mark.parametrize("words", [_AMP, (*_AMP, "SCALEPRIOR.AMP_DTYPE", "bfloat16")])
def test_on_a_gpu_mixed_precision_trains_resumes_and_evaluates(
    tmp_path: Path, coco_overrides: list[str], words: tuple[str, ...]
) -> None:
    words = (*coco_overrides, *words, "MODEL.DEVICE", "cuda", "SOLVER.CHECKPOINT_PERIOD", "2")
    whole = _train(tmp_path / "whole", words)
    with pytest.raises(_Stop):
        _train(tmp_path / "part", words, stop_after=4)
    resumed = _train(tmp_path / "part", words, resume=True)
    rows = [[json.loads(line) for line in (tmp_path / name / METRICS).open()] for name in ("whole", "part")]
    assert rows[0][-1]["loss"] == pytest.approx(rows[1][-1]["loss"], rel=0.05)
    engine: Any = get_engine("torchvision")
    for model in (whole, resumed):
        (found,) = engine.evaluate(tiny_config("FPN", words), model, tmp_path / "e").values()
        assert math.isfinite(found.ap)
