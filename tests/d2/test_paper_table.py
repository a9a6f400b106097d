"""docs/detectron2.md's table of the paper's detector: each value is that of the config that ships, here and there."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from scaleprior.config import add_scaleprior_config, data_file, load_config
from scaleprior.config.dotted import flat_config
from scaleprior.config.load import detectron2_defaults

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "detectron2.md").read_text(encoding="utf-8")
TABLE = PAGE.partition("## The paper's detector and this one")[2].partition("\n## ")[0]
LINES = re.findall(r"^\| ([^|]+)<br>`([A-Z0-9_.]+)` \| ([^|]+) \| `(.+)` \| (.+) \| (.+) \|$", TABLE, re.MULTILINE)
ROWS = [(what, paper, key, *values) for what, key, paper, *values in LINES]
NOT_KNOWN = "not known to us"
# Of which the paper says something; a row that moves here needs its source.
OF_THE_PAPER = {
    "MODEL.RESNETS.OUT_FEATURES", "MODEL.ROI_HEADS.NAME", "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION",
    "INPUT.MIN_SIZE_TRAIN", "INPUT.MIN_SIZE_TEST", "TEST.AUG.ENABLED", "MODEL.PIXEL_MEAN", "MODEL.PIXEL_STD",
    "MODEL.RESNETS.NORM", "DATASETS.TEST",
}  # fmt: skip


def _in_detectron2(path: Path) -> dict[str, Any]:
    from detectron2.config import get_cfg

    cfg = get_cfg()
    add_scaleprior_config(cfg)
    cfg.merge_from_file(str(path), allow_unsafe=True)
    return dict(flat_config(cfg))


def test_the_table_is_read_whole() -> None:
    lines = [line for line in TABLE.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 2 >= 40
    assert len({key for _, _, key, *_ in ROWS}) == len(ROWS)


def test_the_papers_column_says_what_is_known_or_that_it_is_not() -> None:
    assert {key for _, paper, key, *_ in ROWS if paper != NOT_KNOWN} == OF_THE_PAPER


def test_the_values_here_are_those_of_the_config_that_ships() -> None:
    """Read as the torchvision engine reads it, so that this is checked without Detectron2, too."""
    ours = dict(flat_config(load_config("COCO-Detection/faster_rcnn_R_50_C4_jft10m.yaml").cfg))
    for _, _, key, here, *_ in ROWS:
        value = ours[key] if key in ours else detectron2_defaults()[key]
        assert ast.literal_eval(here) == value, key


@pytest.mark.detectron2
def test_detectron2s_values_are_those_of_its_config_and_of_the_file_that_sets_them() -> None:
    from scaleprior.d2.zoo_files import zoo_file

    leaf, base = "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", "Base-RCNN-C4.yaml"
    theirs = _in_detectron2(zoo_file(leaf))
    set_in = {
        key: name for name in (base, leaf) for key, _ in flat_config(yaml.unsafe_load(zoo_file(name).read_text()))
    }
    for _, _, key, here, there, file in ROWS:
        value = ast.literal_eval(here if there == "the same" else there.strip("`"))
        assert value == theirs[key], key
        assert (there == "the same") == (ast.literal_eval(here) == theirs[key]), key
        assert file == set_in.get(key, "defaults.py"), key


@pytest.mark.detectron2
@pytest.mark.parametrize("kind", ["C4", "FPN"])
def test_no_other_key_differs_from_detectron2s_own(kind: str) -> None:
    from scaleprior.d2.zoo_files import zoo_file

    theirs = _in_detectron2(zoo_file(f"COCO-Detection/faster_rcnn_R_50_{kind}_1x.yaml"))
    ours = _in_detectron2(data_file("configs", f"COCO-Detection/faster_rcnn_R_50_{kind}_jft10m.yaml"))
    told = {key for _, _, key, _, there, _ in ROWS if there != "the same"}
    differing = {key for key in ours if ours[key] != theirs[key] and not key.startswith("MODEL.ROI_MASK_HEAD.")}
    assert differing - {"MODEL.WEIGHTS"} == told  # masks are off in both
