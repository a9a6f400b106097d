"""Checkpoints: exact round trip, always one complete file, and nothing that executes."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scaleprior.errors import FailureError, UserError
from scaleprior.training.checkpoint import load_checkpoint, remove_checkpoint, restore_rng, rng_state, save_checkpoint
from scaleprior.training.seeds import seed_everything


def test_round_trip_of_every_kind(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    state = {
        "nested": {0: [torch.arange(3), (1, None, "text", True, float("inf"), 0.1)], "empty": {}},
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "none": torch.zeros(2, 0),
        "turned": torch.rand(3, 5, generator=torch.Generator().manual_seed(0)).t(),
        "half": torch.ones(3, dtype=torch.bfloat16),
    }
    save_checkpoint(path, state)
    loaded = load_checkpoint(path)
    assert list(loaded) == list(state)
    assert loaded["nested"][0][1] == state["nested"][0][1]
    assert loaded["nested"]["empty"] == {}
    for name in ("scalar", "none", "turned", "half"):
        assert loaded[name].dtype == state[name].dtype
        assert torch.equal(loaded[name], state[name])
    assert torch.equal(load_file(path)["0"], torch.arange(3))  # a plain safetensors file


def test_later_states_replace_earlier_ones_larger_or_smaller(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    for size in (5, 50, 1, 20, 0):
        save_checkpoint(path, {"x": torch.full((size,), float(size))})
        assert torch.equal(load_checkpoint(path)["x"], torch.full((size,), float(size)))
    remove_checkpoint(path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("call", ["open", "writev", "ftruncate", "link", "replace", "rename"])
def test_dying_at_any_call_leaves_a_complete_checkpoint(
    tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.safetensors"
    for step in (1, 2):
        save_checkpoint(path, {"step": step, "x": torch.full((9,), float(step))})

    class Death(BaseException):
        pass

    def die(*args: object, **kwargs: object) -> None:
        raise Death

    with monkeypatch.context() as patched:
        patched.setattr(os, call, die)
        with pytest.raises(Death):
            save_checkpoint(path, {"step": 3, "x": torch.full((9,), 3.0)})
    state = load_checkpoint(path)
    assert state["step"] == (3 if call == "rename" else 2)
    assert torch.equal(state["x"], torch.full((9,), float(state["step"])))
    for step in (4, 5, 6):  # and the next start goes on, whatever lies about
        save_checkpoint(path, {"step": step})
        assert load_checkpoint(path)["step"] == step


def test_full_disk_is_a_failure_and_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"step": 1})

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "writev", full)
        with pytest.raises(FailureError, match=r"cannot write .*c.safetensors: No space left on device"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_short_writes_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "writev", lambda descriptor, buffers: os.write(descriptor, buffers[0][:7]))
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"x": torch.arange(40), "y": torch.arange(3)})
    assert torch.equal(load_checkpoint(path)["x"], torch.arange(40))


def test_somebodys_hard_link_is_not_overwritten(tmp_path: Path) -> None:
    path, backup = tmp_path / "c.safetensors", tmp_path / "backup"
    save_checkpoint(path, {"step": 1})
    os.link(path, backup)
    for step in (2, 3, 4):
        save_checkpoint(path, {"step": step})
    assert load_checkpoint(backup) == {"step": 1}


def test_what_cannot_be_saved_or_loaded(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    with pytest.raises(TypeError, match="cannot save a set"):
        save_checkpoint(path, {"x": {1}})
    with pytest.raises(TypeError, match=r"keys are str or int, got \[\(1, 2\)\]"):
        save_checkpoint(path, {(1, 2): 3})
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="checkpoint not found"):
        load_checkpoint(path)
    path.write_bytes(b"junk")
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(path)
    save_checkpoint(path, {"x": torch.zeros(9)})
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(UserError, match="cannot be read"):
        load_checkpoint(path)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    seed_everything(3)
    save_checkpoint(tmp_path / "c", rng_state())
    expected = (random.random(), torch.rand(3).tolist())
    seed_everything(4)
    restore_rng(load_checkpoint(tmp_path / "c"))
    assert (random.random(), torch.rand(3).tolist()) == expected
