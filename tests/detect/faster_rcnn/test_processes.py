"""Several processes: what they learn together is what one learns, and they end together."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from scaleprior.config import LoadedConfig
from scaleprior.detect import get_engine
from scaleprior.detect.data.loader import batch_order
from scaleprior.detect.faster_rcnn.model import build_detector
from scaleprior.detect.faster_rcnn.norms import share_norms, uses_own_statistics
from scaleprior.detect.faster_rcnn.trainer import METRICS
from scaleprior.errors import FailureError
from scaleprior.training.checkpoints import Checkpoints
from scaleprior.training.launching import launch
from scaleprior.training.processes import ProcessGroup
from tests import processes
from tests.conftest import REPO
from tests.detect.conftest import TINY, TINY_FPN, add_outlines, data_overrides, make_coco, tiny_config
from tests.detect.test_call import save_start

WORK = """
import json, os, signal, sys, torch
from pathlib import Path
from scaleprior.config import load_config
from scaleprior.detect import get_engine
from scaleprior.errors import ScalePriorError
torch.set_num_threads(1)
for run in json.loads(sys.argv[1]):
    losses = []
    def progress(done, total, numbers):
        losses.append(numbers["loss"])
        if done == run.get("stop") and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGTERM)
    try:
        get_engine("torchvision").train(
            load_config(run["config"], run["words"]), Path(run["weights"]), Path(run["out"]),
            resume=True, progress=progress)
        print(json.dumps(losses), flush=True)
    except ScalePriorError as e:
        print(json.dumps([type(e).__name__, str(e)]), flush=True)
"""


OWN = (
    *("SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "3", "SOLVER.STEPS", "()", "SOLVER.WARMUP_ITERS", "0"),
    *("SOLVER.BASE_LR", "0.002", "INPUT.MIN_SIZE_TRAIN", "(48, 64)", "MODEL.RESNETS.NORM", "FrozenBN"),
)
IDLE = (  # res5 and p2 are nobody's
    *("MODEL.FPN.IN_FEATURES", "['res2', 'res3', 'res4']", "MODEL.RPN.IN_FEATURES", "['p3', 'p4', 'p5']"),
    *("MODEL.ANCHOR_GENERATOR.SIZES", "[[32], [64], [128]]", "MODEL.ROI_HEADS.IN_FEATURES", "['p3', 'p4']"),
)
MASKS = ("MODEL.MASK_ON", "True", "MODEL.ROI_MASK_HEAD.CONV_DIM", "8")
SYNC = ("MODEL.RESNETS.NORM", "SyncBN")
SYNC_ALL = (
    *(*SYNC, "MODEL.FPN.NORM", "SyncBN", "MODEL.BACKBONE.FREEZE_AT", "2", "MODEL.ROI_BOX_HEAD.NORM", "SyncBN"),
    *("MODEL.ROI_BOX_HEAD.NUM_CONV", "1", "MODEL.ROI_BOX_HEAD.CONV_DIM", "8"),
)
ALIKE = {
    "C4": ("C4", ()),
    "FPN": ("FPN", ()),
    "idle": ("FPN", IDLE),
    "masks-C4": ("C4", MASKS),
    "masks-FPN": ("FPN", MASKS),
    "C4 SyncBN": ("C4", SYNC),
    "FPN SyncBN": ("FPN", SYNC_ALL),
}
SAVING = ("SOLVER.CHECKPOINT_PERIOD", "1")


@dataclass(frozen=True)
class Shared:
    """What two processes did: ``said`` by name of the run, of each process; and where runs, data and weights are."""

    folder: Path
    said: Mapping[str, list[Any]]
    coco: Sequence[str]

    def words(self, kind: str, *further: str) -> list[str]:
        return [*(TINY_FPN if kind == "FPN" else TINY), *OWN, *self.coco, *further]

    def run(self, kind: str, name: str, *further: str, **how: Any) -> dict[str, Any]:
        words, weights = self.words(kind, *further), str(self.folder / "w.safetensors")
        config = f"COCO-Detection/Base-RCNN-{kind}.yaml"
        return {"config": config, "words": words, "weights": weights, "out": str(self.folder / name), **how}

    def alone(self, kind: str, out: Path, *further: str) -> tuple[dict[str, Tensor], list[float]]:
        """Tensors and losses of the same in this process."""
        losses: list[float] = []
        model = get_engine("torchvision").train(
            tiny_config(kind, self.words(kind, *further)), self.folder / "w.safetensors", out, resume=True,
            progress=lambda done, total, numbers: losses.append(numbers["loss"]),
        )  # fmt: skip
        return load_file(model), losses

    def model(self, name: str) -> dict[str, Tensor]:
        return load_file(self.folder / name / "model.safetensors")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """All that these tests look at, in one start of two processes."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("shared")
    path, root = make_coco(folder / "data", images=8, change=add_outlines)
    save_start(folder / "w.safetensors")
    made = Shared(folder, {}, data_overrides(path, root))
    runs = {name: made.run(kind, name, *words) for name, (kind, words) in ALIKE.items()}
    runs["BN"] = made.run("C4", "BN", "MODEL.RESNETS.NORM", "BN")
    runs["stopped"] = made.run("FPN", "stopped", *SAVING, stop=2)
    runs["resumed"] = made.run("FPN", "stopped", *SAVING)
    runs["left"] = made.run("FPN", "left", *SAVING, stop=2)
    runs["diverged"] = made.run("FPN", "diverged", "SOLVER.BASE_LR", "1e20", "SOLVER.MAX_ITER", "9")
    damaged = make_coco(folder / "damaged_data", images=8)
    order = next(islice(batch_order([False] * 8, 4, int(TINY[TINY.index("SEED") + 1]), grouping=True), 1, None))
    (damaged[1] / f"{order[1]:03d}.png").write_bytes(b"no image")
    runs["damaged"] = made.run("FPN", "damaged", *data_overrides(*damaged))
    return replace(made, said=dict(zip(runs, zip(*processes.in_two(WORK, list(runs.values()))))))


def apart(one: Mapping[str, Tensor], other: Mapping[str, Tensor], start: Mapping[str, Tensor]) -> float:
    """The largest difference of two models' tensors, as a share of the largest step that either took there."""
    assert one.keys() == other.keys() == start.keys()
    moved = [name for name in one if one[name].is_floating_point() and not one[name].equal(start[name])]
    assert moved
    return max(float((one[n] - other[n]).abs().max() / (one[n] - start[n]).abs().max()) for n in moved)


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_learn_what_one_does(name: str, shared: Shared, tmp_path: Path) -> None:
    """In float32: sums of as many numbers in another order; BN divides by such sums, which makes more of it."""
    kind, words = ALIKE[name]
    whole, losses = shared.alone(kind, tmp_path / "one", *words)
    start, _ = shared.alone(kind, tmp_path / "start", *words, "SOLVER.MAX_ITER", "0")
    of_both = shared.said[name]
    assert of_both[0] == of_both[1]
    assert of_both[0] == pytest.approx(losses, rel=1e-5)
    assert apart(whole, shared.model(name), start) < (0.02 if "SyncBN" in name else 1e-3)
    run = json.loads((shared.folder / name / "run.json").read_text())
    assert run["trained_by"] == [{"from_step": 0, "processes": 2}]


def test_norms_with_the_statistics_of_each_process_are_another_network(shared: Shared, tmp_path: Path) -> None:
    """What the tests above would see of a step that is not shared out exactly; saved are process 0's statistics."""
    whole, _ = shared.alone("C4", tmp_path / "one", "MODEL.RESNETS.NORM", "BN")
    start, _ = shared.alone("C4", tmp_path / "start", "MODEL.RESNETS.NORM", "BN", "SOLVER.MAX_ITER", "0")
    assert apart(whole, shared.model("BN"), start) > 0.1


def test_sigterm_in_one_process_stops_all_and_the_run_goes_on_to_the_same_bits(shared: Shared) -> None:
    said = "stopped by SIGTERM after step 2 of 3; run again with resume=True to go on"
    assert shared.said["stopped"] == (["Interrupted", said],) * 2
    whole, resumed = shared.model("FPN"), shared.model("stopped")
    assert [len(losses) for losses in shared.said["resumed"]] == [1, 1]
    assert all(whole[name].equal(resumed[name]) for name in whole)


def test_a_run_goes_on_with_another_number_of_processes_and_says_so(shared: Shared, tmp_path: Path) -> None:
    shutil.copytree(shared.folder / "left", tmp_path / "left")
    one, losses = shared.alone("FPN", tmp_path / "left", *SAVING)
    start, _ = shared.alone("FPN", tmp_path / "start", "SOLVER.MAX_ITER", "0")
    assert len(losses) == 1
    assert apart(shared.model("FPN"), one, start) < 1e-3
    run = json.loads((tmp_path / "left" / "run.json").read_text())
    assert run["trained_by"] == [{"from_step": 0, "processes": 2}, {"from_step": 2, "processes": 1}]


def test_a_run_that_is_extended_tells_its_former_schedule_and_who_trained_it(shared: Shared, tmp_path: Path) -> None:
    shutil.copytree(shared.folder / "left", tmp_path / "left")
    loaded = tiny_config("FPN", shared.words("FPN", *SAVING, "SOLVER.MAX_ITER", "4"))
    get_engine("torchvision").train(loaded, shared.folder / "w.safetensors", tmp_path / "left", extend=True)
    run = json.loads((tmp_path / "left" / "run.json").read_text())
    assert [(each["steps"], each["schedule"]["SOLVER.MAX_ITER"]) for each in run["extended"]] == [(2, 3)]
    assert run["trained_by"] == [{"from_step": 0, "processes": 2}, {"from_step": 2, "processes": 1}]


def test_an_image_that_one_process_cannot_use_ends_both_with_its_words(shared: Shared) -> None:
    """And with the steps before it saved; it is first drawn at step 1, by process 1."""
    first, second = shared.said["damaged"]
    assert first == second
    kind, text = first
    assert kind == "UserError"
    assert re.search(
        r"image 00\d\.png: .*; the step before it is saved: repair that file and go on with resume=True", text
    )
    found = Checkpoints(shared.folder / "damaged").load()
    assert found is not None
    assert found.state["step"] == 1


def test_a_loss_that_is_not_finite_ends_both_with_the_same_words(shared: Shared) -> None:
    first, second = shared.said["diverged"]
    assert first == second
    assert re.search(r"the loss is not finite at step \d: loss_.*; images 10\d, 10\d; lower SOLVER\.BASE_LR", first[1])


def test_a_file_of_shared_norms_has_the_names_of_bns(shared: Shared) -> None:
    assert shared.model("C4 SyncBN").keys() == shared.model("BN").keys()


def test_the_norms_that_share_are_those_whose_key_says_so() -> None:
    """And frozen ones, which learn nothing, are none of them."""
    cfg = tiny_config("FPN", [*SYNC_ALL, "MODEL.FPN.NORM", "BN"]).cfg
    model = build_detector(cfg)
    before = list(model.state_dict())
    share_norms(model, cfg, ProcessGroup(0, 2, torch.device("cpu")))
    kinds = {name: type(module).__name__ for name, module in model.named_modules()}
    norms = {name: kind for name, kind in kinds.items() if "BatchNorm" in kind or kind == "_FusedNorm"}
    ours = {name for name, kind in norms.items() if kind == "_HostSyncBatchNorm"}
    trunk, pyramid = "backbone.bottom_up.trunk.body.", "backbone.fpn."
    assert any(name.startswith(f"{trunk}layer2") for name in ours)
    assert any(name.startswith("roi_heads.box_head") for name in ours)
    assert {kind for name, kind in norms.items() if name.startswith(pyramid)} == {"BatchNorm2d"}
    assert not any(name.startswith((f"{trunk}bn1", f"{trunk}layer1", pyramid)) for name in ours)
    assert list(model.state_dict()) == before
    assert uses_own_statistics(model, cfg)
    assert not uses_own_statistics(model, tiny_config("FPN", SYNC_ALL).cfg)


def _flatten(data: dict[str, Any]) -> None:
    data["annotations"][0]["bbox"][2] = 0


def test_the_tool_and_the_command_start_processes_and_speak_once(tmp_path: Path) -> None:
    """A config that is meant for one process: on two it has twice the batch and the rate, and half the steps."""
    data = data_overrides(*make_coco(tmp_path / "data", change=_flatten))
    words = [*TINY_FPN, *data, "OUTPUT_DIR", tmp_path / "run", "SCALEPRIOR.DROP_BAD", "annotations"]
    words += ["SOLVER.REFERENCE_WORLD_SIZE", "1", "SOLVER.MAX_ITER", "4", "SOLVER.STEPS", "()"]
    config = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision"]
    tool = [sys.executable, REPO / "tools" / "train_net.py", *config]
    done = processes.run([*tool, "--num-gpus", "2", *words])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("model: ") == done.stdout.count("engine torchvision") == 1
    assert done.stderr.count("WARNING scaleprior.detect.data.problems") == 1
    run = json.loads((tmp_path / "run" / "run.json").read_text())
    assert run["trained_by"] == [{"from_step": 0, "processes": 2}]
    (row,) = csv.DictReader((tmp_path / "run" / "results.csv").open())
    assert (row["max_iter"], row["batch_size"], row["base_lr"]) == ("2", "4", "0.02")
    alone = processes.run([*tool, "--resume", *words])
    assert alone.returncode == 2
    assert "holds a run of 2 processes; on 1 SOLVER.REFERENCE_WORLD_SIZE gives it another" in alone.stderr
    assert "resume with --num-gpus 2" in alone.stderr
    command = [sys.executable, "-m", "scaleprior", "detect", "eval", *config, "--num-gpus", "2", "--json", *words]
    found = processes.run(command)
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["AP"] == pytest.approx(float(row["ap"]), abs=0.01)


def _train_until(out: Path, end: str, loaded: LoadedConfig) -> None:
    """One process' share; process 1 is killed after the first step, or process 0 finds the disk full."""

    def progress(done: int, total: int, numbers: Any) -> None:
        if end == "killed" and done == 1 and os.environ["RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    torch.set_num_threads(1)
    get_engine("torchvision").train(loaded, None, out, resume=True, progress=progress)


@pytest.mark.parametrize(
    ("end", "said"),
    [
        ("killed", r"^(process 1 terminated with signal SIGKILL|another process was lost: .*); .*resume=True goes on"),
        (
            "full",
            r"^cannot write .*metrics\.jsonl: No space left on device .*; the first 6 steps are saved: .*",
        ),
    ],
)
def test_a_lost_process_and_a_full_disk_end_both_in_one_line(
    end: str, said: str, tmp_path: Path, capfd: pytest.CaptureFixture
) -> None:
    words = [*data_overrides(*make_coco(tmp_path / "data")), *SAVING]
    if end == "full":
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / METRICS).symlink_to("/dev/full")
    with pytest.raises(FailureError, match=said):
        launch(_train_until, (tmp_path / "run", end, tiny_config("FPN", words)), processes=2)
    assert "Traceback" not in capfd.readouterr().err
    found = Checkpoints(tmp_path / "run").load()
    assert found is not None
    assert found.state["step"] == (6 if end == "full" else 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--num-gpus", "3", "SOLVER.IMS_PER_BATCH", "4"], r"SOLVER.IMS_PER_BATCH is 4, .* with 3 processes; give a m"),
        (["--num-gpus", "2", "MODEL.DEVICE", "cuda:0"], r"MODEL.DEVICE is 'cuda:0' and --num-gpus 2: they would have"),
        (
            ["--num-gpus", "99", "MODEL.DEVICE", "auto"],
            r"--num-gpus is 99, there are \d+ GPUs here; .*DEVICE cpu",
        ),
        (["--num-machines", "2"], r"--dist-url auto works on one machine only"),
    ],
)
def test_processes_that_cannot_be_are_refused_in_one_line(
    words: list[str], said: str, cli: Callable[..., CompletedProcess[str]], tmp_path: Path
) -> None:
    data = data_overrides(*make_coco(tmp_path / "data"))
    config = (
        "--engine",
        "torchvision",
        "--config-file",
        "COCO-Detection/Base-RCNN-FPN.yaml",
        "--out",
        tmp_path / "run",
    )
    done = cli("detect", "train", *config, *TINY_FPN, *data, *words)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "error" in line]
    assert re.search(said, line)
    assert not (tmp_path / "run").exists()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_on_a_gpu_a_process_in_a_group_of_one_learns_what_it_does_alone(tmp_path: Path) -> None:
    """By torchrun: NCCL, and torch's exchange of gradients."""
    words = [*TINY_FPN, *data_overrides(*make_coco(tmp_path / "data")), "MODEL.DEVICE", "cuda"]
    config = ["--config-file", "COCO-Detection/Base-RCNN-FPN.yaml", "--engine", "torchvision", "--json"]
    found = []
    for start in ([], ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]):
        out = tmp_path / f"run{len(start)}"
        command = [sys.executable, *start, "-m", "scaleprior", "detect", "train", *config, "--out", out, *words]
        processes.run(command, check=True)
        (line,) = (out / METRICS).read_text().splitlines()
        found.append(json.loads(line)["loss"])
    assert found[1] == pytest.approx(found[0], rel=0.05)
