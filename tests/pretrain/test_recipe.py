"""What a recipe says beside optimiser and schedule: a batch that follows the processes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from scaleprior.backbones import read_card
from scaleprior.pretrain import pretrain
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
