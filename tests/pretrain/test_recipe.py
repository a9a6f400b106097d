"""What a recipe says beside optimiser and schedule, and the recipes that ship."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from timm.layers import DropPath

from scaleprior.backbones import ResNetSpec, read_card
from scaleprior.backbones.weights import load_canonical
from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.cli import main
from scaleprior.config import data_file, load_config
from scaleprior.errors import UserError
from scaleprior.parsing import read_json
from scaleprior.pretrain import evaluate_pretrained, pretrain
from scaleprior.pretrain.loop.building import build_model
from scaleprior.pretrain.network.pretrainer import Pretrainer
from scaleprior.pretrain.optim.optimizers import build_optimizer
from scaleprior.pretrain.plan import planned_card
from scaleprior.training.checkpoint import load_checkpoint
from tests.pretrain.conftest import TINY
from tests.pretrain.test_run import stop_at, weights


def test_what_ran_is_what_every_file_says(
    small_config: Callable, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One process of 2 images at a rate for 4 is, to the bit and to the hash, 2 images at half the rate."""
    caplog.set_level("INFO", logger="scaleprior")
    following = small_config("PRETRAIN.BATCH_PER_PROCESS", "2", "PRETRAIN.REFERENCE_BATCH", "4")
    result = pretrain(following, tmp_path / "following")
    assert "BATCH_SIZE 2 (2 on each of 1 processes), BASE_LR 0.01 (0.02 for 4)" in caplog.text
    plain = small_config("PRETRAIN.BATCH_SIZE", "2", "PRETRAIN.OPTIMIZER.BASE_LR", "0.01")
    pretrain(plain, tmp_path / "plain")
    assert weights(tmp_path / "following") == weights(tmp_path / "plain")
    first, second = (json.loads((tmp_path / run / "run.json").read_text()) for run in ("following", "plain"))
    assert first["fingerprint"] == second["fingerprint"]
    saved = yaml.safe_load((tmp_path / "following" / "scaleprior.yaml").read_text())["PRETRAIN"]
    said = read_card(result.backbone).recipe["PRETRAIN"]
    for node in (saved, said):
        assert (node["BATCH_SIZE"], node["OPTIMIZER"]["BASE_LR"]) == (2, 0.01)
    assert (saved["BATCH_PER_PROCESS"], saved["REFERENCE_BATCH"]) == (0, 0)
    # the run is found again by its own config and by the one it was started with
    assert pretrain(following, tmp_path / "following", resume=True) == result
    assert pretrain(tmp_path / "following" / "config.yaml", tmp_path / "following", resume=True) == result


RECIPES = sorted(p.stem for p in data_file("configs", "Pretrain/quickstart.yaml").parent.glob("*.yaml"))
NARROW = ("MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4")
SHORT = (
    *("MODEL.DEVICE", "cpu", "PRETRAIN.AMP", "off", "PRETRAIN.BUDGET.UNIT", "steps", "PRETRAIN.BUDGET.AMOUNT", "2"),
    *("PRETRAIN.BATCH_SIZE", "2", "PRETRAIN.INPUT.SIZE", "32", "PRETRAIN.INPUT.RESIZE", "36"),
    *("PRETRAIN.LOADER.NUM_WORKERS", "0", "PRETRAIN.HELD_OUT.IMAGES", "0"),
)


TRAINED = [name for name in RECIPES if not re.match("Base|R_101|R_152|convnext_(small|tiny_.*jft)", name)]


@pytest.mark.parametrize("name", TRAINED)
def test_every_recipe_trains(name: str, corpus_folder: Path, tmp_path: Path) -> None:
    """Narrow and small, 2 steps. Left out are other depths of the same, and all but one of ConvNeXt, of which there is
    no narrow one; each is planned in test_run.py."""
    words = [*SHORT, *(() if name.startswith("convnext") else NARROW), "PRETRAIN.CORPUS", str(corpus_folder)]
    if name.endswith("_then_jft"):  # from what the recipe before it made, as its text says
        before = name.removesuffix("_then_jft")
        start = pretrain(load_config(f"Pretrain/{before}.yaml", words), tmp_path / "start").backbone
        words += ["MODEL.WEIGHTS", str(start)]
    result = pretrain(load_config(f"Pretrain/{name}.yaml", words), tmp_path / "run")
    assert result.metrics.steps == 2
    assert math.isfinite(result.metrics.loss)
    card = read_card(result.backbone)
    assert (card.parent is not None) == name.endswith("_then_jft")
    assert ("weights" in card.recipe) == (name == "convnext_tiny_imagenet")


@pytest.mark.parametrize("size", ["tiny", "small"])
def test_convnexts_recipe_is_its_authors_as_far_as_it_says(size: str) -> None:
    """facebookresearch/ConvNeXt 048efce: TRAINING.md and the defaults of main.py."""
    node = load_config(f"Pretrain/convnext_{size}_imagenet.yaml").cfg.PRETRAIN
    optimizer = node.OPTIMIZER
    assert (optimizer.NAME, optimizer.BASE_LR, optimizer.WEIGHT_DECAY) == ("adamw", 4e-3, 0.05)
    assert (node.REFERENCE_BATCH, node.BATCH_PER_PROCESS) == (4096, 128)
    assert (node.BUDGET.UNIT, node.BUDGET.AMOUNT, node.SCHEDULE.WARMUP, node.EMA.DECAY) == ("epochs", 300, 20, 0.9999)
    assert {"tiny": 0.1, "small": 0.4}[size] == node.DROP_PATH
    large = load_config(f"Pretrain/convnext_{size}_jft.yaml").cfg.PRETRAIN
    assert pytest.approx(5 / 90) == large.SCHEDULE.WARMUP
    assert (large.EMA.DECAY, large.DROP_PATH) == (0, 0)


def test_a_start_of_a_recipe_is_one_of_the_catalogue() -> None:
    entries = load_catalogue(user=False).entries
    for name in (name for name in RECIPES if name.endswith("_then_jft")):
        cfg = load_config(f"Pretrain/{name}.yaml", ["PRETRAIN.CORPUS", "x"]).cfg
        entry, planned = entries[cfg.MODEL.WEIGHTS.removeprefix("scaleprior://")], planned_card(cfg)
        assert (entry.trunk, entry.depth) == (planned.arch.family.name, planned.arch.depth)
        assert (tuple(entry.pixel_mean), tuple(entry.pixel_std)) == (planned.pixel_mean, planned.pixel_std)


STEADY = ("PRETRAIN.SCHEDULE.NAME", "constant", "PRETRAIN.SCHEDULE.WARMUP", "0")


def test_what_is_saved_and_evaluated_is_the_average(
    small_config: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """With a constant rate the weights after step t are those of a run of t steps, so the average is known."""

    def run(name: str, steps: int, *words: str) -> dict[str, torch.Tensor]:
        loaded = small_config(*TINY, *STEADY, "PRETRAIN.BUDGET.AMOUNT", str(steps), *words)
        result = pretrain(loaded, tmp_path / name, check=False)
        head = load_checkpoint(tmp_path / name / "head.safetensors")["head"]
        return {**load_canonical(result.backbone)[0], **head}

    start = run("start", 1, "PRETRAIN.OPTIMIZER.BASE_LR", "1e-30")  # which moves nothing but BN's statistics
    expected, after = {name: t.double() for name, t in start.items() if "running" not in name}, start
    for t in range(3):
        d = min(0.15, (1 + t) / (10 + t))
        after = run(f"plain{t}", t + 1)
        expected = {name: d * value + (1 - d) * after[name].double() for name, value in expected.items()}
    average = ("PRETRAIN.EMA.DECAY", "0.15")
    averaged = run("averaged", 3, *average, "PRETRAIN.EVAL.PERIOD", "2")
    for name, value in expected.items():
        torch.testing.assert_close(averaged[name].double(), value, rtol=1e-6, atol=1e-7)
    assert not torch.equal(averaged["weight"], after["weight"])
    # what is measured on the way is the average of then
    run("shorter", 2, *average)
    lines = map(json.loads, (tmp_path / "averaged" / "metrics.jsonl").read_text().splitlines())
    (on_the_way,) = [line["held_out/map"] for line in lines if line["step"] == 2 and "held_out/map" in line]
    assert on_the_way == read_json(tmp_path / "shorter" / "result.json", what="result")["held_out"]["map"]
    loaded = small_config(*TINY, *STEADY, "PRETRAIN.BUDGET.AMOUNT", "3", *average)
    result = pretrain(loaded, tmp_path / "averaged", resume=True)
    assert result.metrics.held_out == evaluate_pretrained(loaded, tmp_path / "averaged")
    # and the files say which they are
    said = "averaged over the steps: decay 0.15, at most (1 + t) / (10 + t) after step t"
    assert read_card(result.backbone).recipe["weights"] == said
    assert main(["backbone", "show", str(result.backbone)]) == 0
    assert f"weights                {said}" in re.sub(r" {2,}", " " * 16, capsys.readouterr().out)
    plain = read_card(tmp_path / "plain2" / "backbone.safetensors")
    assert not {"weights", "relative_pixels"} & set(plain.recipe)
    assert not {"EMA", "DROP_PATH", "FREEZE"} & set(plain.recipe["PRETRAIN"])


def test_a_probe_teaches_the_head_alone(small_config: Callable, tmp_path: Path) -> None:
    parent = pretrain(small_config(*TINY), tmp_path / "parent", check=False)
    words = (*TINY, "MODEL.WEIGHTS", str(parent.backbone), "PRETRAIN.FREEZE", "trunk", "PRETRAIN.EMA.DECAY", "0.5")
    loaded = small_config(*words, "SEED", "7", "PRETRAIN.OPTIMIZER.WEIGHT_DECAY", "0.1")
    with pytest.raises(KeyboardInterrupt):
        pretrain(loaded, tmp_path / "part", check=False, progress=stop_at(2))
    part = pretrain(loaded, tmp_path / "part", resume=True)
    whole = pretrain(loaded, tmp_path / "whole", check=False)
    assert weights(tmp_path / "part") == weights(tmp_path / "whole")
    assert part.metrics.held_out == whole.metrics.held_out == evaluate_pretrained(loaded, tmp_path / "whole")
    assert read_card(whole.backbone) == read_card(parent.backbone)  # the hash of the tensors among it
    assert whole.backbone.read_bytes() == parent.backbone.read_bytes()
    heads = [load_checkpoint(tmp_path / run / "head.safetensors")["head"]["weight"] for run in ("parent", "whole")]
    assert not torch.equal(*heads)
    assert read_json(tmp_path / "whole" / "run.json", what="run")["parent"] == read_card(parent.backbone).tensors_sha256


def test_a_frozen_trunk_has_no_gradients_and_keeps_its_statistics() -> None:
    spec = ResNetSpec(depth=50, res2_out_channels=16, width_per_group=4)
    model = Pretrainer(spec, 3, pixel_mean=[0.0] * 3, pixel_std=[255.0] * 3, bias=0.0).freeze_trunk().train()
    assert model.head.training
    assert not model.trunk.training
    before = {name: tensor.clone() for name, tensor in model.trunk.state_dict().items()}
    model(torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)).sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["head.weight", "head.bias"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.trunk.state_dict().items())
    cfg = load_config("Pretrain/Base-Pretrain.yaml").cfg
    groups = build_optimizer(cfg, model).param_groups
    assert [[tuple(p.shape) for p in group["params"]] for group in groups] == [[(3, 128)], [(3,)]]
    assert set(model.learning_state()) == {"head.weight", "head.bias"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("PRETRAIN.FREEZE", "trunk"), r"FREEZE is 'trunk' without MODEL.WEIGHTS: a fresh trunk would stay as it is"),
        (("PRETRAIN.FREEZE", "head"), r"FREEZE is 'head'; take one of none, trunk"),
        (
            ("PRETRAIN.FREEZE", "trunk", "MODEL.WEIGHTS", "x", "PRETRAIN.DROP_PATH", "0.1"),
            r"DROP_PATH is 0.1 with PRETRAIN.FREEZE trunk: it has no effect .*; set PRETRAIN.DROP_PATH 0.0, or",
        ),
        (
            ("PRETRAIN.FREEZE", "trunk", "MODEL.WEIGHTS", "x", "PRETRAIN.NORM_STATISTICS", "all"),
            r"NORM_STATISTICS is 'all' with PRETRAIN.FREEZE trunk",
        ),
        (("PRETRAIN.EMA.DECAY", "1.0"), r"EMA.DECAY is 1.0; give a number of at least 0 and below 1"),
        (("PRETRAIN.DROP_PATH", "-0.1"), r"DROP_PATH is -0.1; give"),
        (("PRETRAIN.LOSS.SMOOTHING", "1.0"), r"LOSS.SMOOTHING is 1.0; give"),
        (("PRETRAIN.REFERENCE_BATCH", "-1"), r"REFERENCE_BATCH is -1; give a whole number of at least 0 \(images\)"),
        (("PRETRAIN.BATCH_PER_PROCESS", "-1"), r"BATCH_PER_PROCESS is -1; give"),
        (("PRETRAIN.ACCUMULATE", "3"), r"ACCUMULATE is 3, with 4 images for a process: .*ACCUMULATE to at most 2"),
        (("PRETRAIN.EVAL.PERIOD", "1"), r"EVAL.PERIOD is 1, and there is nothing to measure on; set PRETRAIN.HELD"),
        (("PRETRAIN.PROCESS_TIMEOUT", "1000000000000"), r"PROCESS_TIMEOUT is 1000000000000; give a whole number from"),
        (("PRETRAIN.BUDGET.AMOUNT", "1e18"), r"BUDGET is 1e\+18 steps, which are 4e\+18 images; make it smaller"),
        (("PRETRAIN.BUDGET.AMOUNT", "1e308", "PRETRAIN.BUDGET.UNIT", "epochs"), r"BUDGET is 1e\+308 epochs"),
    ],
)
def test_what_a_recipe_cannot_hold_is_refused(
    words: tuple[str, ...], message: str, small_config: Callable, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        pretrain(small_config(*words), tmp_path / "run", check=False)
    assert not (tmp_path / "run").exists()


def test_keys_of_the_recipe_reach_the_network(small_config: Callable, tmp_path: Path) -> None:
    """One run with all of them: its card has them, and its trunk is of the usual shapes."""
    keys = ("PRETRAIN.DROP_PATH", "0.2", "PRETRAIN.LOSS.SMOOTHING", "0.1")
    sizes = ("PRETRAIN.INPUT.PROGRESSIVE", "((0.5, 12),)")
    result = pretrain(small_config(*TINY, *keys, *sizes), tmp_path / "run", check=False)
    plain = pretrain(small_config(*TINY), tmp_path / "plain", check=False)
    (tensors, card), (others, _) = load_canonical(result.backbone), load_canonical(plain.backbone)
    assert {n: t.shape for n, t in tensors.items()} == {n: t.shape for n, t in others.items()}
    recipe = card.recipe["PRETRAIN"]
    assert (recipe["DROP_PATH"], recipe["LOSS"]) == (0.2, {"SMOOTHING": 0.1})
    assert recipe["INPUT"]["PROGRESSIVE"] == [[0.5, 12]]
    assert card.recipe["relative_pixels"] == pytest.approx(0.5 + 0.5 * (12 / 16) ** 2)
    cfg = small_config(*TINY, *keys).cfg
    model = build_model(cfg, planned_card(cfg).arch, 4, bias=0.0)
    assert model.head.smoothing == 0.1
    assert [m.drop_prob for m in model.modules() if isinstance(m, DropPath)][-1] == 0.2
