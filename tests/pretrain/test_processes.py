"""Several processes: what they learn together is what one learns."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scaleprior.errors import UserError
from scaleprior.pretrain import pretrain
from tests import processes
from tests.pretrain.conftest import SMALL
from tests.training.test_lost import free_port

# In float64 rounding is too small to hide a wrong sum, or to grow into something that looks like one.
WORK = """
import sys, torch
from scaleprior.pretrain import pretrain
from scaleprior.config import load_config
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
for run in " ".join(sys.argv[1:]).split(" / "):
    out, *words = run.split()
    pretrain(load_config("Pretrain/Base-Pretrain.yaml", words), out)
"""
OWN = ("PRETRAIN.INPUT.SIZE", "32", "PRETRAIN.INPUT.RESIZE", "32", "PRETRAIN.BATCH_SIZE", "16")
CASES = {
    "GN": ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.WIDTH_PER_GROUP", "32"),
    "BN of all": ("PRETRAIN.NORM_STATISTICS", "all"),
    "BN of each": ("PRETRAIN.NORM_STATISTICS", "process"),
}


def pretrain_in_two(runs: Sequence[Sequence[str]], folder: Path) -> None:
    """Each run, a folder's name and KEY VALUE words, in the same two processes."""
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    words = [word for run in runs for word in ("/", *run)][1:]
    environments = [processes.environment(**place, RANK=rank) for rank in "01"]
    started = [processes.start([sys.executable, "-c", WORK, *words], cwd=folder, env=env) for env in environments]
    try:
        for process in started:
            _, errors = process.communicate()
            assert process.returncode == 0, errors
    finally:
        for process in started:  # one would wait for the other that failed
            process.kill()


@pytest.fixture(scope="module")
def in_two(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Path:
    """A folder with the runs of ``CASES`` in two processes."""
    folder = tmp_path_factory.mktemp("two")
    opts = [*SMALL, *OWN, "PRETRAIN.CORPUS", str(corpus_folder)]
    pretrain_in_two([[name.replace(" ", "_"), *opts, *words] for name, words in CASES.items()], folder)
    return folder


@pytest.fixture
def _in_float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def furthest(one: Path, other: Path) -> float:
    """The largest difference of two runs' tensors, as a share of the largest number in each."""
    shares = []
    for name in ("backbone.safetensors", "head.safetensors"):
        first, second = load_file(one / name), load_file(other / name)
        assert first.keys() == second.keys()
        pairs = [(first[key], second[key]) for key in first if first[key].is_floating_point()]
        shares += [((a - b).abs().max() / a.abs().max()).item() for a, b in pairs]
    return max(shares)


@pytest.mark.usefixtures("_in_float64")
@pytest.mark.parametrize("name", CASES)
def test_two_processes_learn_what_one_does(name: str, in_two: Path, small_config: Callable, tmp_path: Path) -> None:
    """But for BN with each process' own statistics, which is another network."""
    pretrain(small_config(*OWN, *CASES[name]), tmp_path)
    apart = furthest(tmp_path, in_two / name.replace(" ", "_"))
    assert apart > 0.1 if name == "BN of each" else apart < 1e-12


def test_statistics_of_the_whole_batch_are_for_norms_that_have_some(small_config: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NORM_STATISTICS is 'all' with MODEL.RESNETS.NORM GN, .* to process"):
        pretrain(small_config(*CASES["GN"], *CASES["BN of all"]), tmp_path)
