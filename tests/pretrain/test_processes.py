"""Several processes: what they learn together is what one learns."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils.data import Dataset

from scaleprior.backbones import ResNetSpec, read_card
from scaleprior.errors import UserError
from scaleprior.parsing import read_json
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.check import check_pretraining_run
from scaleprior.pretrain.data.batches import loaded
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.plan import check_pretraining
from scaleprior.training.positions import BatchPlan
from scaleprior.training.resources import parameter_bytes, training_bytes
from tests import processes
from tests.conftest import REPO
from tests.pretrain.conftest import SMALL
from tests.pretrain.test_run import stop_at
from tests.processes import free_port

# In float64 rounding is too small to hide a wrong sum, or to grow into something that looks like one.
WORK = """
import sys, torch
from contextlib import nullcontext, suppress
from scaleprior.pretrain import pretrain
from scaleprior.training.processes import join_processes
from scaleprior.config import load_config
torch.set_num_threads(1)
torch.set_default_dtype(torch.float64)
class Stopped(Exception): pass
def stop(done, total, figures):
    if done == 3:
        raise Stopped
for run in " ".join(sys.argv[1:]).split(" / "):
    out, *words = run.split()
    loaded = load_config("Pretrain/Base-Pretrain.yaml", words)
    with join_processes(torch.device("cpu")) if out.endswith("resumed") else nullcontext():  # one group for both
        if out.endswith("resumed"):
            with suppress(Stopped):
                pretrain(loaded, out, progress=stop)
        pretrain(loaded, out, resume=True)
"""
OWN = ("PRETRAIN.INPUT.SIZE", "32", "PRETRAIN.INPUT.RESIZE", "32", "PRETRAIN.BATCH_SIZE", "15")
SHARDS = (
    *("PRETRAIN.HEAD.SHARDED", "True", "PRETRAIN.HEAD.CHUNK", "3", "PRETRAIN.NORM_STATISTICS", "all"),
    *("PRETRAIN.HELD_OUT.IMAGES", "10", "PRETRAIN.OPTIMIZER.CLIP_NORM", "0.5", "PRETRAIN.EMA.DECAY", "0.5"),
)
CASES = {
    "GN": ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.WIDTH_PER_GROUP", "32"),
    "BN of all": ("PRETRAIN.NORM_STATISTICS", "all"),
    "a head in shards": SHARDS,
    "a head in shards, resumed": SHARDS,
    "BN of each": ("PRETRAIN.NORM_STATISTICS", "process"),
    "parts": ("MODEL.RESNETS.NORM", "GN", "MODEL.RESNETS.WIDTH_PER_GROUP", "32", "PRETRAIN.ACCUMULATE", "3"),
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
    other = in_two / name.replace(" ", "_")
    results = [read_json(folder / "result.json") for folder in (tmp_path, other)]
    assert results[0].get("held_out") == results[1].get("held_out")
    assert all(0 < result["waited"] <= 1 for result in results)
    assert "slowest_rank" not in results[0]
    assert results[1]["slowest_rank"] in (0, 1)
    apart = furthest(tmp_path, other)
    assert apart > 0.1 if name == "BN of each" else apart < 1e-12


@pytest.mark.usefixtures("_in_float64")
def test_a_run_may_go_on_with_other_processes_where_that_is_asked_for(
    small_config: Callable, tmp_path: Path, corpus_folder: Path
) -> None:
    own = (*OWN, *CASES["GN"], "PRETRAIN.PROCESSES", "any")
    pretrain(small_config(*own), tmp_path / "one")
    other = tmp_path / "other"
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*own), other, progress=stop_at(3))  # two steps are saved
    pretrain_in_two([["other", *SMALL, "PRETRAIN.CORPUS", str(corpus_folder), *own]], tmp_path)
    assert furthest(tmp_path / "one", other) < 1e-12
    crews = [{"from_step": 0, "processes": 1}, {"from_step": 2, "processes": 2}]
    run = json.loads((other / "run.json").read_text())
    assert (run["trained_by"], run["processes"]) == (crews, "any")
    assert read_card(other / "backbone.safetensors").recipe["trained_by"] == crews
    assert read_card(tmp_path / "one" / "backbone.safetensors").recipe["trained_by"] == crews[:1]
    assert "trained_by" not in read_card(pretrain(small_config(), tmp_path / "fixed").backbone).recipe


def test_a_batch_that_follows_the_processes_goes_on_with_no_others(small_config: Callable) -> None:
    cfg = small_config("PRETRAIN.PROCESSES", "any", "PRETRAIN.BATCH_PER_PROCESS", "4").cfg
    with pytest.raises(
        UserError, match=r"PROCESSES is 'any' with PRETRAIN.BATCH_PER_PROCESS 4: .* set PRETRAIN.BATCH_SIZE"
    ):
        check_pretraining(cfg)


@pytest.mark.parametrize(
    ("words", "processes", "said"),
    [
        (["3"], 4, "PRETRAIN.BATCH_SIZE is 3 with 4 processes, of which some would have no image"),
        (["3"], 2, "is 3 with 2 processes and PRETRAIN.INPUT.SIZE up to 32, which leaves BN one value"),
    ],
)
def test_batches_that_cannot_be_shared_out(words: list[str], processes: int, said: str, small_config: Callable) -> None:
    report = check_pretraining_run(small_config("PRETRAIN.BATCH_SIZE", *words), "out", processes=processes)
    with pytest.raises(UserError, match=said):
        report.refuse()
    check_pretraining(small_config("PRETRAIN.BATCH_SIZE", "3", *CASES["BN of all"]).cfg, processes=2)


def test_statistics_of_the_whole_batch_are_for_norms_that_have_some(small_config: Callable, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"NORM_STATISTICS is 'all' with MODEL.RESNETS.NORM GN, .* to process"):
        pretrain(small_config(*CASES["GN"], *CASES["BN of all"]), tmp_path)


class Rows(Dataset):
    """The rows of a step of a plan."""

    def __init__(self, plan: BatchPlan) -> None:
        self.plan = plan

    def __getitem__(self, step: int) -> np.ndarray:
        return self.plan(step)[0]


@pytest.mark.parametrize("workers", [0, 2])
def test_real_loader_workers_leave_out_no_image(workers: int) -> None:
    plans = [BatchPlan(7, 3, 5, rank, 2) for rank in range(2)]
    found = [list(loaded(Rows(plan), range(14), workers=workers)) for plan in plans]
    rows = [row for step in zip(*found) for share in step for row in share.tolist()]
    assert len(rows) == 42
    assert Counter(rows) == dict.fromkeys(range(7), 6)


@pytest.mark.parametrize(
    ("labels", "whole", "head"), [(18_291, "1.78", "0.70"), (100_000, "4.9", "3.8"), (10**6, "39.2", "38.2")]
)
def test_what_fsdp_would_spread_is_what_the_page_says(labels: int, whole: str, head: str) -> None:
    """Parameters, gradients, RMSProp's two numbers and an average."""
    page = (REPO / "docs" / "pretrain.md").read_text(encoding="utf-8")
    said = page[page.index("**No FSDP.**") :].split("\n\n")[0]
    with torch.device("meta"):
        model = Pretrainer(ResNetSpec(depth=152), labels, pixel_mean=[0.0] * 3, pixel_std=[1.0] * 3, bias=0.0)
    sizes = [training_bytes(part, slots=2) + parameter_bytes(part) for part in (model, model.head)]
    for size, words in zip(sizes, (whole, head)):
        assert f"{size / 2**30:.{len(words.split('.')[1])}f}" == words
        assert re.search(rf"\b{re.escape(words)}\b", said)
