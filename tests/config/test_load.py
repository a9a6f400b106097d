"""Reading Detectron2-style YAML: bases, overrides, what was set on purpose, and refusals."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaleprior.config import data_file, get_cfg, load_config
from scaleprior.config.fingerprint import cell_settings, training_settings
from scaleprior.config.keys.key import TORCHVISION
from scaleprior.config.keys.table import check_values
from scaleprior.errors import UserError


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_later_sources_win_and_all_of_them_count_as_explicit(tmp_path: Path) -> None:
    write(tmp_path / "base.yaml", "MODEL:\n  RESNETS:\n    DEPTH: 101\nSOLVER:\n  MAX_ITER: 10\n")
    file = write(tmp_path / "leaf.yaml", "_BASE_: base.yaml\nSOLVER:\n  MAX_ITER: 20\n  STEPS: (5, 8)\n")
    loaded = load_config(file, ["SOLVER.BASE_LR", "1", "INPUT.FORMAT", "RGB"])
    assert loaded.cfg.MODEL.RESNETS.DEPTH == 101
    assert loaded.cfg.SOLVER.MAX_ITER == 20
    assert loaded.cfg.SOLVER.STEPS == (5, 8)
    assert loaded.cfg.SOLVER.BASE_LR == 1.0
    assert type(loaded.cfg.SOLVER.BASE_LR) is float
    expected = {"MODEL.RESNETS.DEPTH", "SOLVER.MAX_ITER", "SOLVER.STEPS", "SOLVER.BASE_LR", "INPUT.FORMAT"}
    assert loaded.explicit == expected
    assert loaded.cfg.is_frozen()


def test_defaults_stay_untouched_between_calls() -> None:
    load_config(None, ["SOLVER.MAX_ITER", "7"])
    assert get_cfg().SOLVER.MAX_ITER == 40000  # Detectron2's default
    assert load_config(None).explicit == frozenset()


@pytest.mark.parametrize(("words", "seed"), [([], 0), (["SEED", "-1"], 0), (["SEED", "0"], 0), (["SEED", "7"], 7)])
def test_a_negative_seed_is_0_so_that_a_run_is_repeatable(words: list[str], seed: int) -> None:
    assert get_cfg().SEED == -1  # Detectron2's default
    assert seed == load_config(None, words).cfg.SEED


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SOLVER:\n  MAX_ITR: 5\n", r"unknown config key SOLVER.MAX_ITR .*did you mean SOLVER.MAX_ITER"),
        ("SOLVER:\n  NESTEROV: 3\n", r"SOLVER.NESTEROV is 3 .*expected bool"),
        ("SOLVER:\n  MAX_ITER: lots\n", r"SOLVER.MAX_ITER is 'lots' .*a str; expected int"),
        ("MODEL:\n  KEYPOINT_ON: True\n", r"MODEL.KEYPOINT_ON: True .*needs the detectron2 engine"),
        ("MODEL:\n  ROI_MASK_HEAD:\n    NAMES: x\n", r"unknown config key MODEL.ROI_MASK_HEAD.NAMES"),
        ("MODEL: 3\n", r"MODEL is a section and no key, it is 3 .*set what is in it: MODEL.DEVICE, MODEL.WEIGHTS, "),
        ("SOLVER:\n", r"SOLVER is a section and no key, it is None .*SOLVER.BASE_LR, .*SOLVER.CLIP_GRADIENTS, "),
        ("SOLVER:\n  AMP: True\n", r"SOLVER.AMP is a section .*it is True .*; set what is in it: SOLVER.AMP.ENABLED$"),
        ("MODEL: {RPN: 3}\n", r"MODEL.RPN is a section and no key, it is 3"),
        ("MODEL: {RETINANET: 3}\n", r"MODEL.RETINANET is a section .*MODEL.RETINANET.NUM_CLASSES"),
        ("solver: {base_lr: 1}\n", r"unknown config key solver.base_lr .*did you mean SOLVER.BASE_LR\?"),
        ("Base_lr: 1\n", r"unknown config key Base_lr .*did you mean SOLVER.BASE_LR\?"),
        ("- a\n", r"holds a list, not a mapping"),
        ("a: [\n", r"cannot be read"),
        ("_BASE_: gone.yaml\n", r"gone.yaml"),
        ("_BASE_: x.yaml\n", r"is its own _BASE_"),
    ],
)
def test_bad_files_name_key_value_and_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        load_config(write(tmp_path / "x.yaml", text))
    assert "x.yaml" in str(caught.value)


def test_detectron2_keys_at_detectron2_defaults_change_nothing_and_pass(tmp_path: Path) -> None:
    loaded = load_config(write(tmp_path / "x.yaml", "MODEL:\n  RETINANET:\n    NUM_CLASSES: 80\n"))
    assert "RETINANET" not in loaded.cfg.MODEL


def test_keys_of_parts_that_are_off_do_nothing_as_in_detectron2(tmp_path: Path) -> None:
    """Detectron2's own Base-RCNN-FPN.yaml describes a mask head that its box-only children never build."""
    text = "MODEL:\n  ROI_KEYPOINT_HEAD:\n    NUM_KEYPOINTS: 4\n  ROI_MASK_HEAD: {NAME: Mine, NUM_CONV: 4}\n"
    loaded = load_config(write(tmp_path / "x.yaml", f"{text}SOLVER:\n  MAX_ITER: 5\n"))
    assert loaded.cfg.SOLVER.MAX_ITER == 5
    assert "ROI_KEYPOINT_HEAD" not in loaded.cfg.MODEL
    check_values(loaded.cfg, TORCHVISION)
    plain = load_config(None, ["SOLVER.MAX_ITER", "5"])
    assert training_settings(loaded.cfg) == training_settings(plain.cfg)
    # the cells of version 1 say only that the keys were set
    cell, known = (cell_settings(each.cfg, each.explicit, "finetune") for each in (loaded, plain))
    assert cell["config"] == known["config"]
    with pytest.raises(UserError, match=r"MODEL.ROI_MASK_HEAD.NAME is 'Mine'; that needs the detectron2 engine"):
        check_values(load_config(tmp_path / "x.yaml", ["MODEL.MASK_ON", "True"]).cfg, TORCHVISION)


def test_overrides_come_in_pairs() -> None:
    with pytest.raises(UserError, match="pairs KEY VALUE, got 1"):
        load_config(None, ["SOLVER.MAX_ITER"])


def test_a_missing_shipped_file_lists_near_names() -> None:
    with pytest.raises(UserError, match="quickstart"):
        data_file("configs", "studies/quickstrat.yaml")


@pytest.mark.parametrize("name", ["mine.py", "lazy/COCO-Detection/faster_rcnn_fpn.py"])
def test_a_lazy_config_is_called_one(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "mine.py", '"""One\'s own."""\nmodel = {}\n')
    with pytest.raises(UserError, match=rf"{name} is a LazyConfig, and what runs here .*; take a YAML"):
        load_config(name)
