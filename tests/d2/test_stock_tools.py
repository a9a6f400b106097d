"""Detectron2's own tools, each in a process of its own, without ScalePrior and with its plugin: the same to the bit.

Without it a backbone comes as ``scaleprior backbone export`` writes it, with it as the canonical file.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from scaleprior.backbones import ResNetSpec, config_lines, export_backbone
from scaleprior.backbones.weights import load_canonical
from tests.d2.conftest import HALF, backbone_file
from tests.detect.conftest import make_coco

CHECKOUT = Path(detectron2.__file__).resolve().parents[1]
if not (CHECKOUT / "tools" / "train_net.py").is_file():
    pytest.skip(f"this Detectron2 came without its tools ({CHECKOUT / 'tools'})", allow_module_level=True)

# Imports once and forks for each tool, which is then a process of its own at a tenth of the time. Those without the
# plugin come first: neither they nor what they are forked from has seen ScalePrior.
DRIVER = """
import json, os, random, runpy, sys, traceback
import numpy, torch
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "scaleprior":
            raise ModuleNotFoundError(f"blocked: {name}")
blocker = Blocker()
sys.meta_path.insert(0, blocker)
import detectron2.engine, detectron2.evaluation, detectron2.modeling, detectron2.utils.visualizer
codes = []
for plugin, folder, jobs in json.loads(sys.argv[1]):
    if plugin:
        sys.meta_path.remove(blocker)
        import scaleprior.d2
    else:
        assert not [name for name in sys.modules if name.split(".")[0] == "scaleprior"]
    os.chdir(folder)
    for name, words in jobs.items():
        child = os.fork()
        if child:
            codes.append([plugin, name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])])
            continue
        said = os.open(f"{name}.txt", os.O_WRONLY | os.O_CREAT)
        os.dup2(said, 1), os.dup2(said, 2)
        sys.argv, code = words, 1
        random.seed(0), numpy.random.seed(0), torch.manual_seed(0)  # the demo's colours, what is seeded with the time
        sys.path.insert(0, os.path.dirname(words[0]))
        try:
            runpy.run_path(words[0], run_name="__main__")
            code = 0
        except SystemExit as e:
            code = int(e.code or 0)
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
print(json.dumps(codes))
"""
# Basic blocks have no 1x1 whose stride there is to be said.
LAZY_FILE = """
from detectron2.config import LazyConfig
base = LazyConfig.load({file!r})
del base.model.backbone.bottom_up.stages.stride_in_1x1
model, train, dataloader, optimizer, lr_multiplier = (
    base[key] for key in ("model", "train", "dataloader", "optimizer", "lr_multiplier")
)
"""
YAML = [
    *("MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2, "SOLVER.BASE_LR", 1e-5, "SEED", 5),
    *("DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MAX_SIZE_TRAIN", 64),
    *("INPUT.MIN_SIZE_TEST", 64, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 16, "MODEL.RPN.POST_NMS_TOPK_TEST", 16),
    *("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8, "MODEL.ROI_HEADS.SCORE_THRESH_TEST", 0.0, "VERSION", 2),
]
LAZY = [
    *("train.device=cpu", "train.seed=5", "train.max_iter=2", "train.eval_period=2", "train.checkpointer.period=2"),
    *("model.backbone.bottom_up.stages.depth=18", "model.backbone.top_block.in_channels=512"),
    *("model.head.conv_dims=[256]", f"model.pixel_mean={list(HALF)}", f"model.pixel_std={list(HALF)}"),
    *("model.input_format=RGB", "dataloader.train.mapper.image_format=RGB", "dataloader.train.total_batch_size=2"),
    *("dataloader.train.num_workers=0", "dataloader.test.num_workers=0", "optimizer.lr=0.00001"),
    "dataloader.train.mapper.augmentations.0.short_edge_length=[64]",
    "dataloader.test.mapper.augmentations.0.short_edge_length=64",
]


def data(folder: Path) -> None:
    """A COCO 2017 of four images, with COCO's 80 classes, laid out as Detectron2 wants it."""

    def as_coco(content: dict[str, Any]) -> None:
        things = [c for c in COCO_CATEGORIES if c["isthing"]]
        content["categories"] = [{"id": c["id"], "name": c["name"]} for c in things]

    path, root = make_coco(folder / "made", images=4, change=as_coco)
    (folder / "coco" / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (folder / "coco" / split).symlink_to(root)
        (folder / "coco" / "annotations" / f"instances_{split}.json").write_bytes(path.read_bytes())


def jobs(folder: Path, weights: dict[str, str], words: list[str], demo: Path) -> dict[str, list[str]]:
    """Name -> the tool's words; each writes into ``folder/NAME``."""

    def yaml(name: str, tool: str, config: str, start: str, *flags: str) -> list[str]:
        file = CHECKOUT / "configs" / "COCO-Detection" / config
        own = ["MODEL.WEIGHTS", start, "OUTPUT_DIR", folder / name]
        return [str(w) for w in [CHECKOUT / "tools" / tool, *flags, "--config-file", file, *words, *YAML, *own]]

    trained = str(folder / "train_net" / "model_final.pth")
    fpn, lazy = "faster_rcnn_R_50_FPN_1x.yaml", folder.parent / "lazy.py"
    drawn = yaml("demo", "train_net.py", fpn, trained)[3:]
    return {
        "train_net": yaml("train_net", "train_net.py", fpn, weights["R-50"]),
        "c4": yaml("c4", "train_net.py", "faster_rcnn_R_50_C4_1x.yaml", weights["R-50"]),
        "evaluation": yaml("evaluation", "train_net.py", fpn, trained, "--eval-only"),
        "plain": yaml("plain", "plain_train_net.py", fpn, weights["R-50"]),
        "lazy": [
            *(str(CHECKOUT / "tools" / "lazyconfig_train_net.py"), "--config-file", str(lazy), *LAZY),
            *(f"train.init_checkpoint={weights['R-18']}", f"train.output_dir={folder / 'lazy'}"),
        ],
        "demo": [
            *(str(demo), "--config-file", str(CHECKOUT / "configs" / "COCO-Detection" / fpn)),
            *("--input", str(folder.parent / "made" / "images" / "000.png"), "--output", str(folder / "drawn.png")),
            *("--confidence-threshold", "0.0", "--opts", *drawn),
        ],
    }


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, Path]:
    """Whether the plugin was there -> the folder with what all the tools left."""
    top = tmp_path_factory.mktemp("tools")
    data(top)
    demo = top / "demo.py"  # its import is of the place where its authors keep it
    demo.write_text((CHECKOUT / "demo" / "demo.py").read_text().replace("vision.fair.detectron2.demo.", ""))
    (top / "predictor.py").write_bytes((CHECKOUT / "demo" / "predictor.py").read_bytes())
    (top / "lazy.py").write_text(
        LAZY_FILE.format(file=str(CHECKOUT / "configs" / "COCO-Detection" / "retinanet_R_50_FPN_1x.py"))
    )
    canonical, exported, words = {}, {}, []
    for name, spec in {"R-18": ResNetSpec(depth=18), "R-50": None}.items():
        file = top / f"{name}.safetensors"
        card = backbone_file(file, spec) if spec else backbone_file(file)
        canonical[name], exported[name] = str(file), str(file.with_suffix(".pkl"))
        export_backbone(load_canonical(file)[0], card, file.with_suffix(".pkl"))
        lines = config_lines(card, exported[name])
        words = [word.strip("'") for line in lines for word in line.split(" ", 1)]
    environment = {**os.environ, "DETECTRON2_DATASETS": str(top), "OMP_NUM_THREADS": "1"}
    found = {False: top / "without", True: top / "with"}
    todo = []
    for plugin, weights in ((False, exported), (True, canonical)):
        found[plugin].mkdir()
        todo.append([plugin, str(found[plugin]), jobs(found[plugin], weights, words, demo)])
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(todo)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for plugin, name, code in json.loads(done.stdout.splitlines()[-1]):
        assert code == 0, f"{name}, plugin {plugin}: {(found[plugin] / f'{name}.txt').read_text()[-4000:]}"
    return found


def losses(folder: Path) -> list[dict[str, float]]:
    """Detectron2's metrics without what is measured by a clock."""
    lines = map(json.loads, (folder / "metrics.json").read_text().splitlines())
    return [{k: v for k, v in line.items() if "time" not in k and "second" not in k} for line in lines]


def scores(folder: Path, name: str) -> list[str]:
    """The lines of AP that a tool prints at its end."""
    printed = (folder / f"{name}.txt").read_text().splitlines()
    return [line.split("copypaste: ")[1] for line in printed if "copypaste: " in line]


@pytest.mark.parametrize("name", ["train_net", "c4", "plain", "lazy"])
def test_a_tool_trains_the_same_with_and_without_the_plugin(ran: dict[bool, Path], name: str) -> None:
    with_, without = (torch.load(ran[plugin] / name / "model_final.pth")["model"] for plugin in (True, False))
    assert list(with_) == list(without)
    assert all(torch.equal(with_[key], without[key]) for key in without)
    # as texts, because nan is not itself
    assert repr(losses(ran[True] / name)) == repr(losses(ran[False] / name))
    assert scores(ran[True], name) == scores(ran[False], name)
    assert scores(ran[False], name)[:2] == ["Task: bbox", "AP,AP50,AP75,APs,APm,APl"]


@pytest.mark.parametrize("plugin", [False, True])
@pytest.mark.parametrize("name", ["train_net", "c4", "plain"])
def test_the_log_counts_the_trunk(ran: dict[bool, Path], name: str, plugin: bool) -> None:
    log = (ran[plugin] / name / "log.txt").read_text()
    if plugin:
        assert "265 of its 265 tensors fill the trunk" in log
        return
    # it counts layers: 53 convolutions, each with the 4 tensors of its norm; C4 has some of them in the heads
    assert sum(int(line.rsplit(": ", 1)[1]) for line in log.splitlines() if "Total num" in line) == 53
    missing = log.split("are not found in the checkpoint:")[1].split(": Starting training")[0]
    assert "box_predictor" in missing  # the heads, and only they
    assert "backbone.bottom_up" not in missing
    assert "res5" not in missing


def test_a_trained_detector_is_evaluated_the_same(ran: dict[bool, Path]) -> None:
    assert scores(ran[True], "evaluation") == scores(ran[False], "evaluation")
    assert scores(ran[True], "evaluation") == scores(ran[True], "train_net") != []


def test_the_demo_draws_the_same_picture(ran: dict[bool, Path]) -> None:
    assert (ran[True] / "drawn.png").read_bytes() == (ran[False] / "drawn.png").read_bytes()
