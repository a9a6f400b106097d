"""A run that is killed anywhere and resumed ends with the bits of one that was left alone, whatever is switched on.

What has state of its own, or changes what a step does, has a line in ``SETTINGS``: a run of it is killed in every step
before that is saved (in the first one, that is to start), and once behind the last. Figures count as much as weights.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from scaleprior.config.keys.table import all_keys
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.figures.json_lines import JsonLines
from scaleprior.training.checkpoints import Checkpoints
from tests import processes
from tests.pretrain.conftest import SMALL, TINY, index_verified, outcome

STEPS = 3
SETTINGS: dict[str, tuple[str, ...]] = {
    "defaults": (),
    "sgd": ("PRETRAIN.OPTIMIZER.NAME", "sgd"),
    "sgd without momentum": ("PRETRAIN.OPTIMIZER.NAME", "sgd", "PRETRAIN.OPTIMIZER.MOMENTUM", "0.0"),
    "adamw": ("PRETRAIN.OPTIMIZER.NAME", "adamw"),
    "lamb": ("PRETRAIN.OPTIMIZER.NAME", "lamb"),
    "channels_last": ("PRETRAIN.CHANNELS_LAST", "True"),
    "accumulation": ("PRETRAIN.ACCUMULATE", "2"),
    "clipping": ("PRETRAIN.OPTIMIZER.CLIP_NORM", "0.05"),
    "BN of the whole batch": ("PRETRAIN.NORM_STATISTICS", "all"),
    "head by chunks": ("PRETRAIN.HEAD.CHUNK", "3"),
    "unknown labels": ("PRETRAIN.LOSS.UNLABELLED", "ignore", "PRETRAIN.NOISE.RATE", "0.3"),
    "scaled rate": ("PRETRAIN.REFERENCE_BATCH", "32"),
    "averaged weights": ("PRETRAIN.EMA.DECAY", "0.9", "PRETRAIN.HELD_OUT.IMAGES", "8"),
    "stochastic depth": ("PRETRAIN.DROP_PATH", "0.4", "PRETRAIN.ACCUMULATE", "2"),
    "smoothed labels": ("PRETRAIN.LOSS.SMOOTHING", "0.1"),
    "progressive resizing": ("PRETRAIN.INPUT.PROGRESSIVE", "((0.4, 9), (0.7, 12))"),  # killed at both changes
    "stairs": ("PRETRAIN.SCHEDULE.NAME", "exponential", "PRETRAIN.SCHEDULE.DECAY_EVERY", "0.25"),
    "frozen trunk": ("PRETRAIN.FREEZE", "trunk", "MODEL.WEIGHTS", "BACKBONE"),
    "measured on the way": ("PRETRAIN.EVAL.PERIOD", "1"),
    "probed on the way": (
        *("PRETRAIN.EVAL.PERIOD", "2", "PRETRAIN.PROBE.CORPUS", "CORPUS"),
        *("PRETRAIN.PROBE.KINDS", "('knn', 'linear')", "PRETRAIN.PROBE.IMAGES", "30"),
    ),
    "any number of processes": ("PRETRAIN.PROCESSES", "any"),
    "all at once": (
        *("PRETRAIN.EMA.DECAY", "0.9", "PRETRAIN.DROP_PATH", "0.5", "PRETRAIN.ACCUMULATE", "2"),
        *("PRETRAIN.OPTIMIZER.CLIP_NORM", "0.5", "PRETRAIN.LOSS.SMOOTHING", "0.1", "PRETRAIN.HEAD.CHUNK", "3"),
        *("PRETRAIN.INPUT.PROGRESSIVE", "((0.4, 12),)", "PRETRAIN.EVAL.PERIOD", "1"),
    ),
    "worker processes": ("PRETRAIN.LOADER.NUM_WORKERS", "2"),
    "one checkpoint": ("PRETRAIN.CHECKPOINTS", "1"),
    "checkpoints now and then": ("PRETRAIN.CHECKPOINT_PERIOD", "2"),
}

NOT_HERE = {
    "PRETRAIN.BATCH_PER_PROCESS": "becomes a BATCH_SIZE",
    "PRETRAIN.HEAD.SHARDED": "needs processes: test_sharded",
    "PRETRAIN.LOADER.DECODE": "gpu needs one",
    "PRETRAIN.PROCESS_TIMEOUT": "is for several, and changes no number",
    "PRETRAIN.STEP": "for GPUs",
    "PRETRAIN.WANDB": "needs an account",
}
"""Keys without a case, by the start of their names."""


class Death(BaseException):
    """kill -9, as far as a process can imitate it on itself."""


def die_at(step: int) -> Callable[[int, int, Mapping[str, float]], None]:
    """Behind the update of ``step`` (from 1) and before it is saved."""

    def progress(done: int, total: int, numbers: Mapping[str, float]) -> None:
        if done == step:
            raise Death

    return progress


class Dying(JsonLines):
    """Dies with the run's last words: head and backbone are written, the result is not."""

    def finish(self, metrics: object) -> None:
        raise Death


@pytest.fixture
def config(small_config: Callable, corpus_folder: Path, tmp_path: Path) -> Callable[[str], Any]:
    def backbone() -> str:
        return str(pretrain(small_config(*TINY, "PRETRAIN.BUDGET.AMOUNT", "1"), tmp_path / "parent").backbone)

    def load(setting: str) -> Any:
        made = {"CORPUS": lambda: str(corpus_folder), "BACKBONE": backbone}
        words = [made.get(word, lambda word=word: word)() for word in SETTINGS[setting]]
        if "ignore" in words:
            words += ["PRETRAIN.CORPUS", str(index_verified(tmp_path))]
        return small_config(*TINY, "PRETRAIN.BUDGET.AMOUNT", str(STEPS), *words)

    return load


def test_every_later_key_has_a_case_or_a_reason() -> None:
    later = [key.name for key in all_keys() if key.name.startswith("PRETRAIN.") and key.since > 1]
    tried = {word for words in SETTINGS.values() for word in words}
    missing = [name for name in later if name not in tried and not name.startswith(tuple(NOT_HERE))]
    assert not missing, "add a line to SETTINGS"


@pytest.mark.parametrize("setting", SETTINGS)
def test_killed_in_every_step_and_resumed(setting: str, config: Callable, tmp_path: Path) -> None:
    loaded, part = config(setting), tmp_path / "part"
    pretrain(loaded, tmp_path / "whole", check=False)
    for step in range(2, STEPS + 1):
        with pytest.raises(Death):
            pretrain(loaded, part, resume=True, check=False, progress=die_at(step))
    with pytest.raises(Death):
        pretrain(loaded, part, resume=True, check=False, recorder=Dying(part, period=1))
    steps: list[int] = []
    pretrain(loaded, part, resume=True, check=False, progress=lambda done, total, numbers: steps.append(done))
    assert steps == []  # the last step was saved: what was missing were files
    assert outcome(part) == outcome(tmp_path / "whole")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("harm", [flip, cut, empty])
@pytest.mark.parametrize("keep", ["2", "3"])
def test_a_damaged_checkpoint_costs_steps_and_no_bit(
    harm: Callable[[Path], object],
    keep: str,
    small_config: Callable,
    undisturbed: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """All but the oldest of those that are kept."""
    loaded, part = small_config(*TINY, "PRETRAIN.CHECKPOINTS", keep), tmp_path / "part"
    with pytest.raises(Death):
        pretrain(loaded, part, progress=die_at(4))
    *newer, oldest = Checkpoints(part).paths()
    for path in newer:
        harm(path)
    caplog.clear()
    steps: list[int] = []
    pretrain(loaded, part, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [*range(5 - int(keep), 5)]  # 3 were saved
    assert outcome(part) == undisturbed
    (said,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert said.startswith(f"going on from {oldest}, because {newer[0].name} is damaged: ")


def test_the_one_checkpoint_of_earlier_versions_is_gone_on_with(
    small_config: Callable, undisturbed: dict[str, Any], tmp_path: Path
) -> None:
    loaded, part = small_config(*TINY), tmp_path / "part"
    with pytest.raises(Death):
        pretrain(loaded, part, progress=die_at(3))
    newest, older = Checkpoints(part).paths()
    newest.rename(part / "checkpoint.safetensors")
    older.unlink()
    steps: list[int] = []
    pretrain(loaded, part, resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [3, 4]
    assert outcome(part) == undisturbed


_ON_A_GPU = """
import os, sys
os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # several deterministic runs in one process
from pathlib import Path
from scaleprior.config import load_config
from scaleprior.pretrain import pretrain
from tests.pretrain.test_exact_resume import STEPS, Death, die_at
folder, loaded = Path(sys.argv[1]), load_config("Pretrain/Base-Pretrain.yaml", sys.argv[2:])
for name in ("whole", "again"):
    pretrain(loaded, folder / name)
for step in range(2, STEPS + 1):
    try:
        pretrain(loaded, folder / "part", resume=True, progress=die_at(step))
    except Death:
        continue
    raise AssertionError("it did not die")
pretrain(loaded, folder / "part", resume=True)
"""


@pytest.mark.gpu
@pytest.mark.parametrize("deterministic", [True, False])
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_on_a_gpu_a_run_repeats_and_resumes_within_its_tolerance(
    deterministic: bool, amp: str, corpus_folder: Path, tmp_path: Path
) -> None:
    """To the bit where PRETRAIN.STEP.DETERMINISTIC asks for it; otherwise sums in another order change the last bits of
    gradients, and the loss of a few steps by less than 1 %."""
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    words = (*SMALL, *TINY, "PRETRAIN.CORPUS", corpus_folder, "PRETRAIN.BUDGET.AMOUNT", STEPS, "MODEL.DEVICE", "cuda")
    words += (
        "PRETRAIN.STEP.DETERMINISTIC",
        deterministic,
        "PRETRAIN.AMP",
        amp,
        "PRETRAIN.CHANNELS_LAST",
        amp == "bf16",
    )
    processes.run([sys.executable, "-c", _ON_A_GPU, tmp_path, *words], check=True)
    whole = outcome(tmp_path / "whole")
    for name in ("again", "part"):
        found = outcome(tmp_path / name)
        assert found["files"] == whole["files"]
        assert found["result"]["loss"] == pytest.approx(whole["result"]["loss"], rel=1e-2)
        assert not deterministic or found == whole
