"""The batch and the rate that follow the number of processes, and docs/gpus.md, which shows them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from scaleprior.config import data_file, load_config
from scaleprior.config.batch import rate_factor, settled
from scaleprior.config.fingerprint import cell_settings, recipe_settings

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "gpus.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)\.yaml` \| (\d+) \| (\d+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)


def values(name: str, processes: int, *words: str) -> tuple[int, float]:
    node = settled(load_config(f"Pretrain/{name}.yaml", words).cfg, processes).PRETRAIN
    assert (node.BATCH_PER_PROCESS, node.REFERENCE_BATCH) == (0, 0)
    return node.BATCH_SIZE, node.OPTIMIZER.BASE_LR


@pytest.mark.parametrize(("name", "processes", "batch", "rate"), ROWS)
def test_the_table_of_the_page_is_what_the_configs_make(name: str, processes: str, batch: str, rate: str) -> None:
    assert values(name, int(processes)) == (int(batch), pytest.approx(float(rate), rel=1e-2))


def test_the_page_shows_the_recipes_on_one_four_eight_and_sixty_four() -> None:
    assert ROWS
    shown = dict.fromkeys(name for name, *_ in ROWS)
    assert [(name, count) for name, count, *_ in ROWS] == [(n, c) for n in shown for c in ("1", "4", "8", "64")]


@pytest.mark.parametrize(
    ("optimizer", "factor"),
    [("sgd", 4.0), ("rmsprop", 2.0), ("adamw", 2.0), ("lamb", 2.0)],  # 4 times the images: by hand
)
def test_rates_grow_with_the_batch_or_with_its_root(optimizer: str, factor: float) -> None:
    assert rate_factor(optimizer, 1024, 256) == factor
    assert rate_factor(optimizer, 64, 256) == 1 / factor
    words = ("PRETRAIN.OPTIMIZER.NAME", optimizer, "PRETRAIN.REFERENCE_BATCH", "256", "PRETRAIN.BATCH_SIZE", "1024")
    assert values("Base-Pretrain", 1, *words)[1] == 0.1 * factor
    # without a reference the rate stays, whatever the batch; without a batch a process the batch stays
    assert values("Base-Pretrain", 8, "PRETRAIN.BATCH_PER_PROCESS", "16") == (128, 0.1)
    assert values("Base-Pretrain", 8) == (64, 0.1)


def test_settling_is_done_once() -> None:
    cfg = load_config("Pretrain/R_50_modern.yaml").cfg
    before = cfg.dump()
    once = settled(cfg, 8)
    assert settled(once, 8) is once
    assert settled(once, 2) is once  # a run's config.yaml, taken again, is that run
    assert cfg.dump() == before
    assert once.is_frozen()
    plain = load_config("Pretrain/quickstart.yaml").cfg
    assert settled(plain, 8) is plain


def test_a_run_and_a_cell_of_one_process_are_what_they_were_without_the_rule() -> None:
    """Recipes of before (R_50_jft's hash is in test_fingerprint.py) keep their runs and their cells."""
    loaded = load_config("Pretrain/R_50_modern.yaml")
    off = load_config("Pretrain/R_50_modern.yaml", ["PRETRAIN.BATCH_PER_PROCESS", "0", "PRETRAIN.REFERENCE_BATCH", "0"])
    assert (off.cfg.PRETRAIN.BATCH_SIZE, off.cfg.PRETRAIN.OPTIMIZER.BASE_LR) == (256, 0.1)
    assert recipe_settings(loaded.cfg) == recipe_settings(off.cfg)
    assert cell_settings(loaded.cfg, loaded.explicit, "pretrain") == cell_settings(off.cfg, off.explicit, "pretrain")
    said = recipe_settings(settled(loaded.cfg, 4))["PRETRAIN"]
    assert (said["BATCH_SIZE"], said["OPTIMIZER"]["BASE_LR"]) == (1024, 0.4)
    assert not {"BATCH_PER_PROCESS", "REFERENCE_BATCH"} & set(said)


def test_every_recipe_but_the_papers_of_imagenet_follows_the_gpus() -> None:
    folder = data_file("configs", "Pretrain/quickstart.yaml").parent
    recipes = [p.stem for p in folder.glob("*.yaml") if re.match(r"R_|convnext_", p.stem)]
    assert len(recipes) >= 15
    for name in recipes:
        one, sixty_four = values(name, 1), values(name, 64)
        if name.endswith("_imagenet_paper"):
            assert one == sixty_four == (32, 0.01)
        else:
            assert sixty_four[0] == 64 * one[0]
            power = 1 if name.endswith("_modern") else 0.5
            assert sixty_four[1] == pytest.approx(one[1] * 64**power)
        # lengths that are not in steps follow by themselves
        assert (load_config(f"Pretrain/{name}.yaml").cfg.PRETRAIN.BUDGET.UNIT == "steps") == (one == sixty_four)


def test_the_batch_that_was_set_last_counts(tmp_path: Path) -> None:
    assert values("R_50_jft", 8) == (256, pytest.approx(0.001 * 8**0.5))  # its file has both, and means each process'
    assert values("R_50_jft", 8, "PRETRAIN.BATCH_SIZE", "64") == (64, pytest.approx(0.001 * 2**0.5))
    assert values("R_50_jft", 8, "PRETRAIN.BATCH_PER_PROCESS", "64") == (512, pytest.approx(0.004))
    assert values("R_50_jft", 8, "PRETRAIN.BATCH_SIZE", "64", "PRETRAIN.BATCH_PER_PROCESS", "16") == (128, 0.002)
    assert values("R_50_jft", 8, "PRETRAIN.BATCH_PER_PROCESS", "0") == (32, 0.001)
    file = tmp_path / "mine.yaml"
    base = data_file("configs", "Pretrain/R_50_jft.yaml")
    file.write_text(f"_BASE_: {base}\nPRETRAIN: {{BATCH_SIZE: 128, REFERENCE_BATCH: 0}}\n")
    node = settled(load_config(file).cfg, 8).PRETRAIN
    assert (node.BATCH_SIZE, node.OPTIMIZER.BASE_LR) == (128, 0.001)
    # what was dumped sorted, with both keys, is read as it was meant
    file.write_text(load_config("Pretrain/R_50_jft.yaml").cfg.dump())
    assert load_config(file).cfg == load_config("Pretrain/R_50_jft.yaml").cfg
