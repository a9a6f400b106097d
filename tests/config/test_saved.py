"""A run's config on disk: Detectron2's keys in one file, ours in another, and the whole from either name."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from scaleprior.config import load_config
from scaleprior.config.dotted import flat_config
from scaleprior.config.load import detectron2_defaults
from scaleprior.config.saved import write_config

WORDS = [
    *("SCALEPRIOR.DATASETS", "[['mine', 'a.json', 'images']]", "SCALEPRIOR.DROP_BAD", "images"),
    *("MODEL.BACKBONE.NAME", "build_timm_fpn_backbone", "MODEL.TIMM.MODEL", "convnext_tiny"),
    *("PRETRAIN.FRACTION.IMAGES", "40", "PRETRAIN.AMP", "off", "DATASETS.TRAIN", "('mine',)", "SEED", "3"),
]


def _names(path: Path) -> set[str]:
    return {name for name, _ in flat_config(yaml.safe_load(path.read_text()))}


def test_each_file_has_its_keys_and_either_name_means_the_whole(tmp_path: Path) -> None:
    loaded = load_config("COCO-Detection/faster_rcnn_R_101_FPN.yaml", WORDS)
    write_config(loaded.cfg, tmp_path)
    stock, own = tmp_path / "config.yaml", tmp_path / "scaleprior.yaml"
    assert _names(stock) <= set(detectron2_defaults())
    assert own.read_text().startswith("_BASE_: config.yaml\n")
    set_here = {"SCALEPRIOR.DATASETS", "SCALEPRIOR.DROP_BAD", "MODEL.TIMM.MODEL", "PRETRAIN.FRACTION.IMAGES"}
    assert _names(own) == {"_BASE_", *set_here}
    for name in (own, stock):
        assert load_config(name).cfg == loaded.cfg
    (tmp_path / "child.yaml").write_text("_BASE_: config.yaml\nSEED: 4\n")
    child = load_config(tmp_path / "child.yaml").cfg
    assert (child.SEED, child.SCALEPRIOR.DROP_BAD) == (4, "images")


def test_what_is_ours_in_a_key_of_theirs_is_left_out(tmp_path: Path) -> None:
    """Detectron2 has no device "auto"; without the key each side takes its own default."""
    write_config(load_config(None).cfg, tmp_path)
    assert "MODEL.DEVICE" not in _names(tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml").cfg.MODEL.DEVICE == "auto"
    write_config(load_config(None, ["MODEL.DEVICE", "cpu"]).cfg, tmp_path)
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["MODEL"]["DEVICE"] == "cpu"


def test_an_eps_that_a_stock_reader_would_not_build_is_left_for_it_to_refuse(tmp_path: Path) -> None:
    loaded = load_config(None, ["MODEL.NORM_EPS", "0.001"])
    write_config(loaded.cfg, tmp_path)
    assert _names(tmp_path / "config.yaml") - set(detectron2_defaults()) == {"MODEL.NORM_EPS"}
    assert load_config(tmp_path / "scaleprior.yaml").cfg == loaded.cfg


def test_a_section_can_be_complete(tmp_path: Path) -> None:
    cfg = load_config(None).cfg
    write_config(cfg, tmp_path, complete=["PRETRAIN"])
    own = {name for name, _ in flat_config(cfg) if name.startswith("PRETRAIN.")}
    assert _names(tmp_path / "scaleprior.yaml") == {"_BASE_", *own}
    assert load_config(tmp_path / "config.yaml").cfg == cfg


def test_nothing_of_an_earlier_run_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(load_config(None, WORDS).cfg, tmp_path)
    usual = load_config(None).cfg
    write_config(usual, tmp_path)
    assert load_config(tmp_path / "config.yaml").cfg == usual
    # nor by one that is cut short
    write_config(load_config(None, WORDS).cfg, tmp_path)
    from scaleprior.config import saved

    real = saved.write_text

    def dies_after_the_first(path: Path, text: str) -> None:
        real(path, text)
        if path.name == "config.yaml":
            raise KeyboardInterrupt

    monkeypatch.setattr(saved, "write_text", dies_after_the_first)
    with pytest.raises(KeyboardInterrupt):
        write_config(usual, tmp_path)
    assert load_config(tmp_path / "config.yaml").cfg == usual


def test_folders_of_before_and_files_of_others_are_read_as_they_are(tmp_path: Path) -> None:
    whole = load_config(None, WORDS).cfg
    (tmp_path / "config.yaml").write_text(whole.dump())  # what a run left before there was a second file
    assert load_config(tmp_path / "config.yaml").cfg == whole
    (tmp_path / "scaleprior.yaml").write_text("SEED: 9\n")  # somebody's own
    assert load_config(tmp_path / "config.yaml").cfg.SEED == 3
