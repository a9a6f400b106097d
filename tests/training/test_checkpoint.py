"""Checkpoints: exact round trip, always one complete file, and nothing that executes."""

from __future__ import annotations

import json
import os
import random
import resource
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from scaleprior.errors import FailureError, UserError
from scaleprior.training import checkpoint
from scaleprior.training.checkpoint import load_checkpoint, restore_rng, rng_state, save_checkpoint
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
    plain = load_file(path)  # a safetensors file as any other
    assert torch.equal(plain["int64"], torch.arange(3))
    assert plain["float32"].tolist() == state["turned"].reshape(-1).tolist()


def test_what_comes_from_a_gpu_in_pieces_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of any shapes and orders in memory, none at all and more than a piece holds."""
    draw = torch.Generator().manual_seed(0)
    tensors = [torch.rand(shape, generator=draw) for shape in ((3,), (), (0,), (40, 2), (2, 2), (5, 3, 2, 2))]
    tensors[-1] = tensors[-1].contiguous(memory_format=torch.channels_last)
    expected = [value for tensor in tensors for value in tensor.flatten().tolist()]
    for piece in (1, 17, 10**6):
        monkeypatch.setattr(checkpoint, "_PIECE", piece)
        assert checkpoint._fetch(tensors).tolist() == expected
    assert checkpoint._fetch([torch.zeros(0)]).tolist() == []


@pytest.mark.gpu
def test_a_state_on_a_gpu(tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    there = {"x": torch.rand(300, 7, device="cuda"), "y": torch.arange(3), "half": torch.rand(9, device="cuda").half()}
    save_checkpoint(tmp_path / "c", {**there, "own": there["x"].cpu()})
    loaded = load_checkpoint(tmp_path / "c")
    assert all(torch.equal(loaded[name], value.cpu()) for name, value in there.items())
    assert torch.equal(loaded["own"], there["x"].cpu())


def test_equal_states_make_equal_files(tmp_path: Path) -> None:
    for name in "abcdef":
        save_checkpoint(tmp_path / name, {"x": torch.arange(3.0), "y": torch.arange(3), "z": torch.ones(2).half()})
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_later_states_replace_earlier_ones_larger_or_smaller(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    for size in (5, 50, 1, 20, 0):
        save_checkpoint(path, {"x": torch.full((size,), float(size))})
        assert torch.equal(load_checkpoint(path)["x"], torch.full((size,), float(size)))
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


@pytest.mark.parametrize("call", ["open", "fsync", "replace"])
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
    assert state["step"] == 2
    assert torch.equal(state["x"], torch.full((9,), 2.0))
    save_checkpoint(path, {"step": 4})
    assert load_checkpoint(path)["step"] == 4


def test_it_is_on_the_disk_before_it_takes_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave the new name with no content behind it."""
    flushed: list[int] = []
    replace, fsync = os.replace, os.fsync

    def record(descriptor: int) -> None:
        flushed.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def check(source: Path, target: Path) -> None:
        assert source.stat().st_ino in flushed
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "replace", check)
    save_checkpoint(tmp_path / "c.safetensors", {"x": torch.zeros(3)})
    assert (tmp_path / "c.safetensors").stat().st_ino in flushed


def test_full_disk_is_a_failure_and_keeps_the_old_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.safetensors"
    save_checkpoint(path, {"step": 1})

    def full(*args: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(FailureError, match=r"cannot write .*c.safetensors: No space left on device"):
            save_checkpoint(path, {"step": 2})
    assert load_checkpoint(path) == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_a_file_that_may_not_grow_is_a_failure_too(tmp_path: Path) -> None:
    """The system itself refuses the write, within safetensors, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    save_checkpoint(tmp_path / "c.safetensors", {"step": 1})
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(FailureError, match=r"cannot write .*c\.safetensors: .*File too large"):
            save_checkpoint(tmp_path / "c.safetensors", {"x": torch.zeros(10_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(tmp_path / "c.safetensors") == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]


def test_every_flipped_byte_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "c.safetensors"
    state = {"step": 7, "name": "a run", "x": torch.arange(5.0), "y": torch.arange(3)}
    save_checkpoint(path, state)
    whole = path.read_bytes()
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 1
        path.write_bytes(data)
        try:
            found = load_checkpoint(path)
        except UserError:
            continue
        # Padding in the header, and letters of its own words whose case does not matter.
        assert (found["step"], found["name"]) == (7, "a run"), at
        assert torch.equal(found["x"], state["x"]), at
        assert torch.equal(found["y"], state["y"]), at


def test_files_of_the_first_format_are_still_read(tmp_path: Path) -> None:
    """A finished run's head may be one; there each tensor lies under its number."""
    path = tmp_path / "head.safetensors"
    tree = ["dict", [["label_space", "f"], ["head", ["dict", [["weight", ["tensor", 0]], ["bias", ["tensor", 1]]]]]]]
    save_file({"0": torch.ones(2, 3), "1": torch.arange(2)}, path, metadata={"scaleprior.state": json.dumps(tree)})
    state = load_checkpoint(path)
    assert state["label_space"] == "f"
    assert torch.equal(state["head"]["weight"], torch.ones(2, 3))
    assert torch.equal(state["head"]["bias"], torch.arange(2))


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
