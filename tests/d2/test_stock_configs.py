"""Every config.yaml that is written here, read by stock Detectron2 in a process that cannot import ScalePrior."""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.detectron2
pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.config import CfgNode, get_cfg
from detectron2.engine import default_setup

from scaleprior.config import load_config
from scaleprior.config.dotted import flat_config, set_key
from scaleprior.config.saved import write_config
from scaleprior.d2 import with_backbone
from scaleprior.d2.engine import Detectron2Engine
from scaleprior.d2.plan import default_config, plan_training
from scaleprior.detect.engines import get_engine
from scaleprior.pretrain import pretrain
from tests.d2.conftest import backbone_file, tiny
from tests.detect.conftest import tiny_config
from tests.pretrain.conftest import corpus_folder, small_config  # noqa: F401 (fixtures)

STOCK = """
import json, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "scaleprior":
            raise ModuleNotFoundError(f"blocked: {name}")
sys.meta_path.insert(0, Blocker())
from detectron2.config import get_cfg
from detectron2.utils.file_io import PathManager
for path in map(str.strip, sys.stdin):
    cfg = get_cfg()
    try:
        cfg.merge_from_file(path)
        said = [cfg.MODEL.RESNETS.DEPTH, cfg.MODEL.DEVICE, list(cfg.DATASETS.TRAIN), cfg.dump()]
    except Exception as e:
        said = f"{type(e).__name__}: {e}"
    print(json.dumps(said), flush=True)
"""
CONFIG = "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml"


@pytest.fixture(scope="module")
def stock_reads() -> Iterator[Callable[[Path], Any]]:
    """What stock Detectron2 makes of a folder's config.yaml: [depth, device, sets, its dump], or the error's text."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command, pipe = [sys.executable, "-c", STOCK], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answered = process.stdin, process.stdout

        def reads(folder: Path) -> Any:
            asked.write(f"{folder / 'config.yaml'}\n")
            return json.loads(answered.readline())

        yield reads


def test_stock_detectron2_reads_what_runs_leave(
    tmp_path: Path,
    coco: Sequence[str],
    small_config: Callable,  # noqa: F811
    stock_reads: Callable[[Path], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    backbone_file(tmp_path / "w.safetensors")
    ours, theirs, pretrained, framed = (tmp_path / name for name in ("ours", "theirs", "pretrained", "framed"))
    pixels = ["MODEL.PIXEL_MEAN", "[127.5, 127.5, 127.5]", "MODEL.PIXEL_STD", "[127.5, 127.5, 127.5]"]
    loaded = tiny_config("FPN", [*coco, *pixels, "SOLVER.MAX_ITER", "1", "SCALEPRIOR.DROP_BAD", "images"])
    get_engine("torchvision").train(loaded, tmp_path / "w.safetensors", ours)
    loaded = tiny("FPN", [*coco, "SOLVER.MAX_ITER", "1", "SCALEPRIOR.DROP_BAD", "images"])
    Detectron2Engine().train(loaded, tmp_path / "w.safetensors", theirs)
    pretrain(small_config("PRETRAIN.BUDGET.AMOUNT", "1"), pretrained)
    words = load_config(None, ["PRETRAIN.CORPUS", str(small_config().cfg.PRETRAIN.CORPUS)], defaults=default_config())
    write_config(words.cfg, framed, complete=["PRETRAIN"])

    for folder in (ours, theirs, pretrained, framed):
        said = stock_reads(folder)
        assert not isinstance(said, str), said
        again = load_config(folder / "scaleprior.yaml", defaults=default_config()).cfg
        assert said[0] == again.MODEL.RESNETS.DEPTH
        assert list(again.DATASETS.TRAIN) == said[2]
    # and what stock makes of it is the config of the run, but for our keys
    plan = plan_training(loaded, tmp_path / "w.safetensors", theirs)
    assert yaml.safe_load(stock_reads(theirs)[3]) == stock_values(plan.cfg)


def stock_values(cfg: CfgNode) -> dict:
    """Of the keys that stock Detectron2 has."""
    ours = dict(flat_config(cfg))
    stock = get_cfg()
    for name, _ in list(flat_config(stock)):
        set_key(stock, name, ours[name])
    return yaml.safe_load(stock.dump())


@pytest.mark.usefixtures("detectron2_loggers")
def test_stock_trainers_leave_a_config_that_stock_detectron2_reads(
    tmp_path: Path, stock_reads: Callable[[Path], Any]
) -> None:
    """Their default_setup writes ``cfg.dump()``."""
    backbone_file(tmp_path / "w.safetensors")
    backbone_file(tmp_path / "eps.safetensors", norm_eps=1e-3)
    plain, other = tmp_path / "plain", tmp_path / "other"
    for folder, weights in ((plain, "w.safetensors"), (other, "eps.safetensors")):
        cfg = with_backbone(CONFIG, tmp_path / weights)
        cfg.OUTPUT_DIR = str(folder)
        default_setup(cfg, argparse.Namespace())
    assert stock_reads(plain)[0] == 50
    # its norms have an eps that stock Detectron2 cannot build: it has to stumble, not to build another function
    assert stock_reads(other) == "KeyError: 'Non-existent config key: MODEL.NORM_EPS'"
    # a program that declares our keys reads either, whole
    again = default_config()
    again.merge_from_file(str(other / "config.yaml"))
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())  # a tuple in a tuple comes back as a list
    assert again.MODEL.NORM_EPS == 1e-3


@pytest.mark.parametrize(
    "copied",
    [lambda cfg: cfg.clone(), copy.deepcopy, lambda cfg: pickle.loads(pickle.dumps(cfg)), lambda cfg: cfg],
    ids=["clone", "deepcopy", "pickle", "itself"],
)
def test_a_copy_dumps_as_stock_detectron2_reads_it(copied: Callable, tmp_path: Path) -> None:
    backbone_file(tmp_path / "w.safetensors")
    cfg = with_backbone(CONFIG, tmp_path / "w.safetensors")
    cfg.freeze()
    same = copied(cfg)
    assert same == cfg
    assert same.is_frozen()
    stock = get_cfg()
    stock.merge_from_other_cfg(CfgNode.load_cfg(same.dump()))
    assert yaml.safe_load(stock.dump()) == stock_values(cfg)
    assert (same.SCALEPRIOR.DROP_BAD, same.MODEL.TIMM.MODEL) == ("none", "")  # they are there all the same


def test_a_key_of_ours_that_is_set_stays_in_the_dump(tmp_path: Path) -> None:
    cfg = default_config()
    cfg.merge_from_list(["MODEL.TIMM.MODEL", "convnext_tiny", "SCALEPRIOR.DROP_BAD", "images"])
    said = CfgNode.load_cfg(cfg.dump())
    assert (dict(said.MODEL.TIMM), dict(said.SCALEPRIOR)) == ({"MODEL": "convnext_tiny"}, {"DROP_BAD": "images"})
    assert "PRETRAIN" not in said
    again = default_config()
    again.merge_from_other_cfg(said)
    assert yaml.safe_load(again.dump()) == yaml.safe_load(cfg.dump())
