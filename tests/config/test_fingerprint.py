"""Fingerprints of runs: as they were before there was a table of keys, and moved only by what changes a result."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from fvcore.common.config import CfgNode

from scaleprior.config import Key, add_keys, fingerprint as module, get_cfg, load_config
from scaleprior.config.fingerprint import cell_settings, recipe_settings, training_settings
from scaleprior.config.keys import all_keys, find_key, table
from scaleprior.detect.fingerprint import run_fingerprint
from scaleprior.pretrain.recipe import recipe_fingerprint

_STAGES = ("pretrain", "finetune")

# Computed before there was a table: a finished or interrupted run of then is still known.
TRAINING = {
    "quickstart_FPN": "8bd85be11b889586275f5ffced75cdaf67d9cc57f2db89860783baccb7379de1",
    "faster_rcnn_R_101_C4_jft30m": "0cb7853177130822166dab114261783d1273e7d9b58d9c4928c37eed3c5a2481",
}
RECIPES = {
    "quickstart": "6b96d70fec883c4d6fd74fe68c6c7e04afdcb2b24b95708ada7b768283b6cc72",
    "R_50_jft": "ea424cb381a80040a5c2cc1c48a2ed017c90ff3d7f18b516eac1ed7105924249",
}


@pytest.mark.parametrize("name", TRAINING)
def test_fine_tuning_runs_keep_their_fingerprints(name: str) -> None:
    seed = "0" if name == "quickstart_FPN" else "3"
    cfg = load_config(f"COCO-Detection/{name}.yaml", ["SEED", seed]).cfg
    assert run_fingerprint(cfg, None, []) == TRAINING[name]


@pytest.mark.parametrize("name", RECIPES)
def test_pretraining_runs_keep_their_fingerprints(name: str) -> None:
    for words in ([], ["PRETRAIN.LOADER.NUM_WORKERS", "3", "PRETRAIN.HELD_OUT.CORPUS", "x", "OUTPUT_DIR", "y"]):
        assert recipe_fingerprint(load_config(f"Pretrain/{name}.yaml", words).cfg, a=1) == RECIPES[name]


@pytest.mark.detectron2
def test_pretraining_is_one_run_under_detectron2s_config_and_ours() -> None:
    pytest.importorskip("detectron2", reason="Detectron2 is not installed")
    from scaleprior.d2.plan import default_config

    cfg = load_config("Pretrain/quickstart.yaml", defaults=default_config()).cfg
    assert recipe_fingerprint(cfg, a=1) == RECIPES["quickstart"]


def test_what_the_table_calls_neutral_is_in_no_fingerprint_of_a_run() -> None:
    neutral = {key.name for key in all_keys() if not key.changes or key.by_content}
    assert {"DATALOADER.NUM_WORKERS", "PRETRAIN.HELD_OUT.CORPUS", "OUTPUT_DIR", "SCALEPRIOR.RESULTS"} <= neutral
    assert not neutral & set(training_settings(get_cfg()))
    assert not neutral & set(dict(module.flat_config(recipe_settings(get_cfg()))))


def test_history_speaks_of_keys_that_the_table_leaves_out() -> None:
    """Frozen keys are neutral or count by content; the others listed belong to another stage."""
    for frozen in module._FROZEN.values():
        for name in frozen:
            key = find_key(name)
            assert key is not None
            assert not key.changes or key.by_content
    for names, stage in ((module._OF_EVALUATION, "finetune"), (module._OF_DETECTION, "pretrain")):
        for name in names:
            key = find_key(name)
            assert key is not None
            assert stage not in key.changes
    for name in (*module._LATER_IN_RECIPES, *module._NOT_IN_RECIPES):  # otherwise the list would do nothing
        key = find_key(name)
        assert key is not None
        assert "pretrain" in key.changes


def test_later_keys_enter_only_when_they_are_not_at_their_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "_table", dict(table._table))
    cfg = get_cfg()
    before = training_settings(cfg), recipe_settings(cfg)
    add_keys(cfg, [Key("PRETRAIN.LATER", (1, 2), "Later.", changes=_STAGES, engines=("pretraining",), since=2)])
    assert (training_settings(cfg), recipe_settings(cfg)) == before
    cfg.PRETRAIN.LATER = (1, 3)
    assert training_settings(cfg) == {**before[0], "PRETRAIN.LATER": (1, 3)}
    assert recipe_settings(cfg)["PRETRAIN"] == {**before[1]["PRETRAIN"], "LATER": [1, 3]}


def test_a_row_for_a_key_that_detectron2_had_moves_no_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its whole config held the key without a row; ours did not hold it, but took it at Detectron2's default, or of a
    part that is off."""
    monkeypatch.setattr(table, "_table", dict(table._table))
    switch = Key("MODEL.LOOK_ON", False, "A part.", changes=("finetune",), engines=("torchvision",), since=2)
    width = replace(switch, name="MODEL.LOOK_HEAD.WIDTH", default=1, part_of="MODEL.LOOK_ON")

    def fingerprints(cfg: CfgNode) -> list[Any]:
        return [training_settings(cfg), *(cell_settings(cfg, [switch.name, width.name], s) for s in _STAGES)]

    theirs, ours = get_cfg(), get_cfg()
    theirs.MODEL.LOOK_ON, theirs.MODEL.LOOK_HEAD, theirs.MODEL.OTHER = False, CfgNode({"WIDTH": 4}), 1
    before = fingerprints(theirs), fingerprints(ours)
    add_keys(ours, [switch, width])
    monkeypatch.setattr(module, "DETECTION_KEYS", (*module.DETECTION_KEYS, switch, width))
    assert (fingerprints(theirs), fingerprints(ours)) == before
    ours.MODEL.LOOK_HEAD.WIDTH = 4
    assert fingerprints(ours) == before[1]
    ours.MODEL.LOOK_ON = True
    on = {"MODEL.LOOK_ON": True, "MODEL.LOOK_HEAD.WIDTH": 4}
    assert training_settings(ours) == {**before[1][0], **on}
    ours.MODEL.LOOK_HEAD.WIDTH = 1
    assert training_settings(ours) == {**before[1][0], "MODEL.LOOK_ON": True}
