"""Configs from mappings, and overrides as mappings."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.config import load_config, open_config
from scaleprior.errors import UserError

BASE = "COCO-Detection/Base-RCNN-FPN.yaml"


def test_a_name_a_mapping_and_words_are_one_config() -> None:
    by_words = load_config(BASE, ["SOLVER.MAX_ITER", "10", "SEED", "3", "SOLVER.STEPS", "(4, 8)"])
    ways = (
        open_config(BASE, {"SOLVER": {"MAX_ITER": 10, "STEPS": (4, 8)}, "SEED": 3}),
        open_config(BASE, {"SOLVER.MAX_ITER": 10, "SEED": 3, "SOLVER.STEPS": [4, 8]}),
        open_config({"_BASE_": BASE, "SOLVER": {"MAX_ITER": 10}, "SEED": 3}, {"SOLVER.STEPS": (4, 8)}),
        open_config(load_config(BASE, ["SOLVER.MAX_ITER", "10"]), {"SEED": 3, "SOLVER.STEPS": (4, 8)}),
        open_config(Path("configs") / BASE, {"SOLVER.MAX_ITER": 10, "SEED": 3, "SOLVER": {"STEPS": (4, 8)}}),
    )
    for loaded in ways:
        assert loaded.cfg == by_words.cfg
        assert loaded.explicit == by_words.explicit  # the contract between weights and config rests on it
        assert loaded.cfg.is_frozen()
    assert open_config(None).explicit == frozenset()


def test_values_are_pythons_and_the_given_config_stays_as_it_is(tmp_path: Path) -> None:
    loaded = load_config(BASE)
    changed = open_config(loaded, {"MODEL.WEIGHTS": "1e3", "OUTPUT_DIR": tmp_path, "SEED": -5})
    assert changed.cfg.MODEL.WEIGHTS == "1e3"  # not read as a number
    assert str(tmp_path) == changed.cfg.OUTPUT_DIR
    assert changed.cfg.SEED == 0
    assert loaded.cfg.MODEL.WEIGHTS == ""
    assert loaded.cfg.is_frozen()


def test_errors_say_where_a_key_was_set() -> None:
    with pytest.raises(UserError, match=r"unknown config key SOLVER.MAX_ITR \(set in overrides\); did you mean"):
        open_config(BASE, {"SOLVER": {"MAX_ITR": 3}})
    with pytest.raises(UserError, match=r"SOLVER.MAX_ITER is 'many' \(set in config\)"):
        open_config({"SOLVER": {"MAX_ITER": "many"}})
    with pytest.raises(UserError, match=r"overrides is \['SEED', 1\]; give a mapping"):
        open_config(BASE, ["SEED", 1])  # type: ignore[arg-type]
