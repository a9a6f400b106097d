"""No room for a file of a run: one line, nothing lost, no part of a file left, and the run goes on."""

from __future__ import annotations

import errno
import json
import os
import resource
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from scaleprior.cli import main
from scaleprior.errors import FailureError
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.figures.json_lines import JsonLines
from scaleprior.pretrain.figures.recorder import Recorder
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.processes import ProcessGroup
from tests.pretrain.conftest import SMALL, TINY, outcome


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Callable[[Path], bool]]]:
    """A list of conditions: a file that meets one is refused by the disk when it is flushed, before it has its name."""
    conditions: list[Callable[[Path], bool]] = []
    fsync = os.fsync

    def flush(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if any(condition(path) for condition in conditions):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", flush)
    yield conditions
    conditions.clear()


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".")]


def test_a_checkpoint_that_does_not_fit(
    undisturbed: dict[str, Any], corpus_folder: Path, tmp_path: Path, refusing: list, capsys: pytest.CaptureFixture[str]
) -> None:
    part = tmp_path / "part"
    refusing.append(lambda path: "checkpoint_0000003" in path.name)
    command = ["pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml", "--out", str(part), *SMALL, *TINY]
    command += ["PRETRAIN.CORPUS", str(corpus_folder)]
    assert main(command) == 1
    (said,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert said.startswith(
        f"scaleprior: error: cannot write {part}/checkpoint_0000003.safetensors: No space left on dev"
    )
    assert " KiB needed, " in said
    assert said.endswith("; free space and go on with --resume, from checkpoint_0000002.safetensors, which is whole")
    # the older one gave way first
    assert [path.name for path in Checkpoints(part).paths()] == ["checkpoint_0000002.safetensors"]
    assert leftovers(part) == []
    refusing.clear()
    assert main([*command, "--resume"]) == 0
    assert outcome(part) == undisturbed


def test_the_system_itself_refuses_a_checkpoint(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    """By a limit of the process on the size of a file, which no checkpoint that gives way would help."""
    part = tmp_path / "part"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(done: int, total: int, numbers: object) -> None:
        if done == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))

    try:
        with pytest.raises(FailureError, match=r"0003\.s.*: File too large \(.* needed\); .*from checkpoint_0000002"):
            pretrain(small_config(*TINY), part, progress=limit)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name[-13:-12] for path in Checkpoints(part).paths()] == ["2", "1"]
    assert leftovers(part) == []
    pretrain(small_config(*TINY), part, resume=True)
    assert outcome(part) == undisturbed


def test_a_line_of_figures_that_does_not_fit_is_kept_with_the_state(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    part, words = tmp_path / "part", (*TINY, "PRETRAIN.CHECKPOINT_PERIOD", "0")
    part.mkdir()
    (part / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(FailureError) as refused:
        pretrain(small_config(*words), part)
    said = str(refused.value)
    assert said.startswith(f"cannot write {part}/metrics.jsonl: No space left on device (")
    assert said.endswith("; the first step is saved: free space and go on with resume=True")
    (part / "metrics.jsonl").unlink()
    steps: list[int] = []
    pretrain(small_config(*words), part, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [2, 3, 4]
    assert outcome(part) == undisturbed


def test_a_line_that_fits_in_part_leaves_no_part_of_itself(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    part, words = tmp_path / "part", (*TINY, "PRETRAIN.CHECKPOINT_PERIOD", "0")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    part.mkdir()
    padding = json.dumps({"step": 0, "why": "x" * 10**7}) + "\n"  # more than the checkpoint has
    (part / "metrics.jsonl").write_text(padding)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(padding) + 20, hard))
    try:
        with pytest.raises(FailureError, match=r"File too large .*; the first step is saved: mend that and go on"):
            pretrain(small_config(*words), part)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (part / "metrics.jsonl").read_text() == padding
    (part / "metrics.jsonl").write_text("")
    pretrain(small_config(*words), part, resume=True)
    assert outcome(part) == undisturbed


@pytest.mark.parametrize("file", ["head.safetensors", "backbone.safetensors", "result.json"])
def test_a_final_file_that_does_not_fit(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path, refusing: list, file: str
) -> None:
    part = tmp_path / "part"
    refusing.append(lambda path: file in path.name)
    with pytest.raises(FailureError, match=rf"cannot write .*{file}: No space .*; free .*, from checkpoint_0000004\.s"):
        pretrain(small_config(*TINY), part)
    assert not (part / file).exists()
    assert leftovers(part) == []
    refusing.clear()
    steps: list[int] = []
    pretrain(small_config(*TINY), part, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == []
    assert outcome(part) == undisturbed


def test_room_for_one_checkpoint_less_is_enough(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path, refusing: list
) -> None:
    """What fitted before two were kept fits still: the older one gives way, and nobody is stopped."""
    part = tmp_path / "part"
    refusing.append(lambda path: len(Checkpoints(part).paths()) > 1)
    pretrain(small_config(*TINY), part)
    assert outcome(part) == undisturbed


class Full(JsonLines):
    """As a recorder of somebody else's meets a full disk: an error of the system, and again when it is closed."""

    def step(self, done: int, total: int, numbers: Mapping[str, float]) -> None:
        if done == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")
        super().step(done, total, numbers)

    def close(self) -> None:
        super().close()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events")


def test_any_recorder_that_meets_a_full_disk_loses_no_step(small_config: Callable, tmp_path: Path) -> None:
    part, loaded = tmp_path / "part", small_config(*TINY, "PRETRAIN.CHECKPOINT_PERIOD", "0")
    said = "^cannot write events: No space left on device; the first 2 steps are saved: free space and go on with"
    with pytest.raises(FailureError, match=said):
        pretrain(loaded, part, recorder=Full(part, period=1))
    steps: list[int] = []
    pretrain(loaded, part, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [3, 4]


def test_a_recorder_that_cannot_set_up_is_one_line(small_config: Callable, tmp_path: Path) -> None:
    class NoPlace(Recorder):
        def prepare(self, processes: ProcessGroup) -> None:
            (tmp_path / "run" / "log.txt").touch()

    (tmp_path / "run").write_text("a file, not a folder")
    with pytest.raises(FailureError, match=r"cannot write .*log.txt: Not a directory; choose another folder"):
        pretrain(small_config(*TINY), tmp_path / "run", recorder=NoPlace())


def test_who_interrupts_a_run_is_told_how_to_go_on(
    corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again would be refused for the folder of the run, unless it said so before."""

    def interrupt(self: Any, *_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("scaleprior.pretrain.loop.trainer.PretrainTrainer.train", interrupt)
    command = ["pretrain", "--config-file", "Pretrain/Base-Pretrain.yaml", "--out", str(tmp_path / "run"), *SMALL]
    command += ["PRETRAIN.CORPUS", str(corpus_folder)]
    for words, said in (
        ([], "run again with --resume to go on"),
        (["--resume"], "run the same command again to go on"),
    ):
        assert main([command[0], *words, *command[1:]]) == 130
        assert said in capsys.readouterr().err
