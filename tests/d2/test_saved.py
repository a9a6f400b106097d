"""Detectron2's checkpoints: a damaged one is passed over for the one before it, and a power cut harms none."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.weights import checkpointer as checkpointer_module
from scaleprior.d2.weights.checkpoint import EXTRA_KEY
from scaleprior.d2.weights.checkpointer import TrainerCheckpointer
from scaleprior.d2.weights.saved import POINTER, checkpoint_in, damage_to
from scaleprior.errors import FailureError
from tests.d2.conftest import backbone_file, tiny
from tests.d2.test_engine import same
from tests.limits import leave_descriptors, limits_kept
from tests.powercut import Recorder


def save(folder: Path, step: int, run: str = "a") -> Path:
    path = folder / f"model_{step:07d}.pth"
    torch.save({"model": {"w": torch.full((300,), float(step))}, EXTRA_KEY: json.dumps({"fingerprint": run})}, path)
    (folder / POINTER).write_text(path.name)
    return path


def flipped(path: Path) -> None:
    """One bit of the tensor, which torch does not notice."""
    with zipfile.ZipFile(path) as file:
        (record,) = (each for each in file.infolist() if each.filename.endswith("data/0"))
    data = bytearray(path.read_bytes())
    data[record.header_offset + 30 + len(record.filename) + 600] ^= 1
    path.write_bytes(data)
    assert torch.load(path, weights_only=True)["model"]["w"].shape == (300,)


def compressed(path: Path) -> None:
    """A record that grows to a thousand times its size when it is read."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("model/data/0", b"\0" * 10**6)


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped bit": (flipped, "data/0 differs from its checksum"),
    "truncated": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "not a zip file"),
    "empty": (lambda path: path.write_bytes(b""), "not a zip file"),
    "zeros": (lambda path: path.write_bytes(b"\0" * path.stat().st_size), "not a zip file"),
    "gone": (Path.unlink, "it is not there"),
    "a folder": (lambda path: (path.unlink(), path.mkdir()), "it is not there"),
    "compressed": (compressed, "compressed"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_one_is_passed_over_and_one_warning_says_so(
    damage: str, tmp_path: Path, said: Callable[[str], list[str]]
) -> None:
    for step in (3, 5, 7):
        save(tmp_path, step)
    save(tmp_path, 9, "of another run")  # later than what the pointer names: of a course that was given up
    (tmp_path / POINTER).write_text("model_0000007.pth")
    harm, reason = DAMAGES[damage]
    harm(tmp_path / "model_0000007.pth")
    save(tmp_path, 5, "b")
    (tmp_path / POINTER).write_text("model_0000007.pth")
    assert checkpoint_in(tmp_path, "a", tell=True) == tmp_path / "model_0000003.pth"
    (told,) = said("")
    assert told.startswith(f"going on from {tmp_path}/model_0000003.pth, because model_0000007.pth is damaged: ")
    assert reason in told
    assert checkpoint_in(tmp_path, "c", tell=True) is None
    (told,) = said("")
    assert told.startswith(f"beginning anew in {tmp_path}, because model_0000007.pth is damaged: ")


@pytest.mark.parametrize("pointer", [b"", b"\0" * 17, b"\xff\xfe", b"../../model_0000009.pth"])
def test_a_pointer_that_names_nothing_costs_nothing(pointer: bytes, tmp_path: Path) -> None:
    assert checkpoint_in(tmp_path, "a") is None
    for step in (3, 5):
        save(tmp_path, step)
    (tmp_path / POINTER).write_bytes(pointer)
    assert checkpoint_in(tmp_path, "a") == tmp_path / "model_0000005.pth"


def test_what_cannot_be_checked_is_taken_and_what_cannot_be_read_now_is_no_damage(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(3)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert damage_to(tmp_path / "old.pth") == ""
    path = save(tmp_path, 1)
    assert damage_to(path) == ""
    with limits_kept(7):  # RLIMIT_NOFILE
        leave_descriptors(0)
        with pytest.raises(FailureError, match=r"0001.pth cannot be read now: Too many open files; mend that"):
            damage_to(path)
    assert damage_to(path) == ""


def test_a_run_goes_on_from_the_one_before_and_ends_with_the_same_bits(
    tmp_path: Path, coco: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Two are kept; where both are damaged it begins anew. At its end the model alone is left."""
    backbone_file(tmp_path / "w.safetensors")
    loaded, engine = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "1"]), Detectron2Engine()
    whole = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "whole")
    out = tmp_path / "run"

    def resumed(until: int) -> list[int]:
        """The steps that are made before the run is killed."""
        steps: list[int] = []

        def die(done: int, total: int, numbers: Any) -> None:
            steps.append(done)
            if done == until:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.train(loaded, tmp_path / "w.safetensors", out, resume=True, progress=die)
        return steps

    assert resumed(until=4) == [1, 2, 3, 4]
    assert sorted(path.name for path in out.glob("model_*")) == ["model_0000002.pth", "model_0000003.pth"]
    save(out, 0, "of an earlier run")
    (out / POINTER).write_text("model_0000003.pth")
    cut = DAMAGES["truncated"][0]
    cut(out / "model_0000003.pth")
    assert resumed(until=4) == [4]
    for path in out.glob("model_000000[23].pth"):
        cut(path)
    assert resumed(until=2) == [1, 2]
    assert same(engine.train(loaded, tmp_path / "w.safetensors", out, resume=True), whole)
    assert [path.name for path in out.glob("model_*")] == ["model_final.pth"]


def test_on_a_full_disk_an_older_one_gives_way(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone_file(tmp_path / "w.safetensors")
    fsync, out = os.fsync, tmp_path / "run"

    def flush(descriptor: int) -> None:
        if ".pth" in os.readlink(f"/proc/self/fd/{descriptor}") and len(list(out.glob("model_0*"))) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    loaded = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "1"])
    model = Detectron2Engine().train(loaded, tmp_path / "w.safetensors", out)
    assert damage_to(model) == ""


@pytest.mark.slow
def test_power_cuts(
    tmp_path: Path, coco: list[str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As of a pretraining (``tests/pretrain/test_power_cut.py``); every tenth is run to its end."""
    backbone_file(tmp_path / "w.safetensors")
    loaded, engine = tiny("FPN", [*coco, "SOLVER.CHECKPOINT_PERIOD", "1"]), Detectron2Engine()
    (tmp_path / "disk").mkdir()
    recorder, sure, save = Recorder(tmp_path / "disk"), {0: -1}, TrainerCheckpointer.save

    def noted(self: TrainerCheckpointer, name: str, **kwargs: Any) -> None:
        save(self, name, **kwargs)
        sure[len(recorder.log)] = kwargs["iteration"]

    with monkeypatch.context() as patched, recorder.recording(monkeypatch) as log:
        patched.setattr(checkpointer_module.TrainerCheckpointer, "save", noted)
        whole = engine.train(loaded, tmp_path / "w.safetensors", tmp_path / "disk" / "run")
    fingerprint = json.loads((tmp_path / "disk" / "run" / "run.json").read_text())["fingerprint"]
    draw = random.Random(0)
    caplog.set_level(logging.WARNING)
    for number in range(50):
        length = draw.randint(1, len(log))
        log.after_a_cut(length, draw, tmp_path / str(number))
        run, step = tmp_path / str(number) / "run", -1
        found = checkpoint_in(run, fingerprint, tell=True)
        if found is not None:
            assert log.ever_held(found.read_bytes()), f"cut {number}: a state that nobody saved"
            step = torch.load(found, weights_only=True)["iteration"]
        assert step >= max(at for when, at in sure.items() if when <= length), f"cut {number}: after {length} calls"
        if number % 10 == 0:
            assert same(engine.train(loaded, tmp_path / "w.safetensors", run, resume=True), whole)
    assert not [record for record in caplog.records if "is damaged" in record.getMessage()]
