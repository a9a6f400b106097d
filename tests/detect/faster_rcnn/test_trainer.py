"""Training: determinism, resuming to the bit after a kill, stopping on SIGTERM and on a loss that is not finite."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from safetensors.torch import load_file

from scaleprior.detect import get_engine
from scaleprior.detect.faster_rcnn.trainer import METRICS
from scaleprior.errors import FailureError, UserError
from scaleprior.training.checkpoint import save_checkpoint
from scaleprior.training.checkpoints import Checkpoints, SavedState
from scaleprior.training.signals import Interrupted
from tests import processes
from tests.detect.conftest import TINY_FPN, data_overrides, make_coco, tiny_config

_RUN = """
import sys, torch
from dataclasses import replace
from pathlib import Path
from scaleprior.config import load_config
from scaleprior.detect import get_engine
torch.set_num_threads(1)
out, *overrides = sys.argv[1:]
def progress(done, total, numbers):
    print(done, flush=True)
get_engine("torchvision").train(
    load_config("COCO-Detection/Base-RCNN-FPN.yaml", overrides), None, Path(out), resume=True, progress=progress)
"""


class _Stop(Exception):
    """Stands in for a kill within the process."""


def _train(out: Path, overrides: list[str], *, stop_after: int | None = None, resume: bool = False) -> Path:
    def progress(done: int, total: int, numbers: Any) -> None:
        if done == stop_after:
            raise _Stop

    return get_engine("torchvision").train(tiny_config("FPN", overrides), None, out, resume=resume, progress=progress)


def _same(a: Path, b: Path) -> bool:
    x, y = load_file(a), load_file(b)
    return x.keys() == y.keys() and all((x[k] == y[k]).all() for k in x)


def newest(folder: Path) -> SavedState:
    found = Checkpoints(folder).load()
    assert found is not None
    return found


def test_same_seed_same_bits_and_same_results(tmp_path: Path, coco_overrides: list[str]) -> None:
    models = [_train(tmp_path / name, coco_overrides) for name in ("a", "b")]
    assert _same(*models)
    other = _train(tmp_path / "c", [*coco_overrides, "SEED", "4"])
    assert not _same(models[0], other)
    engine, loaded = get_engine("torchvision"), tiny_config("FPN", coco_overrides)
    (one,), (two,) = (engine.evaluate(loaded, model, tmp_path / "e").values() for model in models)
    assert replace(one, seconds=0.0) == replace(two, seconds=0.0)


def test_interrupted_and_resumed_ends_with_the_same_bits(tmp_path: Path, coco_overrides: list[str]) -> None:
    overrides = [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "2"]
    whole = _train(tmp_path / "whole", overrides)
    with pytest.raises(_Stop):
        _train(tmp_path / "part", overrides, stop_after=5)
    assert [path.name for path in Checkpoints(tmp_path / "part").paths()] == [
        "checkpoint_0000004.safetensors",
        "checkpoint_0000002.safetensors",
    ]
    with (tmp_path / "part" / METRICS).open("a") as file:  # of steps that the checkpoint does not have, and cut off
        file.write('{"step": 5, "loss": 0.0}\n{"step": 6, "lo')
    seen = []
    resumed = get_engine("torchvision").train(
        tiny_config("FPN", overrides), None, tmp_path / "part", resume=True, progress=lambda d, t, n: seen.append(d)
    )
    assert seen == [5, 6]  # the last checkpoint was after step 4
    assert _same(whole, resumed)
    assert Checkpoints(tmp_path / "part").paths() == []
    rows = [[json.loads(line) for line in (tmp_path / n / METRICS).open()] for n in ("whole", "part")]
    assert rows[0] == rows[1]
    assert rows[0][-1]["step"] == 6


@pytest.mark.parametrize("one_file", [False, True])
def test_a_damaged_checkpoint_and_the_one_file_of_before_end_with_the_same_bits(
    tmp_path: Path, coco_overrides: list[str], one_file: bool, caplog: pytest.LogCaptureFixture
) -> None:
    overrides = [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "1"]
    whole, part = _train(tmp_path / "whole", overrides), tmp_path / "part"
    with pytest.raises(_Stop):
        _train(part, overrides, stop_after=4)
    last, before = Checkpoints(part).paths()
    if one_file:
        before.rename(part / "checkpoint.safetensors")
        last.unlink()
    else:
        last.write_bytes(last.read_bytes()[:-9])
    steps: list[int] = []
    resumed = get_engine("torchvision").train(
        tiny_config("FPN", overrides), None, part, resume=True, progress=lambda done, total, numbers: steps.append(done)
    )
    assert steps == [3, 4, 5, 6]
    assert _same(whole, resumed)
    said = [record.getMessage() for record in caplog.records if "checkpoint" in record.getMessage()]
    assert len(said) == (0 if one_file else 1)
    assert one_file or said[0].startswith(f"going on from {before}, because {last.name} is damaged: ")


def test_a_line_of_figures_that_does_not_fit_is_kept_with_the_state(tmp_path: Path, coco_overrides: list[str]) -> None:
    whole, part = _train(tmp_path / "whole", coco_overrides), tmp_path / "part"
    part.mkdir()
    (part / METRICS).symlink_to("/dev/full")
    said = r"cannot write .*metrics\.jsonl: No space left on device .*; the first 6 steps are saved: free space and"
    with pytest.raises(FailureError, match=said):
        _train(part, coco_overrides)
    (part / METRICS).unlink()
    resumed = _train(part, coco_overrides, stop_after=1, resume=True)  # no step is left
    assert _same(whole, resumed)
    assert (part / METRICS).read_text() == (tmp_path / "whole" / METRICS).read_text()


def test_a_model_that_does_not_fit_is_written_when_it_does(
    tmp_path: Path, coco_overrides: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fsync = _train(tmp_path / "whole", coco_overrides), os.fsync

    def flush(descriptor: int) -> None:
        if "model.safetensors" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    overrides = [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "2"]
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", flush)
        with pytest.raises(
            FailureError, match=r"cannot write .*model.* needed, .* from checkpoint_0000004\.safetensors"
        ):
            _train(tmp_path / "part", overrides)
    assert _same(whole, _train(tmp_path / "part", overrides, resume=True))


def test_a_killed_process_goes_on_where_it_was(tmp_path: Path) -> None:
    overrides = [
        *data_overrides(*make_coco(tmp_path / "data")),
        "SOLVER.CHECKPOINT_PERIOD",
        "1",
        "SOLVER.MAX_ITER",
        "30",
    ]
    command = [sys.executable, "-c", _RUN, str(tmp_path / "killed"), *TINY_FPN, *overrides]
    with processes.start(command, stderr=None) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 8:
                process.send_signal(signal.SIGKILL)
                break
    done = processes.run(command, check=True)
    first = int(done.stdout.split()[0])
    assert first >= 8  # at most the step in progress was lost
    whole = _train(tmp_path / "whole", overrides)
    assert _same(whole, tmp_path / "killed" / "model.safetensors")


def test_sigterm_saves_and_says_so(tmp_path: Path, coco_overrides: list[str]) -> None:
    def progress(done: int, total: int, numbers: Any) -> None:
        if done == 3:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.01)

    loaded = tiny_config("FPN", coco_overrides)
    with pytest.raises(Interrupted, match="after step 3 of 6") as caught:
        get_engine("torchvision").train(loaded, None, tmp_path / "part", progress=progress)
    assert caught.value.exit_code == 143
    assert _same(_train(tmp_path / "part", coco_overrides, resume=True), _train(tmp_path / "whole", coco_overrides))


def _remove(image: Path) -> None:
    image.unlink()


def _cut(image: Path) -> None:
    image.write_bytes(image.read_bytes()[:-200])


def _shrink(image: Path) -> None:
    cv2.imwrite(str(image), np.zeros((8, 8, 3), np.uint8))


@pytest.mark.parametrize("damage", [_remove, _cut, _shrink])
@pytest.mark.parametrize("threads", ["0", "2"])
def test_an_image_that_goes_bad_loses_no_step(tmp_path: Path, damage: Callable[[Path], None], threads: str) -> None:
    overrides = [
        *data_overrides(*make_coco(tmp_path / "data")),
        *("SCALEPRIOR.IMAGE_CACHE_MB", "0", "DATALOADER.NUM_WORKERS", threads, "SOLVER.MAX_ITER", "9"),
    ]
    images = tmp_path / "data" / "images"
    sound = {image: image.read_bytes() for image in images.iterdir()}
    whole = _train(tmp_path / "whole", overrides)
    steps = []

    def progress(done: int, total: int, numbers: Any) -> None:
        steps.append(done)
        if done == 2:
            for image in images.iterdir():
                damage(image)

    loaded = tiny_config("FPN", overrides)
    with pytest.raises(
        UserError, match=r"image .*; the (\d) steps before it are saved: .* with resume=True$"
    ) as caught:
        get_engine("torchvision").train(loaded, None, tmp_path / "part", progress=progress)
    assert f"the {steps[-1]} steps before it are saved" in str(caught.value)
    assert caught.value.exit_code == 2
    assert newest(tmp_path / "part").state["step"] == steps[-1] < 9
    for image, data in sound.items():
        image.write_bytes(data)
    resumed = get_engine("torchvision").train(
        loaded, None, tmp_path / "part", resume=True, progress=lambda done, total, numbers: steps.append(done)
    )
    assert steps == [*range(1, 10)]
    assert _same(whole, resumed)


def test_an_image_that_is_bad_from_the_first_step_leaves_no_checkpoint(tmp_path: Path) -> None:
    path, root = make_coco(tmp_path / "data")
    for image in root.iterdir():
        _cut(image)
    with pytest.raises(UserError, match=r"image 00\d\.png: .*; replace the file$"):
        _train(tmp_path / "out", data_overrides(path, root))
    assert Checkpoints(tmp_path / "out").paths() == []


def test_a_finished_run_is_not_repeated_and_another_is_refused(tmp_path: Path, coco_overrides: list[str]) -> None:
    model = _train(tmp_path, coco_overrides)
    written = model.stat().st_mtime_ns
    assert _train(tmp_path, coco_overrides, stop_after=1, resume=True) == model
    assert model.stat().st_mtime_ns == written
    with pytest.raises(_Stop):
        _train(tmp_path / "x", [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "1"], stop_after=2)
    with pytest.raises(UserError, match="holds a run with another config"):
        _train(tmp_path / "x", [*coco_overrides, "SOLVER.BASE_LR", "0.02"], resume=True)
    checkpoint, state = newest(tmp_path / "x")  # as versions wrote it whose trunks had other names
    state["model"] = {name.replace("trunk.body.", "trunk."): tensor for name, tensor in state["model"].items()}
    save_checkpoint(checkpoint, state)
    with pytest.raises(UserError, match=r"written by another version: RuntimeError: .*remove the file to start"):
        _train(tmp_path / "x", [*coco_overrides, "SOLVER.CHECKPOINT_PERIOD", "1"], resume=True)


def test_a_loss_that_is_not_finite_names_step_and_images(tmp_path: Path, coco_overrides: list[str]) -> None:
    with pytest.raises(FailureError, match=r"not finite at step \d: loss_.*; images 10\d, 10\d; lower SOLVER\.BASE_LR"):
        _train(tmp_path, [*coco_overrides, "SOLVER.BASE_LR", "1e20", "SOLVER.WARMUP_ITERS", "0"])
    assert not (tmp_path / "model.safetensors").exists()


def test_mixed_precision_is_near_full_precision(tmp_path: Path, coco_overrides: list[str]) -> None:
    losses = []
    for number, amp in enumerate(("False", "True")):
        _train(tmp_path / str(number), [*coco_overrides, "SOLVER.AMP.ENABLED", amp, "SOLVER.MAX_ITER", "1"])
        losses.append(json.loads((tmp_path / str(number) / METRICS).read_text())["loss"])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


def test_the_loss_falls(tmp_path: Path, coco_overrides: list[str]) -> None:
    losses = []
    settings = {"MAX_ITER": 40, "STEPS": (), "BASE_LR": 0.02, "IMS_PER_BATCH": 6}
    words = [word for key, value in settings.items() for word in (f"SOLVER.{key}", str(value))]
    clip = ["SOLVER.CLIP_GRADIENTS.ENABLED", "True", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "norm"]
    loaded = tiny_config("FPN", [*coco_overrides, *words, *clip])
    get_engine("torchvision").train(loaded, None, tmp_path, progress=lambda d, t, n: losses.append(n["loss"]))
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
