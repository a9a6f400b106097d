"""An exported backbone under Detectron2's own tools/train_net.py, in a process that cannot import ScalePrior."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.detectron2, pytest.mark.slow]
detectron2 = pytest.importorskip("detectron2", reason="Detectron2 is not installed")

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES

from scaleprior.backbones import config_lines, export_backbone
from scaleprior.backbones.weights import load_canonical
from tests.d2.conftest import backbone_file
from tests.detect.conftest import make_coco

TOOL = Path(detectron2.__file__).resolve().parents[1] / "tools" / "train_net.py"
# Detectron2's tool imports its model_zoo only for test-time augmentation; a modern setuptools has no pkg_resources.
BLOCKED = """
import runpy, sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "scaleprior":
            raise ModuleNotFoundError(f"blocked: {name}")
sys.meta_path.insert(0, Blocker())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.skipif(not TOOL.is_file(), reason=f"this Detectron2 came without its tools ({TOOL})")
@pytest.mark.parametrize("config", ["faster_rcnn_R_50_FPN_1x.yaml", "faster_rcnn_R_50_C4_1x.yaml"])
def test_stock_detectron2_trains_from_an_exported_backbone(config: str, tmp_path: Path) -> None:
    def as_coco(data: dict[str, Any]) -> None:
        things = [c for c in COCO_CATEGORIES if c["isthing"]]
        data["categories"] = [{"id": c["id"], "name": c["name"]} for c in things]

    path, root = make_coco(tmp_path / "made", images=4, change=as_coco)
    home = tmp_path / "datasets" / "coco"
    (home / "annotations").mkdir(parents=True)
    for split in ("train2017", "val2017"):
        (home / split).symlink_to(root)
        (home / "annotations" / f"instances_{split}.json").write_bytes(path.read_bytes())
    card = backbone_file(tmp_path / "w.safetensors")
    export_backbone(load_canonical(tmp_path / "w.safetensors")[0], card, tmp_path / "w.pkl")
    said = [word.strip("'") for line in config_lines(card, str(tmp_path / "w.pkl")) for word in line.split(" ", 1)]
    words = [
        *said,
        *("MODEL.DEVICE", "cpu", "OUTPUT_DIR", tmp_path / "out", "SOLVER.MAX_ITER", 2, "SOLVER.IMS_PER_BATCH", 2),
        *("SOLVER.BASE_LR", 1e-5, "DATALOADER.NUM_WORKERS", 0, "INPUT.MIN_SIZE_TRAIN", "(64,)"),
        *("INPUT.MAX_SIZE_TRAIN", 64, "INPUT.MIN_SIZE_TEST", 64, "MODEL.RPN.POST_NMS_TOPK_TRAIN", 16),
        *("MODEL.RPN.POST_NMS_TOPK_TEST", 16, "MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", 8),
    ]
    file = TOOL.parents[1] / "configs" / "COCO-Detection" / config
    environment = {**os.environ, "DETECTRON2_DATASETS": str(tmp_path / "datasets"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", BLOCKED, str(TOOL), "--config-file", str(file), *map(str, words)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, cwd=tmp_path, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    log = (tmp_path / "out" / "log.txt").read_text()
    # it counts layers: 53 convolutions, each with the 4 tensors of its norm; C4 has some of them in the heads
    matched = [int(line.rsplit(": ", 1)[1]) for line in log.splitlines() if "Total num" in line]
    assert sum(matched) == 53, log
    missing = log.split("are not found in the checkpoint:")[1].split(": Starting training")[0]
    assert "box_predictor" in missing  # the heads, and only they
    assert "backbone.bottom_up" not in missing
    assert "res5" not in missing
    last = json.loads((tmp_path / "out" / "metrics.json").read_text().splitlines()[-1])
    assert "bbox/AP" in last
