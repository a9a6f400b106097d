"""Whole runs on a tiny corpus: what they leave, that they repeat and resume to the bit, and how they fail."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
import torch
import yaml

from scaleprior.backbones import ResNetSpec, convert_backbone, load_backbone, read_card, save_backbone
from scaleprior.backbones.trunks.published import Origin
from scaleprior.config import load_config
from scaleprior.corpus import Corpus
from scaleprior.errors import FailureError, UserError
from scaleprior.pretrain import (
    evaluate_pretrained,
    pretrain,
)
from scaleprior.pretrain.data.batches import training_set
from scaleprior.pretrain.loop import trainer as trainer_module
from scaleprior.pretrain.loop.building import label_density
from scaleprior.pretrain.plan import planned_card
from scaleprior.training.checkpoint import save_checkpoint
from scaleprior.training.checkpoints import Checkpoints, SavedState
from scaleprior.training.positions import BatchPlan
from scaleprior.training.signals import Interrupted
from tests import processes
from tests.backbones.foreign import write_telling
from tests.conftest import content
from tests.pretrain.conftest import SMALL, index_images, index_verified, write_images
from tests.processes import wait_until

REPO = Path(__file__).resolve().parents[2]


def weights(folder: Path) -> tuple[bytes, bytes]:
    return (folder / "backbone.safetensors").read_bytes(), (folder / "head.safetensors").read_bytes()


def newest(folder: Path) -> SavedState:
    found = Checkpoints(folder).load()
    assert found is not None
    return found


def test_a_run_leaves_backbone_card_and_metrics(small_config: Callable, tmp_path: Path, corpus_folder: Path) -> None:
    calls: list[tuple] = []
    loaded = small_config(
        "PRETRAIN.FRACTION.IMAGES", "40", "PRETRAIN.HELD_OUT.IMAGES", "12", "PRETRAIN.NOISE.RATE", "0.2"
    )
    result = pretrain(loaded, tmp_path / "run", progress=lambda *call: calls.append(call))
    assert [(done, total) for done, total, _ in calls] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (result.images_seen, result.metrics.steps, result.metrics.epochs) == (16, 4, 0.4)
    state, card = load_backbone(result.backbone)
    assert card.arch == ResNetSpec(res2_out_channels=32, width_per_group=8)
    assert (card.images, card.labels, card.steps, card.epochs, card.seed) == (40, 8, 4, 0.4, 0)
    assert (card.pixel_mean, card.pixel_std, card.channel_order) == ((127.5,) * 3, (127.5,) * 3, "RGB")
    assert card.noise == {"rate": 0.2, "kind": "uniform", "drop": 0.0, "seed": 0}
    assert (card.name, card.input_size, card.parent) == ("R-50-w8_tiny-40_seed0", 16, None)
    assert card.recipe["PRETRAIN"]["BUDGET"] == {"UNIT": "steps", "AMOUNT": 4.0}
    assert str(tmp_path) not in card.to_json()
    assert str(corpus_folder) not in card.to_json()
    assert all(torch.isfinite(t).all() for t in state.values())
    *lines, last = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert last == {"step": 4, **result.metrics.measured.to_dict()}
    assert [(line["step"], line["images"]) for line in lines] == [(1, 4), (2, 8), (3, 12), (4, 16)]
    assert lines[-1]["loss"] == result.metrics.loss == calls[-1][2]["loss"]
    held_out = result.metrics.held_out
    assert held_out is not None
    assert held_out.images == 12
    assert held_out.map is not None
    assert 0 <= held_out.map <= 1
    assert evaluate_pretrained(loaded, tmp_path / "run") == held_out
    assert yaml.safe_load((tmp_path / "run" / "scaleprior.yaml").read_text())["PRETRAIN"]["FRACTION"]["IMAGES"] == 40
    names = {p.name for p in (tmp_path / "run").iterdir()}
    kept = {"backbone.safetensors", "head.safetensors", "result.json", "metrics.jsonl", "run.json"}
    assert names == kept | {"config.yaml", "scaleprior.yaml"}


def test_it_learns(small_config: Callable, tmp_path: Path) -> None:
    # 8 labels, 2 of them present: always answering the base rate costs 8 * H(1/4) = 4.5 nats
    opts = ("PRETRAIN.BUDGET.AMOUNT", "60", "PRETRAIN.BATCH_SIZE", "8", "PRETRAIN.HELD_OUT.IMAGES", "18")
    result = pretrain(small_config(*opts), tmp_path / "run")
    assert result.metrics.loss < 2.5
    assert result.metrics.held_out is not None
    assert result.metrics.held_out.map is not None
    assert result.metrics.held_out.map > 0.8


def test_interrupted_and_resumed_ends_with_the_same_bits(small_config: Callable, tmp_path: Path) -> None:
    """Of crops of another kind; ``test_exact_resume`` has a case for each thing that can be switched on."""
    recipe = ("PRETRAIN.INPUT.CROP", "random_resized_crop", "INPUT.FORMAT", "BGR")
    whole = pretrain(small_config(*recipe), tmp_path / "whole")

    class Death(BaseException):
        pass

    def die_at(step: int) -> Callable:
        def progress(done: int, total: int, numbers: object) -> None:
            if done == step:
                raise Death  # before the checkpoint of this step: the work since the last one is lost

        return progress

    for step in (2, 4):
        with pytest.raises(Death):
            pretrain(small_config(*recipe), tmp_path / "broken", resume=True, progress=die_at(step))
    again = pretrain(small_config(*recipe), tmp_path / "broken", resume=True)
    assert weights(tmp_path / "broken") == weights(tmp_path / "whole")
    assert again.metrics.loss == whole.metrics.loss
    lines = [json.loads(line) for line in (tmp_path / "broken" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4]
    # finished: nothing is done again
    assert pretrain(small_config(*recipe), tmp_path / "broken", resume=True, progress=die_at(1)) == again
    other = pretrain(small_config(*recipe, "SEED", "1"), tmp_path / "other")
    assert weights(tmp_path / "other") != weights(tmp_path / "whole")
    assert other.metrics.loss != whole.metrics.loss


def test_bfloat16_is_refused_on_cpus(small_config: Callable, tmp_path: Path) -> None:
    """Of 40 backward passes of this trunk in bfloat16, torch 2.14 gave 6 a NaN in one 3x3 convolution's gradient."""
    with pytest.raises(UserError, match=r"do not repeat to the bit; use PRETRAIN.AMP off, or a GPU"):
        pretrain(small_config("PRETRAIN.AMP", "bf16"), tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


@pytest.mark.gpu
def test_bfloat16_and_channels_last_on_a_gpu(small_config: Callable, tmp_path: Path) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    loaded = small_config("MODEL.DEVICE", "cuda", "PRETRAIN.AMP", "bf16", "PRETRAIN.CHANNELS_LAST", "True")
    result = pretrain(loaded, tmp_path / "run")
    plain = pretrain(small_config(), tmp_path / "cpu")
    assert result.metrics.loss == pytest.approx(plain.metrics.loss, rel=0.1)


def start(out: Path, corpus: Path, *opts: str) -> subprocess.Popen:
    """A real process that trains for a long time, killed by the test."""
    code = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from scaleprior.config import load_config\n"
        "from scaleprior.errors import ScalePriorError\n"
        "from scaleprior.pretrain import pretrain\n"
        "try: pretrain(load_config('Pretrain/Base-Pretrain.yaml', sys.argv[2:]), sys.argv[1], resume=True)\n"
        "except ScalePriorError as e: print(e, file=sys.stderr); sys.exit(e.exit_code)\n"
    )
    command = [sys.executable, "-c", code, str(out), *SMALL, "PRETRAIN.CORPUS", str(corpus), *opts]
    return processes.start(command, stdout=None)


def wait_for(process: subprocess.Popen, metrics: Path, lines: int) -> None:
    """Until the run has written so many lines of figures, and goes on."""
    wait_until(lambda: metrics.exists() and metrics.read_text().count("\n") >= lines, process)
    assert process.poll() is None, "it ended early"


def test_killed_process_loses_at_most_one_step_and_ends_with_the_same_bits(
    small_config: Callable, tmp_path: Path, corpus_folder: Path
) -> None:
    opts = ("PRETRAIN.BUDGET.AMOUNT", "30")
    killed = tmp_path / "killed"
    process = start(killed, corpus_folder, *opts)
    wait_for(process, killed / "metrics.jsonl", 7)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    done = (killed / "metrics.jsonl").read_text().count("\n")
    assert not (killed / "backbone.safetensors").exists()
    resumed_at: list[int] = []
    pretrain(small_config(*opts), killed, resume=True, progress=lambda d, t, n: resumed_at.append(d))
    assert resumed_at[0] >= done  # steps are counted from 1; the line of a step is written before its checkpoint
    pretrain(small_config(*opts), tmp_path / "whole")
    assert weights(killed) == weights(tmp_path / "whole")


def test_sigterm_saves_and_exits_143(small_config: Callable, tmp_path: Path, corpus_folder: Path) -> None:
    opts = ("PRETRAIN.BUDGET.AMOUNT", "30", "PRETRAIN.CHECKPOINT_PERIOD", "0")
    out = tmp_path / "run"
    process = start(out, corpus_folder, *opts)
    wait_for(process, out / "metrics.jsonl", 3)
    process.terminate()
    _, said = process.communicate()
    assert process.returncode == 143
    assert "stopped by SIGTERM after step" in said
    steps: list[int] = []
    pretrain(small_config(*opts), out, resume=True, progress=lambda d, t, n: steps.append(d))
    assert 4 <= steps[0] < 30
    pretrain(small_config(*opts), tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


def test_sigterm_inside_the_process_raises_interrupted(small_config: Callable, tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate(done: int, total: int, numbers: object) -> None:
        if done == 1:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Interrupted, match=r"after step 2 of 4; add resume=True") as error:
        pretrain(small_config(), tmp_path / "run", progress=terminate)
    assert error.value.exit_code == 143
    checkpoint, state = newest(tmp_path / "run")  # as versions wrote it whose trunks had other names
    state["model"] = {name.replace("trunk.body.", "trunk."): tensor for name, tensor in state["model"].items()}
    save_checkpoint(checkpoint, state)
    with pytest.raises(UserError, match=r"written by another version: RuntimeError: .*remove the file to start"):
        pretrain(small_config(), tmp_path / "run", resume=True)
    assert signal.getsignal(signal.SIGTERM) is before


def test_folders_of_other_runs_are_refused(small_config: Callable, tmp_path: Path) -> None:
    pretrain(small_config(), tmp_path / "run")
    with pytest.raises(UserError, match=r"already holds a pretraining run; add resume=True"):
        pretrain(small_config(), tmp_path / "run")
    for change in (("SEED", "1"), ("PRETRAIN.NOISE.RATE", "0.1"), ("PRETRAIN.FRACTION.IMAGES", "30")):
        with pytest.raises(UserError, match=r"holds a run with another config"):
            pretrain(small_config(*change), tmp_path / "run", resume=True)
    changes = r"\(SEED is 1 now, 0 then; PRETRAIN.NOISE.RATE is 0.1 now, 0.0 then\); resume"
    with pytest.raises(UserError, match=changes):
        pretrain(small_config("SEED", "1", "PRETRAIN.NOISE.RATE", "0.1"), tmp_path / "run", resume=True)
    # what changes nothing about the result may change
    pretrain(
        small_config("PRETRAIN.METRICS_PERIOD", "3", "PRETRAIN.LOADER.NUM_WORKERS", "1"), tmp_path / "run", resume=True
    )


def test_a_label_space_that_changed_under_a_run_is_named(small_config: Callable, tmp_path: Path) -> None:
    """Its index was made anew: a label more, and its images."""
    source = write_images(tmp_path / "images", 10)
    index_images(source, tmp_path / "index")
    words = ("PRETRAIN.CORPUS", str(tmp_path / "index"), "PRETRAIN.FRACTION.IMAGES", "40")
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(*words), tmp_path / "run", progress=stop_at(2))
    before = content(tmp_path / "run")
    hierarchy = json.loads((source / "hierarchy.json").read_text())
    hierarchy["nodes"]["pink"] = {"name": "pink", "parents": ["warm"]}
    (source / "hierarchy.json").write_text(json.dumps(hierarchy))
    shutil.copytree(source / "red", source / "pink")
    shutil.rmtree(tmp_path / "index")
    index_images(source, tmp_path / "index")
    said = r"run holds a run with another label space \(9 labels now, 8 then\); resume with what it was started with"
    with pytest.raises(UserError, match=said) as refused:
        pretrain(small_config(*words), tmp_path / "run", resume=True)
    assert (refused.value.exit_code, len(str(refused.value).splitlines())) == (2, 1)
    assert content(tmp_path / "run") == before
    # an earlier version's folder, which does not say what the run was made of
    identity = json.loads((tmp_path / "run" / "run.json").read_text())
    del identity["made_of"], identity["sha256"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(identity))
    with pytest.raises(UserError, match=r"holds a run with another config, corpus or number of processes; resume"):
        pretrain(small_config(*words), tmp_path / "run", resume=True)


def stop_at(step: int) -> Callable[[int, int, object], None]:
    def progress(done: int, total: int, numbers: object) -> None:
        if done == step:
            raise KeyboardInterrupt  # before the checkpoint of this step

    return progress


@pytest.mark.parametrize(
    ("change", "spoil", "said"),
    [
        (("SEED", "1"), None, "holds a run with another config"),
        (("SEED", "1"), lambda run: (run / "run.json").write_text("{"), "0001.safetensors holds a run with another"),
        (("SEED", "1"), lambda run: (run / "run.json").unlink(), "0001.safetensors holds a run with another"),
    ],
)
def test_a_refused_resume_leaves_the_folder_as_it_was(
    change: tuple[str, ...], spoil: Callable | None, said: str, small_config: Callable, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    with pytest.raises(KeyboardInterrupt):
        pretrain(small_config(), run, progress=stop_at(2))
    if spoil is not None:
        spoil(run)
    before = content(run)
    with pytest.raises(UserError, match=re.escape(said)):
        pretrain(small_config(*change), run, resume=True)
    assert content(run) == before


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_images(small_config: Callable, tmp_path: Path) -> None:
    loaded = small_config("PRETRAIN.OPTIMIZER.BASE_LR", "1e30", "PRETRAIN.SCHEDULE.WARMUP", "0")
    with pytest.raises(FailureError, match=r"loss is (nan|inf) at step \d, with images '[a-z]+/\d\.png', .*BASE_LR"):
        pretrain(loaded, tmp_path / "run")
    assert not (tmp_path / "run" / "backbone.safetensors").exists()


def test_unreadable_images_are_counted_up_to_a_share(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = write_images(tmp_path / "images", 10)
    index_images(source, tmp_path / "index")
    (source / "red" / "3.png").write_bytes((source / "red" / "3.png").read_bytes()[:200])
    opts = [*SMALL, "PRETRAIN.CORPUS", str(tmp_path / "index"), "PRETRAIN.BUDGET.UNIT", "epochs"]
    loaded = load_config("Pretrain/Base-Pretrain.yaml", [*opts, "PRETRAIN.BUDGET.AMOUNT", "1"])
    result = pretrain(loaded, tmp_path / "run")
    assert (result.metrics.unreadable, result.images_seen) == (1, 59)
    assert "skipped image 'red/3.png'" in caplog.text
    strict = load_config("Pretrain/Base-Pretrain.yaml", [*opts, "PRETRAIN.LOADER.MAX_UNREADABLE", "0.01"])
    with pytest.raises(UserError, match=r"1 file that is shorter than when indexed"):
        pretrain(strict, tmp_path / "strict")  # the check sees it
    assert not (tmp_path / "strict").exists()
    with pytest.raises(FailureError, match=r"1 of \d+ images read so far are unreadable, more than the share 0.01"):
        pretrain(strict, tmp_path / "strict", check=False)


def spoil(image: Path) -> None:
    """As many bytes as before, which no check of sizes sees."""
    image.write_bytes(bytes(len(image.read_bytes())))


@pytest.mark.parametrize(
    ("limit", "message"),
    [("0.0", "1 of 12 images read so far are unreadable"), ("1.0", r"step 2: 4 of 4 images cannot be read, first '")],
)
@pytest.mark.parametrize("workers", ["0", "1"])
def test_images_that_go_bad_lose_no_step(tmp_path: Path, limit: str, message: str, workers: str) -> None:
    """A few, and all of a batch. What BN remembers is that of the steps before, too."""
    source = write_images(tmp_path / "images", 10)
    corpus = index_images(source, tmp_path / "index")
    keys = corpus.fraction(images=60).keys()
    rows, _ = BatchPlan(60, 4, 0, 0, 1)(2)
    bad = [source / keys[row] for row in rows[: 1 if limit == "0.0" else 4]]
    sound = {image: image.read_bytes() for image in bad}
    opts = [*SMALL, "PRETRAIN.CORPUS", str(tmp_path / "index"), "PRETRAIN.CHECKPOINT_PERIOD", "0"]
    opts += ["PRETRAIN.LOADER.MAX_UNREADABLE", limit, "PRETRAIN.LOADER.NUM_WORKERS", workers]
    loaded = load_config("Pretrain/Base-Pretrain.yaml", opts)
    whole = pretrain(loaded, tmp_path / "whole")
    for image in bad:
        spoil(image)
    with pytest.raises(FailureError, match=message + r".*the 2 steps before it are saved: .* with resume=True$"):
        pretrain(loaded, tmp_path / "part")
    for image, data in sound.items():
        image.write_bytes(data)
    steps: list[int] = []
    resumed = pretrain(loaded, tmp_path / "part", resume=True, progress=lambda done, total, numbers: steps.append(done))
    assert steps == [3, 4]
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")
    assert (resumed.metrics.unreadable, resumed.images_seen) == (0, whole.images_seen)


def test_an_image_that_is_bad_at_the_first_step_leaves_no_checkpoint(tmp_path: Path) -> None:
    source = write_images(tmp_path / "images", 1)
    index_images(source, tmp_path / "index")
    for image in source.glob("*/*.png"):
        spoil(image)
    loaded = load_config("Pretrain/Base-Pretrain.yaml", [*SMALL, "PRETRAIN.CORPUS", str(tmp_path / "index")])
    with pytest.raises(
        FailureError, match=r"step 0: 4 of 4 images cannot be read, .*; check the corpus' files; [^;]*$"
    ):
        pretrain(loaded, tmp_path / "run")
    assert Checkpoints(tmp_path / "run").paths() == []


@pytest.mark.slow
def test_an_image_that_goes_bad_on_one_of_two_processes_loses_no_step(tmp_path: Path) -> None:
    """The other one writes the checkpoint, and waits for nobody."""
    source = write_images(tmp_path / "images", 10)
    corpus = index_images(source, tmp_path / "index")
    rows, _ = BatchPlan(60, 8, 0, 1, 2)(2)
    spoil(source / corpus.fraction(images=60).keys()[rows[0]])
    opts = [*SMALL, "PRETRAIN.CORPUS", str(tmp_path / "index"), "PRETRAIN.CHECKPOINT_PERIOD", "0"]
    opts += ["PRETRAIN.LOADER.MAX_UNREADABLE", "0.0", "PRETRAIN.BATCH_SIZE", "8", "OUTPUT_DIR", "run"]
    tool = [sys.executable, str(REPO / "tools" / "pretrain_net.py"), "--config-file", "Pretrain/Base-Pretrain.yaml"]
    command = [*tool, "--runtime", "plain", "--num-gpus", "2", *opts]
    done = processes.run(command, cwd=tmp_path)
    assert done.returncode == 1
    assert "1 of 24 images read so far are unreadable" in done.stderr
    assert newest(tmp_path / "run").state["counters"]["step"] == 2


def test_training_goes_on_from_other_weights(
    small_config: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = pretrain(small_config(), tmp_path / "first")
    weights_key = ("MODEL.WEIGHTS", str(first.backbone))
    tiny_steps = ("PRETRAIN.OPTIMIZER.BASE_LR", "1e-12", "PRETRAIN.BUDGET.AMOUNT", "1")
    second = pretrain(small_config(*weights_key, *tiny_steps), tmp_path / "second")
    before, card = load_backbone(first.backbone)
    after, _ = load_backbone(second.backbone)
    assert torch.allclose(before["res4.2.conv2.weight"], after["res4.2.conv2.weight"], atol=1e-9)
    parent = read_card(second.backbone).parent
    assert parent == {"name": card.name, "tensors_sha256": card.tensors_sha256}
    # what the run was configured with is known of its backbone, whatever was assumed of the parent's
    assert {origin.kind for origin in read_card(second.backbone).facts.values()} == {"file"}
    assert "assumed" not in caplog.text
    save_backbone(first.backbone, before, replace(card, facts={"channel_order": Origin("assumed", "usual values")}))
    pretrain(small_config(*weights_key, *tiny_steps), tmp_path / "fourth")
    said = "assumed, not known, of backbone R-50-w8_tiny-60_seed0: channel_order RGB (usual values)"
    assert caplog.text.count(said) == caplog.text.count("assumed, ") == 1
    with pytest.raises(UserError, match=r"does not fit the config: INPUT.FORMAT is 'BGR'; use INPUT.FORMAT RGB"):
        pretrain(small_config(*weights_key, "INPUT.FORMAT", "BGR"), tmp_path / "third")


def test_training_goes_on_from_a_foreign_file_as_from_its_conversion(
    small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCALEPRIOR_HOME", str(tmp_path / "home"))
    spec = ResNetSpec(depth=50, res2_out_channels=32, width_per_group=8)
    source = write_telling(tmp_path / "x.pth", spec=spec)
    convert_backbone(source, tmp_path / "x.safetensors")
    pixels = ("MODEL.PIXEL_MEAN", "[123.675, 116.28, 103.53]", "MODEL.PIXEL_STD", "[58.395, 57.12, 57.375]")
    written = []
    for name, weights in (("way", source), ("hand", tmp_path / "x.safetensors")):
        words = (*pixels, "INPUT.FORMAT", "RGB", "PRETRAIN.BUDGET.AMOUNT", "1", "MODEL.WEIGHTS", str(weights))
        written.append(pretrain(small_config(*words), tmp_path / name).backbone.read_bytes())
    assert written[0] == written[1]
    assert len(list((tmp_path / "home" / "zoo" / "converted").iterdir())) == 1
    with pytest.raises(UserError, match=r"weights s3://b/x\.pth: this is an object of S3"):
        pretrain(small_config("MODEL.WEIGHTS", "s3://b/x.pth"), tmp_path / "none")


def test_head_bias_starts_at_the_prior(small_config: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[float] = []

    def stop(self: trainer_module.PretrainTrainer, *args: object) -> None:
        seen.append(self.model.head.bias.unique().item())
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer_module.PretrainTrainer, "train", stop)
    for number, (prior, expected) in enumerate((("0.01", 0.01), ("0.0", 0.25))):  # 2 of 8 labels are present
        with pytest.raises(KeyboardInterrupt):
            pretrain(small_config("PRETRAIN.HEAD.PRIOR", prior), tmp_path / str(number))
        assert 1 / (1 + math.exp(-seen[-1])) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("PRETRAIN.BATCH_SIZE", "0", r"PRETRAIN.BATCH_SIZE is 0; give a whole number of at least 1"),
        ("PRETRAIN.BUDGET.UNIT", "hours", r"BUDGET.UNIT is 'hours'; take one of epochs, steps, images"),
        ("PRETRAIN.BUDGET.AMOUNT", "0", r"BUDGET.AMOUNT is 0.0; give a number above 0"),
        ("PRETRAIN.OPTIMIZER.NAME", "adam", r"OPTIMIZER.NAME is 'adam'; take one of sgd, rmsprop, adamw, lamb"),
        ("PRETRAIN.OPTIMIZER.BASE_LR", "float('nan')", r"BASE_LR is .*float"),
        ("PRETRAIN.NOISE.RATE", "1.5", r"NOISE.RATE is 1.5; give a number from 0 to 1"),
        ("PRETRAIN.INPUT.SCALE", "(0.5, 0.2)", r"INPUT.SCALE is \(0.5, 0.2\)"),
        ("PRETRAIN.INPUT.SIZE", "32", r"RESIZE is 20, smaller than the crops of SIZE 32"),
        ("PRETRAIN.CORPUS", "", r"PRETRAIN.CORPUS is not set"),
        ("PRETRAIN.CORPUS", "nowhere", r"nowhere"),
        ("MODEL.RESNETS.NORM", "FrozenBN", r"NORM is 'FrozenBN': pretraining needs a norm that learns"),
        ("PRETRAIN.BATCH_SIZE", "1", r"leaves BN one value per channel"),
        ("MODEL.DEVICE", "gpu", r"MODEL.DEVICE is 'gpu', which is not a device"),
    ],
)
def test_illegal_values_are_refused_before_anything_is_written(
    small_config: Callable, tmp_path: Path, key: str, value: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(small_config(key, value), tmp_path / "run")
    assert not (tmp_path / "run").exists()


SHIPPED = [p for p in (REPO / "configs" / "Pretrain").glob("*.yaml") if not p.stem.startswith("Base-ConvNeXt")]


@pytest.mark.parametrize("path", sorted(SHIPPED), ids=lambda p: p.stem)  # the bases of ConvNeXt name no trunk
def test_every_shipped_config_loads_and_is_legal(path: Path) -> None:
    card = planned_card(load_config(path, ["PRETRAIN.CORPUS", "x"]).cfg)
    assert card.arch.stride_in_1x1 is False
    assert card.channel_order == "RGB"


def load_tool() -> ModuleType:
    spec = importlib.util.spec_from_file_location("pretrain_net", REPO / "tools" / "pretrain_net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_tool_with_two_processes_then_evaluation(
    tmp_path: Path, corpus_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    opts = [*SMALL, "PRETRAIN.CORPUS", str(corpus_folder), "PRETRAIN.HELD_OUT.IMAGES", "12", "OUTPUT_DIR"]
    flags = ["--config-file", "Pretrain/Base-Pretrain.yaml", "--runtime", "plain"]
    command = [sys.executable, str(REPO / "tools" / "pretrain_net.py"), *flags, "--num-gpus", "2", *opts, "run"]
    done = processes.run(command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    metrics = json.loads((tmp_path / "run" / "result.json").read_text())
    assert (metrics["steps"], metrics["images_seen"]) == (4, 16)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["processes"] == 2
    assert done.stdout.count("backbone.safetensors") == 1  # one process speaks
    tool = load_tool()
    assert tool.main([*flags, "--eval-only", *opts, str(tmp_path / "run")]) == 0
    assert f"'map': {metrics['held_out']['map']}" in capsys.readouterr().out
    assert tool.main([*flags, "--resume", *opts, str(tmp_path / "run")]) == 2
    assert "with another number of processes (1 now, 2 then)" in capsys.readouterr().err


def test_tool_refuses_in_one_line(capsys: pytest.CaptureFixture) -> None:
    tool = load_tool()
    flags = ["--config-file", "Pretrain/Base-Pretrain.yaml", "--runtime", "plain"]
    for wrong, said in (
        (["--num-machines", "2"], "--dist-url auto works on one machine only; give tcp://HOST:PORT of machine 0"),
        (["--num-gpus", "2", "--dist-url", "file:///x"], "--dist-url is 'file:///x'; give tcp://HOST:PORT"),
        (["--num-gpus", "-1"], "-1 processes on machine 0 of 1"),
        (["--machine-rank", "1"], "1 processes on machine 1 of 1"),
        (["SEED", "one"], "SEED is 'one'"),
    ):
        assert tool.main([*flags, *wrong]) == 2
        assert capsys.readouterr().err.startswith(f"pretrain_net: error: {said}")


def test_tool_takes_no_gpus_as_one_process_on_the_cpu() -> None:
    args = load_tool().parse(["--config-file", "x.yaml", "--num-gpus", "0", "SEED", "1"])
    assert (args.num_gpus, args.opts) == (1, ["SEED", "1", "MODEL.DEVICE", "cpu"])


def test_tool_inside_torchrun_refuses_to_start_more(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    flags = ["--config-file", "Pretrain/Base-Pretrain.yaml", "--runtime", "plain", "--num-gpus", "2"]
    assert load_tool().main(flags) == 2
    assert "under torchrun leave --num-gpus and --num-machines at 1" in capsys.readouterr().err


def test_tool_without_a_working_detectron2(
    capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A package of that name that cannot be imported: a warning and the plain runtime, or, if asked for, an error."""
    for name in [n for n in sys.modules if n.split(".")[0] == "detectron2" or n.startswith("scaleprior.d2")]:
        monkeypatch.delitem(sys.modules, name)
    (tmp_path / "detectron2").mkdir()
    (tmp_path / "detectron2" / "__init__.py").write_text("raise OSError('_C.so: undefined\\nsymbol')")
    monkeypatch.syspath_prepend(tmp_path)
    tool = load_tool()
    assert tool.detectron2_runtime("auto") is None
    said = capsys.readouterr().err
    assert said.startswith("pretrain_net: warning: going on without Detectron2: ")
    assert "OSError: _C.so: undefined symbol" in said
    assert said.count("\n") == 1
    with pytest.raises(UserError, match=r"OSError: _C.so.*https://detectron2"):
        tool.detectron2_runtime("detectron2")
    monkeypatch.setattr(tool, "find_spec", lambda name: None)
    assert tool.detectron2_runtime("auto") is None
    assert tool.detectron2_runtime("plain") is None
    assert capsys.readouterr().err == ""


def test_finished_runs_of_the_first_schema_are_still_finished(small_config: Callable, tmp_path: Path) -> None:
    """Their result was called metrics.json, the name that Detectron2 has for something else."""
    run = tmp_path / "run"
    first = pretrain(small_config(), run)
    (run / "result.json").rename(run / "metrics.json")
    identity = json.loads((run / "run.json").read_text())
    del identity["sha256"]  # which those had not
    (run / "run.json").write_text(json.dumps({**identity, "schema": 1}))
    assert pretrain(small_config(), run, resume=True) == first
    # and under the present schema a metrics.json is Detectron2's, no sign of the end
    (run / "run.json").write_text(json.dumps(identity))
    steps: list[int] = []
    again = pretrain(small_config(), run, resume=True, progress=lambda d, t, n: steps.append(d))
    assert (steps[0], again.metrics.loss) == (1, first.metrics.loss)


def test_a_run_that_ignores_what_is_unknown(small_config: Callable, tmp_path: Path) -> None:
    corpus = index_verified(tmp_path)
    keys = "PRETRAIN.CORPUS", str(corpus), "PRETRAIN.HELD_OUT.IMAGES", "12", "PRETRAIN.BUDGET.AMOUNT", "6"
    ignoring = small_config(*keys, "PRETRAIN.LOSS.UNLABELLED", "ignore")
    result = pretrain(ignoring, tmp_path / "ignore")
    assert result.metrics.held_out is not None
    # a leaf and its parent are present, the other parent and its three leaves absent: 6 of 8
    assert result.metrics.held_out.known == pytest.approx(6 / 8)
    assert read_card(result.backbone).recipe["PRETRAIN"]["LOSS"] == {"UNLABELLED": "ignore"}
    plain = pretrain(small_config(*keys), tmp_path / "negative")
    assert "LOSS" not in read_card(plain.backbone).recipe["PRETRAIN"]  # a key at its default changes no fingerprint
    assert weights(tmp_path / "ignore") != weights(tmp_path / "negative")
    # the head starts at the share of the known labels that are present, 2 of 6, not of all 8
    assert label_density(training_set(ignoring.cfg, Corpus.open(corpus)), 8) == pytest.approx(2 / 6)
