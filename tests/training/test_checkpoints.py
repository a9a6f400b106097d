"""The last K checkpoints: one whole one at any instruction, and a damaged one is passed over."""

from __future__ import annotations

import errno
import logging
import os
import re
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from scaleprior.errors import FailureError
from scaleprior.training.checkpoint import save_checkpoint
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.memory import is_out_of_memory
from tests.limits import leave_descriptors, limits_kept


def state(step: int) -> dict:
    return {"step": step, "x": torch.full((9,), float(step))}


def step_of(folder: Path, keep: int = 2) -> int:
    found = Checkpoints(folder, keep=keep).load()
    assert found is not None
    assert torch.equal(found.state["x"], state(found.state["step"])["x"])
    return found.state["step"]


def names(folder: Path) -> list[str]:
    return sorted(path.name.removeprefix("checkpoint").removesuffix(".safetensors") for path in folder.iterdir())


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_are_kept_and_the_newest_is_loaded(tmp_path: Path, keep: int) -> None:
    checkpoints = Checkpoints(tmp_path / "run", keep=keep)
    assert checkpoints.load() is None
    for step in (1, 9, 10, 12_345_678):  # by their numbers, not by their letters
        checkpoints.save(step, state(step))
        assert step_of(tmp_path / "run") == step
    assert names(tmp_path / "run") == ["_0000001", "_0000009", "_0000010", "_12345678"][-keep:]
    checkpoints.remove()
    assert checkpoints.load() is None
    assert names(tmp_path / "run") == []


def test_the_one_file_of_earlier_versions_is_gone_on_with_and_then_the_oldest(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "checkpoint.safetensors", state(7))
    (tmp_path / "checkpoint_best.safetensors").write_text("another's")
    checkpoints = Checkpoints(tmp_path)
    assert step_of(tmp_path) == 7
    checkpoints.save(8, state(8))
    assert names(tmp_path) == ["", "_0000008", "_best"]
    checkpoints.save(9, state(9))
    assert names(tmp_path) == ["_0000008", "_0000009", "_best"]


def test_what_is_of_later_steps_goes_with_the_next_save(tmp_path: Path) -> None:
    """A run that began anew in the folder of another: the other's last checkpoint must not be taken for its own."""
    for step in (5, 6):
        Checkpoints(tmp_path).save(step, state(step))
    Checkpoints(tmp_path).save(2, state(2))
    assert names(tmp_path) == ["_0000002"]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def no_json(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b'[\\"dict\\"', b'[\\"dict\\\\ '))


def foreign(path: Path) -> None:
    safetensors.torch.save_file({"x": torch.zeros(3)}, path)


def nested(path: Path) -> None:
    """Of the format without a hash, whose text may say anything."""
    safetensors.torch.save_file(
        {"0": torch.zeros(3)}, path, metadata={"scaleprior.state": '["dict", [[0, ["list", 3]]]]'}
    )


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "truncated": (truncated, "incomplete metadata"),
    "a flipped bit": (flipped, "differs from the hash"),
    "empty": (lambda path: path.write_bytes(b""), ""),
    "junk": (lambda path: path.write_bytes(b"junk" * 100), ""),
    "no JSON": (no_json, ""),
    "foreign": (foreign, "not a checkpoint of scaleprior"),
    "nonsense": (nested, ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_falls_back_and_says_so_once(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    for step in (1, 2, 3):
        Checkpoints(tmp_path, keep=3).save(step, state(step))
    harm, reason = DAMAGES[damage]
    harm(tmp_path / "checkpoint_0000003.safetensors")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    checkpoints = Checkpoints(tmp_path)
    found = checkpoints.load()
    assert found is not None
    assert found.state["step"] == 2
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    said = record.getMessage()
    assert said.startswith(f"going on from {tmp_path}/checkpoint_0000002.safetensors, because checkpoint_0000003")
    assert reason in said
    assert len(said.splitlines()) == 1
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}
    caplog.clear()
    assert checkpoints.load(tell=False) is not None
    assert not caplog.records
    # the damaged one goes with the next save, even where that is of an earlier step; the sound one stays
    checkpoints.save(4, state(4))
    assert names(tmp_path) == ["_0000002", "_0000004"]


def test_all_damaged_begins_anew_and_one_warning_names_each(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, state(step))
    flipped(tmp_path / "checkpoint_0000001.safetensors")
    (tmp_path / "checkpoint_0000002.safetensors").write_bytes(b"")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    (record,) = caplog.records
    said = record.getMessage()
    assert said.startswith(f"beginning anew in {tmp_path}, because checkpoint_0000002.safetensors is damaged: ")
    assert "checkpoint_0000001.safetensors is damaged: its content differs from the hash in it" in said
    assert (record.levelno, len(said.splitlines())) == (logging.WARNING, 1)
    assert names(tmp_path) == ["_0000001", "_0000002"]  # until the run that begins anew has one
    checkpoints.save(1, state(1))
    assert names(tmp_path) == ["_0000001"]
    assert step_of(tmp_path) == 1


def test_damaged_ones_give_way_to_the_first_of_a_run_that_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, state(step))
        flipped(tmp_path / f"checkpoint_000000{step}.safetensors")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    with monkeypatch.context() as patched:
        filled(tmp_path, patched, room=1)
        checkpoints.save(3, state(3))
    assert step_of(tmp_path) == 3


def no_descriptors() -> None:
    leave_descriptors(0)


def one_descriptor() -> None:
    """A file can be opened, and what is opened on the way to its content cannot."""
    leave_descriptors(1)


def no_rights() -> None:
    os.seteuid(65534)


def no_memory() -> None:
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (4 << 20), resource.getrlimit(resource.RLIMIT_AS)[1]))


@pytest.mark.parametrize("short", [no_descriptors, one_descriptor, no_rights, no_memory])
def test_what_cannot_be_read_now_is_not_taken_for_damaged(tmp_path: Path, short: Callable[[], None]) -> None:
    """The run would begin anew, and in the end remove a whole checkpoint."""
    if short is no_rights and os.geteuid():
        pytest.skip("only root may become another")
    numbers = torch.arange(6_000_000 if short is no_memory else 9)
    for step in (1, 2):
        Checkpoints(tmp_path).save(step, {"step": step, "x": numbers})
    for path in tmp_path.iterdir():
        path.chmod(0o600)
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(0o755)
    Checkpoints(tmp_path).load()  # what is imported on the way needs descriptors and memory of its own
    with limits_kept(resource.RLIMIT_NOFILE, resource.RLIMIT_AS):
        try:
            short()
            with pytest.raises((FailureError, MemoryError, RuntimeError)) as refused:
                Checkpoints(tmp_path).load()
        finally:
            os.seteuid(os.getuid())
    if isinstance(refused.value, FailureError):
        said = (
            r"(checkpoint .*0002.safetensors cannot be read now|cannot read .*): (Too many|Permission|Cannot).*; mend"
        )
        assert re.match(said, str(refused.value))
    else:
        assert is_out_of_memory(refused.value)
    found = Checkpoints(tmp_path).load()
    assert found is not None
    assert found.state["step"] == 2


class Death(BaseException):
    """kill -9, as far as a process can imitate it on itself."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, bool], None]]:
    """``dying(n, after)``: the n-th call to the file system does not come, or comes and is the last."""
    left: list = [None, False]

    def mortal(module: object, name: str) -> None:
        real = getattr(module, name)

        def call(*args: object, **kwargs: object) -> object:
            if left[0] is None:
                return real(*args, **kwargs)
            left[0] -= 1
            if left[0] > 0:
                return real(*args, **kwargs)
            if left[0] == 0 and left[1]:
                real(*args, **kwargs)
            raise Death

        monkeypatch.setattr(module, name, call)

    for name in ("open", "close", "mkdir", "fsync", "chmod", "replace", "rename", "unlink", "remove"):
        mortal(os, name)
    mortal(safetensors.torch, "save_file")

    def arm(count: int | None, after: bool = False) -> None:
        left[:] = [count, after]

    yield arm
    left[0] = None


@pytest.mark.parametrize("keep", [1, 2, 3])
@pytest.mark.parametrize("old", [True, False])
def test_dying_at_any_call_leaves_a_whole_checkpoint(tmp_path: Path, dying: Callable, keep: int, old: bool) -> None:
    def begin(folder: Path) -> Checkpoints:
        checkpoints = Checkpoints(folder, keep=keep)
        if old:
            folder.mkdir()
            save_checkpoint(folder / "checkpoint.safetensors", state(1))
        for step in range(1 + old, keep + 2):
            checkpoints.save(step, state(step))
        return checkpoints

    survived = 0
    for after in (False, True):
        for count in range(1, 100):
            folder = tmp_path / f"{after}-{count}"
            checkpoints = begin(folder)
            dying(count, after)
            try:
                checkpoints.save(keep + 2, state(keep + 2))
            except Death:
                dying(None)
            else:
                dying(None)
                break
            survived += 1
            assert step_of(folder) in (keep + 1, keep + 2)
            begun = Checkpoints(folder, keep=keep)
            begun.save(keep + 2, state(keep + 2))
            assert step_of(folder) == keep + 2
            assert sum(path.name.startswith("checkpoint") for path in folder.iterdir()) <= keep
            shutil.rmtree(folder)
        else:
            raise AssertionError("the save never came to its end")
    assert survived >= 2 * 7  # making, writing, chmod, flushing, renaming, the folder, removing


def test_a_new_name_is_on_the_disk_before_an_old_one_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or a power cut could leave neither."""
    events: list[str] = []
    replace, unlink, fsync = os.replace, os.unlink, os.fsync
    inode = tmp_path.stat().st_ino

    def flush(descriptor: int) -> None:
        events.append("folder" if os.fstat(descriptor).st_ino == inode else "file")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append("rename"), replace(a, b)))
    monkeypatch.setattr(os, "unlink", lambda path: (events.append("remove"), unlink(path)))
    for step in (1, 2):
        Checkpoints(tmp_path, keep=1).save(step, state(step))
    assert events == ["file", "rename", "folder"] * 2 + ["remove"]


def filled(folder: Path, monkeypatch: pytest.MonkeyPatch, room: int) -> list[str]:
    """A disk on which ``room`` checkpoints fit; returns the names of what was removed."""
    removed: list[str] = []
    fsync, unlink = os.fsync, os.unlink

    def flush(descriptor: int) -> None:
        if len(list(folder.glob("checkpoint*"))) >= room:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    def remove(path: Path) -> None:
        if not path.name.startswith("."):
            removed.append(path.name)
        unlink(path)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "unlink", remove)
    return removed


def test_on_a_full_disk_older_ones_give_way_until_one_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    checkpoints = Checkpoints(tmp_path, keep=3)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    with monkeypatch.context() as patched:
        removed = filled(tmp_path, patched, room=2)
        checkpoints.save(4, state(4))
        assert removed == ["checkpoint_0000001.safetensors", "checkpoint_0000002.safetensors"]
    assert names(tmp_path) == ["_0000003", "_0000004"]
    assert "No space left on device (" in caplog.text
    with monkeypatch.context() as patched:
        filled(tmp_path, patched, room=1)
        with pytest.raises(FailureError) as refused:
            checkpoints.save(5, state(5))
    assert names(tmp_path) == ["_0000004"]
    said = str(refused.value)
    assert "cannot write " in said
    assert " needed, " in said
    assert said.endswith("; free space and go on with resume=True, from checkpoint_0000004.safetensors, which is whole")
    assert step_of(tmp_path) == 4


def test_on_a_full_disk_a_sound_one_never_gives_way_to_a_damaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for known in (True, False):  # whether this process has met the damage
        folder = tmp_path / str(known)
        for step in (1, 2):
            Checkpoints(folder).save(step, state(step))
        flipped(folder / "checkpoint_0000002.safetensors")
        checkpoints = Checkpoints(folder)
        if known:
            checkpoints.load()
        with monkeypatch.context() as patched:
            filled(folder, patched, room=1)
            with pytest.raises(FailureError):
                checkpoints.save(3, state(3))
        assert step_of(folder) == 1


def test_a_first_checkpoint_that_does_not_fit_sends_to_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path, monkeypatch, room=0)
    with pytest.raises(FailureError, match=r"free space and go on with resume=True, from the start$"):
        Checkpoints(tmp_path).save(1, state(1))
    assert names(tmp_path) == []
