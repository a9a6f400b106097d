"""What a recipe says beside optimiser and schedule: a batch that follows the processes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scaleprior.backbones import read_card
from scaleprior.backbones.zoo.catalogue import load_catalogue
from scaleprior.config import data_file, load_config
from scaleprior.pretrain import pretrain
from scaleprior.pretrain.plan import planned_card
from tests.pretrain.test_run import weights


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
